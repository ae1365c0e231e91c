"""When the node tries again after a loss."""

from __future__ import annotations

from anomaly_seg_ros.ros.device_loss import LONGEST_DELAY_S, Recovery


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_twice_as_long_each_time_and_gives_up():
    clock = Clock()
    recovery = Recovery(clock)
    delays = []
    while (delay := recovery.schedule(allowed=8)) is not None:
        delays.append(delay)
        assert not recovery.is_due()
        clock.now += delay - 0.01
        assert not recovery.is_due()
        clock.now += 0.01
        assert recovery.is_due()
        assert not recovery.is_due()  # once
    assert delays == [1, 2, 4, 8, 16, 32, LONGEST_DELAY_S, LONGEST_DELAY_S]
    assert not recovery.is_due()


def test_none_are_made_unless_allowed_or_after_a_cancel():
    clock = Clock()
    recovery = Recovery(clock)
    assert recovery.schedule(allowed=0) is None
    assert recovery.schedule(allowed=1) == 1
    recovery.cancel()
    clock.now += 1000
    assert not recovery.is_due()


def test_begins_anew_after_success():
    clock = Clock()
    recovery = Recovery(clock)
    for _ in range(3):
        recovery.schedule(allowed=3)
        clock.now += 1000
        assert recovery.is_due()
    assert recovery.schedule(allowed=3) is None
    recovery.succeeded()
    assert recovery.schedule(allowed=3) == 1
