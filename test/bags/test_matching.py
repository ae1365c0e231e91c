# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from anomaly_seg_ros.bags.matching import Times, match

MS = 10**6


def times(stamps, recorded=None) -> Times:
    return Times(list(stamps), list(stamps) if recorded is None else list(recorded))


def steps(count: int, step: int, first: int = 0) -> list[int]:
    return [first + i * step for i in range(count)]


def test_equal_stamps_match_however_late_they_were_recorded():
    frames = times(steps(1000, 10, 7))
    late = random.Random(1).sample(range(1000), 400)
    found = match(frames, times([frames.stamps[i] for i in late], steps(400, 10, 10**6)))
    assert list(found.frame_of) == late
    assert (found.matched, found.unmatched, found.largest_ns) == (400, 0, 0)
    assert found.nearest_ns is None


def test_without_a_tolerance_a_nanosecond_is_too_much():
    frames = times(steps(6, 100))
    found = match(frames, times([stamp + i % 2 for i, stamp in enumerate(frames.stamps)]))
    assert found.frame_of == (0, -1, 2, -1, 4, -1)
    assert (found.unmatched, found.nearest_ns) == (3, 1)


@pytest.mark.parametrize(("tolerance", "matched"), [(4, 0), (5, 10), (60, 10)])
def test_within_a_tolerance_the_nearest_frame_is_taken(tolerance, matched):
    frames = times(steps(10, 50, 1000))
    found = match(frames, times([stamp + 5 for stamp in frames.stamps]), tolerance)
    assert found.matched == matched
    if matched:
        assert found.frame_of == tuple(range(10))
        assert found.largest_ns == 5
    else:
        assert found.nearest_ns == 5


def test_each_frame_has_one_message_and_the_closest_pair_goes_first():
    frames = times([100, 110, 200])
    found = match(frames, times([104, 101, 199, 198]), 20)
    # 101 takes 100, so 104 takes 110; 199 takes 200, and for 198 nothing is left.
    assert found.frame_of == (1, 0, 2, -1)
    assert found.nearest_ns == 2


def test_an_exact_stamp_is_never_given_to_another_message():
    found = match(times([100, 103]), times([101, 103]), 5)
    assert found.frame_of == (0, 1)


def test_against_trying_every_pair():
    """Greedy by distance, as a plain implementation does it."""
    generator = random.Random(3)
    for _ in range(50):
        frames = generator.sample(range(1, 200), 20)
        truth = generator.sample(range(1, 200), 15)
        tolerance = generator.choice([0, 1, 4, 30])
        found = match(times(frames), times(truth), tolerance)
        pairs = sorted(
            (abs(f - t), f, t) for f in frames for t in truth if abs(f - t) <= tolerance
        )
        used_f, used_t, distances = set(), set(), []
        for distance, f, t in pairs:
            if f not in used_f and t not in used_t:
                used_f.add(f)
                used_t.add(t)
                distances.append(distance)
        mine = [abs(frames[f] - truth[t]) for t, f in enumerate(found.frame_of) if f >= 0]
        assert sorted(mine) == distances
        taken = [f for f in found.frame_of if f >= 0]
        assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("stamp", [0, 5])
@pytest.mark.parametrize("delay", [0, 1, 15 * MS])
def test_without_stamps_the_clearly_nearest_record_time_counts(stamp, delay):
    recorded = steps(6, 100 * MS, 10**18)
    frames = times([stamp] * 6, recorded)
    truth = times([stamp] * 4, [at + delay for at in recorded[1:5]])
    found = match(frames, truth)
    assert found.by_record_time
    assert found.frame_of == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "recorded",
    [
        [at + 50 * MS for at in steps(6, 100 * MS)],  # in the middle
        [at + 30 * MS for at in steps(6, 100 * MS)],
        [at + 1 for at in steps(6, 100 * MS, 300 * MS)],  # the last ones behind all frames
        [0, 1, 2, 3, 4, 5],  # all at the first frame
    ],
)
def test_without_stamps_a_doubt_leaves_all_unmatched(recorded):
    found = match(times([0] * 6, steps(6, 100 * MS)), times([0] * 6, recorded))
    assert found.frame_of == (-1,) * 6
    assert (found.unmatched, found.nearest_ns) == (6, None)


def test_truth_without_stamps_beside_frames_with_them():
    recorded = steps(5, 100 * MS, 10**18)
    found = match(times(recorded), times([0] * 5, [at + 3 for at in recorded]))
    assert found.by_record_time
    assert found.frame_of == (0, 1, 2, 3, 4)


def test_the_first_frames_before_the_clock_was_set():
    stamps = [0, 0, 0, *steps(7, 100 * MS, 10**18)]
    recorded = steps(10, 100 * MS, 10**18)
    found = match(times(stamps, recorded), times(stamps, [at + 2 for at in recorded]))
    assert found.frame_of == tuple(range(10))
    late = match(times(stamps, recorded), times(stamps, [at + 45 * MS for at in recorded]))
    assert late.frame_of == (-1, -1, -1, 3, 4, 5, 6, 7, 8, 9)
    assert late.unmatched == 3


def test_a_recording_of_a_loop_repeats_its_stamps():
    stamps = steps(20, 100 * MS, 10**18) * 2
    recorded = steps(40, 100 * MS, 10**18)
    found = match(times(stamps, recorded), times(stamps, [at + 5 * MS for at in recorded]))
    assert found.frame_of == tuple(range(40))


def test_a_frame_that_was_sent_twice_and_a_mask_that_was_sent_twice():
    frames = times([1, 2, 2, 3, 4], [10, 20, 21, 30, 40])
    found = match(frames, times([1, 2, 3, 3], [11, 29, 31, 39]))
    # The last mask of a stamp counts, as a newer one replaces an older one.
    assert found.frame_of == (0, 1, -1, 3)
    assert (found.matched, found.repeated, found.unmatched) == (3, 1, 0)


def test_nothing_to_match():
    assert match(times([]), times([1, 2])).unmatched == 2
    assert match(times([1, 2]), times([])).messages == 0
    assert match(times([0]), times([0])).frame_of == (0,)
