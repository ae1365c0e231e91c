"""Whether an image's stamp says when it was taken. No ROS here."""

from __future__ import annotations

from dataclasses import dataclass

# Clocks that were set at all agree better than this, and no frame is that late.
SAME_CLOCK_S = 3600.0
# Seconds since 1970 that no clock shows unless it counts from a boot or a simulation's start.
_COUNTED_FROM_ZERO_S = 1e8

NO_STAMP, REPEATED, WENT_BACK = "no stamp", "stamp repeated", "stamp went back"


@dataclass(frozen=True)
class StampVerdict:
    """What a stamp is worth.

    Attributes:
        age: Seconds from the stamp to now, negative if it lies ahead; None where the stamp says
            nothing about it.
        fault: ``NO_STAMP``, ``REPEATED``, ``WENT_BACK`` or empty.
        reason: For the fault, in words.
        other_clock: How it differs from the node's clock and what to do, if it is of another one.
    """

    age: float | None
    fault: str = ""
    reason: str = ""
    other_clock: str = ""


class StampCheck:
    """Compares the stamps of one camera with each other and with the node's clock."""

    def __init__(self) -> None:
        self._last: int | None = None

    def judge(self, stamp: int, now: int) -> StampVerdict:
        """Judges the next image's stamp.

        Args:
            stamp: In nanoseconds.
            now: The node's clock, in nanoseconds.
        """
        if stamp == 0:
            return StampVerdict(
                None, NO_STAMP, "the driver sets no stamp (0); ages count from the arrival"
            )
        last, self._last = self._last, stamp
        age = (now - stamp) / 1e9
        other_clock = _other_clock(stamp / 1e9, now / 1e9) if abs(age) > SAME_CLOCK_S else ""
        if last is not None and stamp <= last:
            fault = REPEATED if stamp == last else WENT_BACK
            reason = f"{last / 1e9:.9f} s was followed by {stamp / 1e9:.9f} s"
        else:
            fault = reason = ""
        tells = not other_clock and fault != REPEATED
        return StampVerdict(age if tells else None, fault, reason, other_clock)


def _other_clock(stamp: float, now: float) -> str:
    """Both in seconds."""
    both = f"the newest says {stamp:.1f} s, the node's clock {now:.1f} s"
    if now == 0:
        remedy = "the node has 'use_sim_time' and got no /clock: publish it, or unset that"
    elif now < _COUNTED_FROM_ZERO_S:
        remedy = (
            "the node's clock is simulated: unset 'use_sim_time', or have the frames stamped "
            "with /clock"
        )
    elif stamp < _COUNTED_FROM_ZERO_S:
        remedy = (
            "theirs counts from a simulation's start or a boot: set 'use_sim_time' and publish "
            "/clock, or have the driver stamp with the system's time"
        )
    else:
        remedy = (
            "for recorded data set 'use_sim_time' and play it with --clock; otherwise set the "
            "clocks of both machines (NTP, PTP)"
        )
    return f"{both}; {remedy}"
