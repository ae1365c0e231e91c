"""What tells frames apart and sets the pace of a replay, where stamps do not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from anomaly_seg_ros.bags.matching import Times

# A step of the clock, not a pause: so many times the usual interval, and at least a second.
_STEP_FACTOR = 10
_STEP_NS = 1_000_000_000


def fault_of(stamps: Sequence[int]) -> str | None:
    """What keeps the stamps of a camera from telling frames apart, in words; None if they rise."""
    if all(first < second for first, second in pairwise(stamps)):
        return None
    stamped = [stamp for stamp in stamps if stamp]
    if not stamped:
        return f"the driver sets no stamp: all {len(stamps)} are zero"
    if len(set(stamps)) == 1:
        return f"the driver does not set the stamp: all {len(stamps)} are {_seconds(stamps[0])}"
    faults = []
    if zeros := len(stamps) - len(stamped):
        faults.append(f"the driver sets no stamp on {zeros} of {len(stamps)} frames")
    if repeated := len(stamped) - len(set(stamped)):
        faults.append(f"{repeated} of {len(stamps)} stamps repeat another one")
    back = [first - second for first, second in pairwise(stamped) if second < first]
    if back:
        faults.append(f"stamps go back {_times(len(back))}, by up to {_seconds(max(back))}")
    return "; ".join(faults)


def identities(times: Times, frame_rate: float) -> tuple[list[int], str]:
    """Rising stamps for frames whose own ones do not rise.

    Args:
        times: Of the frames.
        frame_rate: In Hz, for recorders that do not set the time either.

    Returns:
        A stamp in nanoseconds for each frame, and what it is.
    """
    if all(first < second for first, second in pairwise(times.recorded)):
        return list(times.recorded), "the times of recording"
    first = times.recorded[0] if times.recorded else 0
    step = round(1e9 / frame_rate)
    stamps = [first + i * step for i in range(len(times.recorded))]
    return stamps, f"even steps of {frame_rate:g} Hz"


def play_times(stamps: Sequence[int], recorded: Sequence[int]) -> list[int]:
    """When to play each frame, in nanoseconds from the first one.

    By the stamps; where their clock was set forward in between, by the time of recording.

    Args:
        stamps: Rising.
        recorded: Times of recording of the same frames.
    """
    if not stamps:
        return []
    steps = [second - first for first, second in pairwise(stamps)]
    usual = max(_STEP_NS, _STEP_FACTOR * median(steps)) if steps else 0
    times = [0]
    for step, (first, second) in zip(steps, pairwise(recorded), strict=True):
        if step > usual and 0 <= second - first < step:
            step = second - first
        times.append(times[-1] + step)
    return times


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.9f}".rstrip("0").rstrip(".") + " s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
