# SPDX-License-Identifier: Apache-2.0
"""A bag as recorded: one file or a folder of files, and their messages in recorded order.

The content of a file decides its format, not its suffix.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, NamedTuple

from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags.mcap_file import MCAP_MAGIC, McapFile
from anomaly_seg_ros.bags.sqlite_file import SQLITE_MAGIC, SqliteFile
from anomaly_seg_ros.bags.storage import (
    CDR,
    ZSTD_MAGIC,
    Channel,
    Place,
    Storage,
    ZstdDecompressor,
    damage,
    unpacked_message,
)
from anomaly_seg_ros.errors import BagError, first_line
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES
from anomaly_seg_ros.io.safe_yaml_json import read_yaml, short_repr

METADATA = "metadata.yaml"
_ROS1_MAGIC = b"#ROSBAG"
_INFORMATION = "rosbag2_bagfile_information"
_NEWEST_METADATA = 9
_SUFFIXES = (".mcap", ".db3")
_KEYS = (
    "version",
    "storage_identifier",
    "relative_file_paths",
    "duration",
    "starting_time",
    "message_count",
    "topics_with_message_count",
)
# First bytes of a serialised message with a header: its encapsulation and its stamp.
_HEAD = 12
# Bytes of a compressed file to read at once, and to unpack at once.
_PIECE = 1 << 20


class Message(NamedTuple):
    """Location, stamp and record time of a message with a header.

    Attributes:
        topic: Topic of the message.
        stamp_ns: Stamp of its header, in nanoseconds.
        recorded_ns: Time of recording in nanoseconds.
        file: Number of its file in the bag.
        place: Its place in that file.
    """

    topic: str
    stamp_ns: int
    recorded_ns: int
    file: int
    place: Place


class Recording:
    """The files of a bag.

    Args:
        path: A folder with metadata.yaml, or a single file.

    Attributes:
        topics: ``{topic: (type, number of messages)}`` of messages serialised by ROS 2.
        foreign: ``{topic: encoding}`` of the other topics; an encoding is "json", for example.
        custom: The custom_data of metadata.yaml.
        notes: Findings that a user should know, such as files that metadata.yaml does not name.

    Raises:
        BagError: The bag is missing, cut short, unsupported, damaged or none; says which.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.custom: dict[str, Any] = {}
        self.notes: list[str] = []
        self._storages: list[Storage] = []
        # These message types are the same in all distributions, so the bag's own type definitions
        # (which old bags lack) are not needed.
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._storage_name: str | None = None  # named by metadata.yaml
        self._unpacked: tempfile.TemporaryDirectory | None = None
        try:
            for file in self._files():
                self._storages.append(self._open(file))
            self._read_topics()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the files; more calls do nothing."""
        while self._storages:
            self._storages.pop().close()
        if self._unpacked is not None:
            self._unpacked.cleanup()
        self._unpacked = None

    def messages(self, topics: Collection[str]) -> list[Message]:
        """Locates all messages of some topics, in recorded order; reads no more than headers.

        Args:
            topics: Topics of types that begin with a header.

        Raises:
            BagError: A file is damaged.
        """
        found = []
        for number, storage in enumerate(self._storages):
            channels = [x for x in self._channels(storage) if x.topic in topics]
            names = {channel.id: channel.topic for channel in channels}
            here = []
            for place, data in storage.scan(frozenset(names), _HEAD):
                if data[:4] == ZSTD_MAGIC:
                    data = _unpacked_head(storage, place)
                topic = names[place.channel]
                with damage(storage.path):
                    stamp = _stamp(data, topic)
                here.append(Message(topic, stamp, place.recorded_ns, number, place))
            if len(here) != (stated := sum(channel.messages for channel in channels)):
                words = f"{len(here)} messages, its index states {stated}"
                raise BagError(f"{storage.path}: damaged bag ({words})")
            found += sorted(here, key=lambda message: message.recorded_ns)
        return found

    def first(self, topic: str) -> Any:
        """Reads a topic's first message in its first file; see :meth:`decoded`."""
        for storage in self._storages:
            ids = frozenset(
                x.id for x in self._channels(storage) if x.topic == topic and x.messages
            )
            if ids:
                place, _ = next(storage.scan(ids, 0))
                return self._decoded(storage, place, topic)
        raise BagError(f"{self.path}: no message on topic {topic}")

    def decoded(self, message: Message) -> Any:
        """Reads a whole message, with the fields of its type.

        Raises:
            BagError: The file is damaged.
        """
        return self._decoded(self._storages[message.file], message.place, message.topic)

    def foreign_in_words(self) -> str:
        """Ends a sentence by naming the topics that are not of ROS 2; empty without any."""
        if not self.foreign:
            return ""
        listing = ", ".join(f"{topic} ({encoding})" for topic, encoding in self.foreign.items())
        if "ros1" in self.foreign.values():
            return f"; ROS 1 is unsupported, convert it with rosbags-convert: {listing}"
        return f"; not serialised by ROS 2: {listing}"

    def _decoded(self, storage: Storage, place: Place, topic: str) -> Any:
        with damage(storage.path):
            data = unpacked_message(storage.read(place))
            return self._store.deserialize_cdr(data, self.topics[topic][0])

    def _channels(self, storage: Storage) -> Iterator[Channel]:
        """The file's channels whose type is their topic's main type."""
        for channel in storage.channels:
            if channel.encoding == CDR and self.topics[channel.topic][0] == channel.type:
                yield channel

    def _read_topics(self) -> None:
        counts: dict[str, Counter[str]] = {}
        self.foreign: dict[str, str] = {}
        for storage in self._storages:
            for channel in storage.channels:
                if not all(isinstance(x, str) for x in (channel.topic, channel.type)):
                    name, kind = short_repr(channel.topic), short_repr(channel.type)
                    raise BagError(f"{storage.path}: a topic called {name} of type {kind}")
                if channel.encoding != CDR:
                    self.foreign[channel.topic] = channel.encoding
                else:
                    counts.setdefault(channel.topic, Counter())[channel.type] += channel.messages
        self.topics = {topic: kinds.most_common(1)[0] for topic, kinds in counts.items()}

    def _files(self) -> list[Path]:
        path = self.path
        if not os.path.lexists(path):
            raise BagError(f"{path}: no such bag")
        if not path.exists():
            raise BagError(f"{path}: a link to nothing")
        if not path.is_dir():
            return [path]
        if not (path / METADATA).is_file():
            found = sorted(x.name for x in path.iterdir() if _is_storage(x))
            if not found:
                raise BagError(f"{path}: not a bag (no {METADATA} in this folder)")
            raise BagError(
                f"{path}: cut short: no {METADATA} beside {', '.join(found)}; "
                f"`ros2 bag reindex {path}` makes one, or name the file itself"
            )
        return self._files_of_metadata()

    def _files_of_metadata(self) -> list[Path]:
        source = self.path / METADATA
        hint = f"`ros2 bag reindex {self.path}` makes it anew"
        try:
            content = read_yaml(source, BagError)
        except BagError as error:
            raise BagError(f"{first_line(error)}: damaged bag; {hint}") from error
        information = content.get(_INFORMATION) if isinstance(content, dict) else None
        if not isinstance(information, dict):
            raise BagError(f"{source}: damaged bag (not the metadata of a bag); {hint}")
        if missing := [key for key in _KEYS if key not in information]:
            raise BagError(f"{source}: damaged bag (no key {missing[0]!r}); {hint}")
        version, names = information["version"], information["relative_file_paths"]
        if type(version) is not int:
            raise BagError(f"{source}: damaged bag (version {short_repr(version)}); {hint}")
        if version > _NEWEST_METADATA:
            raise BagError(
                f"{source}: unsupported: version {short_repr(version)} of the bag's format, this "
                f"package reads up to {_NEWEST_METADATA}"
            )
        packing = information.get("compression_format") or "zstd"
        if str(information.get("compression_mode") or "none").lower() == "none":
            packing = "zstd"
        if packing != "zstd":
            raise BagError(
                f"{source}: unsupported compression {short_repr(packing)}, expected zstd"
            )
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BagError(f"{source}: damaged bag (its relative_file_paths); {hint}")
        custom = information.get("custom_data")
        if custom and not isinstance(custom, dict):
            raise BagError(f"{source}: custom_data is {short_repr(custom)}, expected a mapping")
        self.custom = custom or {}
        # Old bags name their folder as well; nothing outside it is read.
        files = [self.path / PurePath(name).name for name in names]
        if absent := [file.name for file in files if not file.is_file()]:
            raise BagError(f"{source}: names {absent[0]}, which is missing in this folder")
        if extra := sorted(x for x in self.path.iterdir() if _is_storage(x) and x not in files):
            listing = ", ".join(x.name for x in extra)
            self.notes.append(
                f"{METADATA} does not name {listing} beside it: not read; "
                f"`ros2 bag reindex` adds such files"
            )
        self._storage_name = str(information["storage_identifier"])
        return files

    def _open(self, file: Path, is_unpacked: bool = False) -> Storage:
        with damage(file), file.open("rb") as opened:
            magic = opened.read(len(SQLITE_MAGIC))
        if magic.startswith(MCAP_MAGIC):
            return McapFile(file)
        if magic == SQLITE_MAGIC:
            return SqliteFile(file)
        if magic.startswith(ZSTD_MAGIC) and not is_unpacked:
            unpacked = self._unpack(file)
            try:
                return self._open(unpacked, is_unpacked=True)
            except BagError as error:
                raise BagError(str(error).replace(str(unpacked), str(file))) from error
        if magic.startswith(_ROS1_MAGIC) or (file.suffix == ".bag" and not magic):
            raise BagError(f"{file}: a ROS 1 bag; convert it with rosbags-convert")
        if not magic and (self._storage_name or file.suffix in _SUFFIXES):
            raise BagError(f"{file}: an empty file; the recorder wrote nothing, or a copy failed")
        if self._storage_name not in (None, "mcap", "sqlite3"):
            raise BagError(
                f"{file}: unsupported storage {short_repr(self._storage_name)}, expected mcap or "
                "sqlite3"
            )
        if self._storage_name or file.suffix in _SUFFIXES:
            raise BagError(f"{file}: damaged bag (it starts neither like MCAP nor like SQLite)")
        raise BagError(f"{file}: not a bag (a folder, an MCAP or a SQLite file of rosbag2)")

    def _unpack(self, file: Path) -> Path:
        """Unpacks a file that was compressed as a whole, into a temporary folder."""
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="anomaly_seg_ros_")
        folder = Path(self._unpacked.name)
        target = folder / f"{len(self._storages)}_{file.stem}"
        room = shutil.disk_usage(folder).free // 2
        with damage(file), file.open("rb") as packed, target.open("wb") as unpacked:
            for piece in _unpacked_pieces(packed):
                if unpacked.tell() + len(piece) > room:
                    raise BagError(
                        f"unpacks to more than half of what is free in {folder.parent}; unpack it "
                        "with `zstd -d`, or set TMPDIR"
                    )
                unpacked.write(piece)
        return target


