# SPDX-License-Identifier: Apache-2.0
"""A seed gives one plan, on every machine, with enough of every fault."""

from __future__ import annotations

from collections import Counter

import pytest

from anomaly_seg_ros.errors import ParameterError
from tools.fault_replay.plan import EVENT_INTERVALS, FRAME_SHARES, burst_size, make_plan, plan_hash


def test_a_seed_gives_one_plan():
    assert plan_hash(make_plan(5, 500, 1)) == plan_hash(make_plan(5, 500, 1))
    assert plan_hash(make_plan(5, 500, 1)) != plan_hash(make_plan(6, 500, 1))


@pytest.mark.parametrize(("frames", "minimum"), [(300, 3), (5000, 1), (40000, 3)])
def test_every_kind_occurs_and_the_frames_are_as_many_as_asked_for(frames, minimum):
    plan = make_plan(1, frames, minimum)
    counts = Counter(action.name for action in plan)
    for name in (*FRAME_SHARES, *EVENT_INTERVALS):
        assert counts[name] >= minimum, name
    twice = counts["duplicated"] + counts["reordered"]
    published = sum(counts[name] for name in (*FRAME_SHARES, "plain")) + twice
    published += sum(burst_size(a.variant) for a in plan if a.name == "burst")
    assert published >= 0.95 * frames
    assert plan[-1].name == "checkpoint"


def test_too_few_frames_are_refused():
    with pytest.raises(ParameterError, match="too few"):
        make_plan(0, 50, 3)


def test_bursts_stay_within_their_limits():
    sizes = {burst_size(variant) for variant in range(1000)}
    assert (min(sizes), max(sizes)) == (5, 64)
