# SPDX-License-Identifier: Apache-2.0
"""When an image came, and whether its stamp says when it was taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

# No message waits longer in a queue: the system's clock must have been set.
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Arrival:
    """An image message and the time at which it arrived.

    Attributes:
        message: As taken from the middleware.
        time: ``time.perf_counter()`` when the middleware received it, or when it handed it over
            if it does not tell.
        stamp_tells: The header's stamp is a usable capture time on the node's clock.
    """

    message: Image | CompressedImage
    time: float
    stamp_tells: bool = True

    @classmethod
    def now(cls, message: Image | CompressedImage, received_ns: int = 0) -> Arrival:
        """Wraps a message that the middleware hands over now.

        Args:
            message: The message.
            received_ns: When the middleware received it, in nanoseconds of the system's clock;
                0 if it does not tell.
        """
        now = time.perf_counter()
        waited = (time.time_ns() - received_ns) / 1e9
        return cls(message, now - waited if 0 <= waited < LONGEST_WAIT_S else now)


def receiver(deliver: Callable[[Arrival], None]) -> Callable[..., None]:
    """Returns a subscription callback that hands messages to ``deliver``."""
    if not hasattr(Subscription, "CallbackType"):  # Humble passes only the message
        return lambda message: deliver(Arrival.now(message))

    def receive(message: Image | CompressedImage, info: Mapping[str, int]) -> None:
        deliver(Arrival.now(message, info["received_timestamp"]))

    return receive


# Clocks that were ever set differ by less, and no frame is that late.
SAME_CLOCK_S = 3600.0
# Seconds since 1970; only clocks that count from a boot or a simulation's start show less.
_COUNTED_FROM_ZERO_S = 1e8

NO_STAMP, REPEATED, WENT_BACK = "no stamp", "stamp repeated", "stamp went back"


@dataclass(frozen=True)
class StampVerdict:
    """The result of checking a stamp.

    Attributes:
        age: Seconds from the stamp to now, negative if it lies ahead; None if the stamp does not
            tell.
        fault: ``NO_STAMP``, ``REPEATED``, ``WENT_BACK`` or empty.
        reason: The fault in words.
        other_clock: If the stamp is from another clock: how it differs from the node's, and what
            to do.
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
            stamp: The stamp in nanoseconds.
            now: Time on the node's clock, in nanoseconds.
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
    """Explains how the stamp differs from the clock; both in seconds."""
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
