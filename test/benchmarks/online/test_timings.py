# SPDX-License-Identifier: Apache-2.0
"""Medians, percentiles and ratios."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.online import timings


def test_summary() -> None:
    values = list(range(1, 102))  # 1 .. 101: the percentiles are 1 + p
    random.Random(0).shuffle(values)
    summary = timings.summary(values)
    assert summary.pop("p10") == pytest.approx(11)
    assert summary == {"median": 51, "p99": pytest.approx(100), "mean": 51, "frames": 101}


def test_nothing_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no times"):
        timings.summary([])


def _case(**medians: float) -> dict[str, Any]:
    return {"contenders": {name: {"ms": {"median": ms}} for name, ms in medians.items()}}


def test_each_overhead_is_over_the_network_that_the_node_runs() -> None:
    case = _case(
        network=100, eager_network=300, plain_network=400, node=110, eager_node=320, naive_node=460
    )
    assert timings.ratios(case) == {
        "overhead_node_ms": 10,
        "overhead_eager_node_ms": 20,
        "overhead_naive_node_ms": 60,
        "node_minus_network_ms": 10,
        "node_over_network": pytest.approx(1.1),
        "naive_over_node": pytest.approx(460 / 110),
        "eager_node_over_node": pytest.approx(320 / 110),
        "overhead_naive_over_node": 6,
        "overhead_naive_over_eager_node": 3,
    }


def test_no_ratio_to_an_overhead_of_nothing() -> None:
    ratios = timings.ratios(_case(network=100, node=99, plain_network=100, naive_node=150))
    assert ratios["overhead_node_ms"] == -1
    assert "overhead_naive_over_node" not in ratios


def test_contenders_that_did_not_run_are_left_out() -> None:
    assert timings.ratios(_case(network=100, naive_node=200)) == {}


def test_transport_is_what_the_node_does_not_account_for() -> None:
    assert timings.transport_ms([100.0, 200.0], [80.0, 150.0], take=3.0) == [17.0, 47.0]
    with pytest.raises(ValueError, match="zip"):  # of other frames
        timings.transport_ms([100.0], [80.0, 150.0], take=3.0)
