"""What a file of a bag offers, whatever its format: channels, and messages to read one by one."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
from rosbags.serde import SerdeError

from anomaly_seg_ros.bags.compression import ZstdError
from anomaly_seg_ros.errors import BagError, first_line

CDR = "cdr"
# What parsers and decompressors raise on damaged files (found by truncating and overwriting bags
# at random).
_DAMAGE = (
    SerdeError,
    OSError,
    apsw.Error,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    ZstdError,
)


class Channel(NamedTuple):
    """One connection of a recorder: a topic may have several, one for each publisher's QoS.

    Attributes:
        id: In its file.
        topic: Name.
        type: Such as "sensor_msgs/msg/Image"; empty where the file does not say.
        encoding: How messages are serialised: "cdr" for ROS 2.
        count: Number of messages.
    """

    id: int
    topic: str
    type: str
    encoding: str
    count: int


class Place(NamedTuple):
    """Where a message lies.

    Attributes:
        channel: Id of its channel.
        recorded_ns: When it was recorded, in nanoseconds.
        key: For the storage.
    """

    channel: int
    recorded_ns: int
    key: Any


class Storage(ABC):
    """An open file of a bag.

    Attributes:
        path: The file.
        channels: All of them, in the file's order.
    """

    path: Path
    channels: list[Channel]

    @abstractmethod
    def scan(self, channels: frozenset[int], size: int) -> Iterator[tuple[Place, bytes]]:
        """Yields the messages of some channels and their first ``size`` bytes, in any order.

        Raises:
            BagError: Damaged.
        """

    @abstractmethod
    def read(self, place: Place) -> bytes:
        """A whole message.

        Raises:
            BagError: Damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the file; more calls do nothing."""


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns what a damaged file makes parsers raise into a BagError; names the file in others."""
    try:
        yield
    except BagError as error:
        text = str(error)
        if text.startswith(str(path)):
            raise
        raise BagError(f"{path}: {text}") from error
    except _DAMAGE as error:
        raise BagError(f"{path}: damaged bag ({first_line(error)})") from error
