# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from anomaly_seg_ros.bags.index import fault_of, identities, play_times
from anomaly_seg_ros.bags.matching import Times

SECOND = 10**9


@pytest.mark.parametrize(
    ("stamps", "words"),
    [
        ([0, 0, 0], "the driver sets no stamp: all 3 are zero"),
        ([7 * SECOND] * 4, "the driver does not set the stamp: all 4 are 7 s"),
        ([0, 0, 5, 6], "the driver sets no stamp on 2 of 4 frames"),
        ([5, 0, 6], "the driver sets no stamp on 1 of 3 frames"),
        ([1, 2, 2, 3], "1 of 4 stamps repeat another one"),
        ([5 * SECOND, 9 * SECOND, 6 * SECOND], "stamps go back once, by up to 3 s"),
        ([9, 5, 7, 6], "stamps go back 2 times, by up to 0.000000004 s"),
    ],
)
def test_faults_are_named(stamps, words):
    assert fault_of(stamps) == words


@pytest.mark.parametrize("stamps", [[], [0], [3], [0, 1, 2], [-5, 0, 5]])
def test_rising_stamps_have_no_fault(stamps):
    assert fault_of(stamps) is None


def test_record_times_stand_in_where_they_rise():
    times = Times([0, 0, 0], [5, 7, 9])
    assert identities(times, 10.0) == ([5, 7, 9], "the times of recording")
    stamps, what = identities(Times([0, 0, 0], [5, 5, 9]), 10.0)
    assert stamps == [5, 100_000_005, 200_000_005]
    assert what == "even steps of 10 Hz"


def test_a_replay_keeps_the_pace_of_the_stamps_not_of_the_recorder():
    stamps = [SECOND * i // 10 for i in range(20)]
    assert play_times(stamps, [10**18 + 1000 * i for i in range(20)]) == stamps
    pause = [*stamps, *(stamp + 60 * SECOND for stamp in stamps[1:])]
    assert play_times(pause, [10**18 + stamp for stamp in pause]) == pause


def test_a_replay_does_not_wait_for_a_clock_that_was_set_forward():
    stamps = [SECOND * i // 10 for i in range(20)]
    recorded = [10**18 + stamp for stamp in stamps]
    assert play_times(stamps[:10] + [x + 10**17 for x in stamps[10:]], recorded) == stamps
    assert play_times([], []) == []
    assert play_times([5], [5]) == [0]
