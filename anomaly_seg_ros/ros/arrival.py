"""When an image came, and whether its stamp says when it was taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

# No message waits longer than this in a queue: somebody has set the system's clock.
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Arrival:
    """A message and when it came.

    Attributes:
        message: As taken from the middleware.
        time: Seconds of ``time.perf_counter``: when the middleware received it where that tells,
            otherwise when it handed it over.
        stamp_tells: Whether the header's stamp says when the image was taken, by the node's clock.
    """

    message: Image | CompressedImage
    time: float
    stamp_tells: bool = True

    @classmethod
    def now(cls, message: Image | CompressedImage, received_ns: int = 0) -> Arrival:
        """A message that is handed over now.

        Args:
            message: The same.
            received_ns: When the middleware received it, in nanoseconds of the system's clock;
                0 if it does not tell.
        """
        now = time.perf_counter()
        waited = (time.time_ns() - received_ns) / 1e9
        return cls(message, now - waited if 0 <= waited < LONGEST_WAIT_S else now)


def receiver(deliver: Callable[[Arrival], None]) -> Callable[..., None]:
    """The callback of a subscription that hands its messages to ``deliver``."""
    if not hasattr(Subscription, "CallbackType"):  # Humble tells nothing but the message
        return lambda message: deliver(Arrival.now(message))

    def receive(message: Image | CompressedImage, info: Mapping[str, int]) -> None:
        deliver(Arrival.now(message, info["received_timestamp"]))

    return receive


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
