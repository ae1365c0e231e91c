# SPDX-License-Identifier: Apache-2.0
"""Writes MCAP files record by record, whatever other writers put into or leave out of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from zlib import crc32

import lz4.frame

try:
    from compression import zstd
except ImportError:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
PACK = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def schema(number: int, name: str, encoding: str = "ros2msg", data: bytes = b"x") -> bytes:
    return record(3, struct.pack("<H", number) + text(name) + text(encoding) + text(data))


def channel(number: int, schema_number: int, topic: str, encoding: str = "cdr") -> bytes:
    head = struct.pack("<HH", number, schema_number)
    return record(4, head + text(topic) + text(encoding) + text(b""))


def message(number: int, time: int, data: bytes) -> bytes:
    return record(5, struct.pack("<HIQQ", number, 0, time, time) + data)


@dataclass
class McapBytes:
    """A file of chunks.

    Attributes:
        profile: Of the header.
        compression: Of the chunks.
        has_index: Whether message indexes follow each chunk.
        unindexed: Channels that the indexes leave out.
        chunked: Whether there are chunks.
        checksum: Whether chunks have one.
    """

    profile: str = "ros2"
    compression: str = ""
    has_index: bool = True
    unindexed: tuple[int, ...] = ()
    chunked: bool = True
    checksum: bool = True
    body: bytes = field(default=b"")

    def chunk(self, definitions: bytes, messages: list[tuple[int, int, bytes]]) -> None:
        """Appends definitions and messages of (channel, time, data)."""
        records, index = definitions, {}
        for number, time, data in messages:
            index.setdefault(number, []).append((time, len(records)))
            records += message(number, time, data)
        if not self.chunked:
            self.body += records
            return
        times = [time for _, time, _ in messages] or [0]
        packed = PACK.get(self.compression, bytes)(records)
        crc = crc32(records) if self.checksum else 0
        self.body += record(
            6,
            struct.pack("<QQQI", min(times), max(times), len(records), crc)
            + text(self.compression)
            + struct.pack("<Q", len(packed))
            + packed,
        )
        if self.has_index:
            for number in index.keys() - set(self.unindexed):
                entries = index[number]
                pairs = b"".join(struct.pack("<QQ", *entry) for entry in entries)
                self.body += record(7, struct.pack("<H", number) + text(pairs))

    def finished(self, summary: bytes = b"") -> bytes:
        """The file; ``summary`` are records between the data and the footer."""
        data = MAGIC + record(1, text(self.profile) + text("test")) + self.body
        data += record(15, bytes(4))
        start = len(data) if summary else 0
        return data + summary + record(2, struct.pack("<QQI", start, 0, 0)) + MAGIC
