# SPDX-License-Identifier: Apache-2.0
"""Reads MCAP files (https://mcap.dev/spec), with or without a summary.

Only the data section counts: a summary may lack any of its parts. Channels of other encodings
than ROS 2's are listed, but their messages are not read.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from anomaly_seg_ros.bags.storage import Channel, Place, Storage, damage, unpacked_chunk
from anomaly_seg_ros.errors import BagError

MCAP_MAGIC = b"\x89MCAP"
_VERSION = b"0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 2, 3, 4, 5, 6, 7
_STATISTICS, _DATA_END = 0x0B, 0x0F
_RECORD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_INDEX_ENTRY = 16
# Size of the cache of unpacked chunks: a frame and its ground truth rarely lie further apart.
_CACHED_BYTES = 1 << 23
_CUT_SHORT = (
    "cut short: the recorder did not finish this file ({}); "
    "`mcap recover {} -o NEW.mcap` keeps what is whole"
)


@dataclass
class _Chunk:
    """A chunk's place in the file, and the number of messages its index lists by channel."""

    start: int
    size: int
    crc: int
    compression: str
    stored: int
    indexed: Counter[int] = field(default_factory=Counter)


class McapFile(Storage):
    """An open MCAP file.

    Raises:
        BagError: The file is cut short, damaged or of an unsupported version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks: list[_Chunk] = []
        self._loose: list[tuple[Place, int]] = []  # messages outside chunks, with their sizes
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, Channel] = {}
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        with damage(path):
            self._file: BinaryIO = path.open("rb")
        try:
            with damage(path):
                self._check_ends()
                counts = self._walk()
        except BaseException:
            self.close()
            raise
        self.channels = [
            channel._replace(messages=counts[channel.id]) for channel in self._channels.values()
        ]

    def close(self) -> None:
        """See :class:`Storage`."""
        self._file.close()
        self._unpacked.clear()

    def scan(self, channels: frozenset[int], size: int) -> Iterator[tuple[Place, bytes]]:
        """See :class:`Storage`."""
        for place, length in self._loose:
            if place.channel in channels:
                with damage(self.path):
                    head = self._at(place.key[1], min(size, length))
                yield place, head
        for number, chunk in enumerate(self._chunks):
            if not channels & chunk.indexed.keys():
                continue
            with damage(self.path):
                records = self._records(number)
                found = [
                    (
                        Place(channel, recorded, (number, start, length)),
                        records[start : start + min(size, length)],
                    )
                    for channel, recorded, start, length in _messages(records)
                    if channel in channels
                ]
            yield from found

    def read(self, place: Place) -> bytes:
        """See :class:`Storage`."""
        number, start, length = place.key
        with damage(self.path):
            if number is None:
                return self._at(start, length)
            return self._records(number)[start : start + length]

    def _check_ends(self) -> None:
        magic = self._file.read(len(MCAP_MAGIC) + len(_VERSION))
        version = magic[len(MCAP_MAGIC) :]
        if len(version) < len(_VERSION):
            raise BagError(_CUT_SHORT.format(f"{len(magic)} bytes", self.path))
        if version[1:] != _VERSION[1:]:
            raise BagError("damaged bag (its first line end was changed, as by a text transfer)")
        if version != _VERSION:
            raise BagError(f"unsupported MCAP version {chr(version[0])!r} (supported: '0')")
        end = self._file.seek(0, 2)
        self._file.seek(max(0, end - len(magic)))
        if end < 2 * len(magic) or self._file.read() != magic:
            raise BagError(_CUT_SHORT.format("it has no end", self.path))

    def _walk(self) -> Counter[int]:
        """Counts messages by channel; walks all records, unpacking as few as possible."""
        position, end = len(MCAP_MAGIC) + len(_VERSION), self._file.seek(0, 2)
        counts: Counter[int] = Counter()
        in_data, stated = True, None
        while True:
            opcode, size = _RECORD.unpack(self._at(position, _RECORD.size))
            position += _RECORD.size
            if position + size > end:
                raise BagError(_CUT_SHORT.format(f"a record ends behind byte {end}", self.path))
            if opcode == _FOOTER:
                break
            if opcode == _DATA_END:
                in_data = False
            elif opcode in (_SCHEMA, _CHANNEL):
                self._define(opcode, self._at(position, size))
            elif opcode == _STATISTICS:
                (stated,) = struct.unpack("<Q", self._at(position, 8))
            elif opcode == _CHUNK and in_data:
                self._chunks.append(self._chunk(position, size))
            elif opcode == _MESSAGE_INDEX and in_data and self._chunks:
                channel, length = struct.unpack("<HI", self._at(position, 6))
                self._chunks[-1].indexed[channel] += length // _INDEX_ENTRY
            elif opcode == _MESSAGE and in_data:
                channel, _, recorded, _ = _MESSAGE_HEAD.unpack(
                    self._at(position, _MESSAGE_HEAD.size)
                )
                start, length = position + _MESSAGE_HEAD.size, size - _MESSAGE_HEAD.size
                self._loose.append((Place(channel, recorded, (None, start, length)), length))
                counts[channel] += 1
            position += size
        indexed = counts.total() + sum(chunk.indexed.total() for chunk in self._chunks)
        for number, chunk in enumerate(self._chunks):
            # The index is incomplete, or the chunk itself defines some of its channels.
            if (
                stated not in (None, indexed)
                or not chunk.indexed
                or chunk.indexed.keys() - self._channels.keys()
            ):
                records = self._records(number)
                chunk.indexed = Counter(channel for channel, *_ in _messages(records))
                for opcode, start, size in _walk_records(records):
                    if opcode in (_SCHEMA, _CHANNEL):
                        self._define(opcode, records[start : start + size])
            counts += chunk.indexed
        if unknown := sorted(counts.keys() - self._channels.keys()):
            raise BagError(f"damaged bag (messages of channel {unknown[0]}, which is undefined)")
        return counts

    def _define(self, opcode: int, data: bytes) -> None:
        (number,) = struct.unpack_from("<H", data)
        if opcode == _SCHEMA:
            self._schemas[number] = _text(data, 2)[0]
            return
        (schema,) = struct.unpack_from("<H", data, 2)
        topic, position = _text(data, 4)
        encoding, _ = _text(data, position)
        self._channels[number] = Channel(number, topic, self._schemas.get(schema, ""), encoding, 0)

    def _chunk(self, position: int, size: int) -> _Chunk:
        head = self._at(position, min(size, 256))
        _, _, unpacked, crc = _CHUNK_HEAD.unpack_from(head)
        compression, after = _text(head, _CHUNK_HEAD.size)
        (stored,) = struct.unpack_from("<Q", head, after)
        if after + 8 + stored > size:
            raise BagError("damaged bag (a chunk is larger than its record)")
        return _Chunk(position + after + 8, unpacked, crc, compression, stored)

    def _records(self, number: int) -> bytes:
        """The unpacked records of a chunk, from a cache of the latest ones."""
        if number in self._unpacked:
            self._unpacked.move_to_end(number)
            return self._unpacked[number]
        chunk = self._chunks[number]
        others = sum(map(len, self._unpacked.values()))
        while self._unpacked and others + chunk.size > _CACHED_BYTES:
            others -= len(self._unpacked.popitem(last=False)[1])
        stored = self._at(chunk.start, chunk.stored)
        records = unpacked_chunk(stored, chunk.compression, chunk.size, chunk.crc)
        self._unpacked[number] = records
        return records

    def _at(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        data = self._file.read(size)
        if len(data) < size:
            raise BagError(_CUT_SHORT.format(f"no {size} bytes at {position}", self.path))
        return data


def _walk_records(records: bytes) -> Iterator[tuple[int, int, int]]:
    """Opcode, start and size of each record in a chunk."""
    position = 0
    while position < len(records):
        opcode, size = _RECORD.unpack_from(records, position)
        position += _RECORD.size
        if position + size > len(records):
            raise BagError("damaged bag (a record is larger than its chunk)")
        yield opcode, position, size
        position += size


def _messages(records: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Channel, record time, start and length of each message in a chunk."""
    for opcode, start, size in _walk_records(records):
        if opcode == _MESSAGE:
            channel, _, recorded, _ = _MESSAGE_HEAD.unpack_from(records, start)
            yield channel, recorded, start + _MESSAGE_HEAD.size, size - _MESSAGE_HEAD.size


def _text(data: bytes, position: int) -> tuple[str, int]:
    """A string of a record, and the position of the next field."""
    (size,) = struct.unpack_from("<I", data, position)
    position += 4
    if position + size > len(data):
        raise BagError("damaged bag (a text is larger than its record)")
    return data[position : position + size].decode(), position + size