def is_bag_folder(path: Path) -> bool:
    """True if a folder is a bag, or the remains of one from a crashed recorder."""
    if not path.is_dir():
        return False
    if (path / METADATA).is_file():
        return True
    files = list(path.iterdir())
    return any(map(_is_storage, files)) and not any(
        file.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES for file in files
    )


def _is_storage(file: Path) -> bool:
    """True if a file is an MCAP or SQLite file."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(SQLITE_MAGIC))
    except OSError:
        return False
    return magic.startswith(MCAP_MAGIC) or magic == SQLITE_MAGIC


def _unpacked_pieces(packed: BinaryIO) -> Iterator[bytes]:
    """Yields the content of a zstd file in pieces of bounded size."""
    decompressor, data = ZstdDecompressor(), packed.read(_PIECE)
    while True:
        yield decompressor.decompress(data, max_length=_PIECE)
        if decompressor.eof:
            data = decompressor.unused_data or packed.read(_PIECE)
            if not data:
                return
            decompressor = ZstdDecompressor()
        elif decompressor.needs_input:
            data = packed.read(_PIECE)
            if not data:
                raise BagError("cut short: its compressed data end too early")
        else:
            data = b""


def _unpacked_head(storage: Storage, place: Place) -> bytes:
    with damage(storage.path):
        return ZstdDecompressor().decompress(storage.read(place), max_length=_HEAD)


def _stamp(data: bytes, topic: str) -> int:
    """The stamp of a serialised message that begins with a header, in nanoseconds."""
    if len(data) < _HEAD:
        raise BagError(f"damaged bag (a message of {len(data)} bytes on {topic})")
    order: Literal["little", "big"] = "little" if data[1] & 1 else "big"
    seconds = int.from_bytes(data[4:8], order, signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(data[8:12], order)
