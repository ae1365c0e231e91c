# SPDX-License-Identifier: Apache-2.0
"""Interface of a bag's files in any format: channels, messages, and their compression."""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from binascii import crc32
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
from lz4.frame import LZ4FrameDecompressor
from rosbags.serde import SerdeError

from anomaly_seg_ros.errors import BagError, first_line

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor as ZstdDecompressor
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdDecompressor as ZstdDecompressor
    from backports.zstd import ZstdError

CDR = "cdr"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Largest unpacked chunk or message in bytes, far above what recorders write (mostly 1 MB) and any
# image: a few kilobytes could unpack to gigabytes.
LARGEST_CHUNK = 1 << 29
# What parsers and decompressors raise on damaged files, found by truncating and overwriting bags
# at random.
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
    """A recorder's connection; a topic may have several, one for each QoS of its publishers.

    Attributes:
        id: Unique in its file.
        topic: The topic's name.
        type: Message type, such as "sensor_msgs/msg/Image"; empty if the file does not name it.
        encoding: Serialisation of the messages, "cdr" for ROS 2.
        messages: Number of messages.
    """

    id: int
    topic: str
    type: str
    encoding: str
    messages: int


class Place(NamedTuple):
    """Location of a message in its file.

    Attributes:
        channel: The id of its channel.
        recorded_ns: Time of recording in nanoseconds.
        key: What the storage needs to find it.
    """

    channel: int
    recorded_ns: int
    key: Any


class Storage(ABC):
    """An open file of a bag.

    Attributes:
        path: The file.
        channels: All channels, in the file's order.
    """

    path: Path
    channels: list[Channel]

    @abstractmethod
    def scan(self, channels: frozenset[int], size: int) -> Iterator[tuple[Place, bytes]]:
        """Yields the messages of some channels and their first ``size`` bytes, in any order.

        Raises:
            BagError: The file is damaged.
        """

    @abstractmethod
    def read(self, place: Place) -> bytes:
        """Reads a whole message.

        Raises:
            BagError: The file is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the file; more calls do nothing."""


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns the exceptions of damaged files into BagError; makes BagErrors name the file."""
    try:
        yield
    except BagError as error:
        text = str(error)
        if text.startswith(str(path)):
            raise
        raise BagError(f"{path}: {text}") from error
    except _DAMAGE as error:
        raise BagError(f"{path}: damaged bag ({first_line(error)})") from error


def unpacked_message(data: bytes) -> bytes:
    """Decompresses a message if the recorder compressed it.

    No serialised message starts like compressed data: its first byte is 0.

    Raises:
        BagError: The message is incomplete, or larger than any message.
        ZstdError: The message is damaged.
    """
    return _unpack_zstd(data, LARGEST_CHUNK) if data[:4] == ZSTD_MAGIC else data


def unpacked_chunk(data: bytes, compression: str, size: int, crc: int) -> bytes:
    """Decompresses the records of an MCAP chunk.

    Args:
        data: The chunk as stored.
        compression: "zstd", "lz4" or "".
        size: Unpacked size that the chunk states; no more is unpacked.
        crc: Checksum of the records; 0 for none.

    Raises:
        BagError: The size or checksum is wrong, the chunk too large, or its compression unknown.
        ZstdError, RuntimeError: The chunk is damaged.
    """
    if compression and size > LARGEST_CHUNK:
        raise BagError(f"a chunk of {size} bytes, more than {LARGEST_CHUNK}")
    if compression == "zstd":
        records = _unpack_zstd(data, size)
    elif compression == "lz4":
        records = _unpack_lz4(data, size)
    elif not compression:
        records = data
    else:
        raise BagError(f"unsupported compression {compression!r} (supported: zstd, lz4)")
    if len(records) != size:
        raise BagError(f"damaged (a chunk of {len(records)} bytes states {size})")
    if crc and crc32(records) != crc:
        raise BagError("damaged (checksum of a chunk)")
    return records


def _unpack_zstd(data: bytes, most: int) -> bytes:
    """Unpacks all frames of ``data``, up to ``most`` bytes."""
    parts, left, size = [], data, 0
    while left:
        decompressor = ZstdDecompressor()
        parts.append(decompressor.decompress(left, max_length=most + 1 - size))
        size += len(parts[-1])
        if size > most:
            raise BagError(f"compressed data unpack to more than the {most} bytes stated")
        if not decompressor.eof:
            raise BagError("damaged (compressed data end too early)")
        left = decompressor.unused_data
    return b"".join(parts)


def _unpack_lz4(data: bytes, most: int) -> bytes:
    decompressor = LZ4FrameDecompressor()
    unpacked = decompressor.decompress(data, max_length=most + 1)
    if len(unpacked) > most:
        raise BagError(f"compressed data unpack to more than the {most} bytes stated")
    return unpacked
