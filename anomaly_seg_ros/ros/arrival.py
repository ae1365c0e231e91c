"""An image message and the moment at which it came."""

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
