"""Reads frames with their ground truth out of a rosbag2, one at a time."""

from __future__ import annotations

import math
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.messages import CameraInfo, CompressedImage, RawImage
from anomaly_seg_ros.bags.storage_checks import (
    ZstdError,
    check_sqlite_files,
    limit_chunks,
    unpacked_message,
)
from anomaly_seg_ros.bit_depth import BitDepth
from anomaly_seg_ros.documents import is_file_name, parse_json, shown
from anomaly_seg_ros.errors import BagError, ImageError

# What rosbags 0.11 raises on damaged bags (found by truncating and overwriting bags at random).
# ReaderError and SerdeError are its own; the rest escapes from its parsers and decompressors.
_DAMAGE = (
    ReaderError,
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
# Frames waiting for late ground truth, and ground truth waiting for a late frame.
_MAX_PENDING = 4
_NOT_A_CAMERA = ("ground_truth", "disparity", "depth")


@dataclass(frozen=True)
class Frame:
    """One image of a bag and everything that carries its stamp.

    Attributes:
        stamp_ns: Header stamp in nanoseconds.
        frame_id: Of the header.
        image: The message as recorded.
        name: Name of the sample, in bags of this package.
        camera_info: With the same stamp, otherwise the newest before it.
        baseline_m: Of the stereo camera in metres, in bags of this package.
        fold: Part of the data set for cross-validation, in bags of this package.
        anomaly_mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        disparity: (H, W) uint16, 256 * pixels, 0 = not measured.
    """

    stamp_ns: int
    frame_id: str
    image: RawImage | CompressedImage
    name: str | None = None
    camera_info: CameraInfo | None = None
    baseline_m: float | None = None
    fold: str = ""
    anomaly_mask: np.ndarray | None = field(default=None, repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)
    disparity: np.ndarray | None = field(default=None, repr=False)

    def to_rgb(self, depth: BitDepth | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB; ``depth`` scales 16-bit images, and learns what they use.

        Raises:
            BagError: The message holds no 8-bit image; names the frame.
        """
        try:
            return self.image.to_rgb(depth)
        except ImageError as error:
            raise BagError(f"frame {self.name or self.stamp_ns}: {error}") from error


class BagReader:
    """A rosbag2 (folder, or a single .mcap or .db3 file) of any ROS 2 distribution.

    Args:
        path: The bag.
        image_topic: Topic of the frames; None takes the first Image or CompressedImage topic
            that has messages and is no ground truth, disparity or depth.
        anomaly_mask_topic: Image mono8.
        labels_topic: Image mono8.
        disparity_topic: Image mono16.

    Attributes:
        topics: ``{topic: (type, number of messages)}``.
        image_topic: The topic of the frames.
        dataset: Name of the data set, None in foreign bags.
        taxonomy: Whose trainIds the labels are, None where nothing is said.
        frame_rate: Frames a second as written, None in foreign bags.
        unmatched: Ground-truth messages that matched no frame, counted by :meth:`frames`.

    Raises:
        BagError: Missing, not a bag, damaged, empty, or without an image topic.
    """

    def __init__(
        self,
        path: str | Path,
        image_topic: str | None = None,
        anomaly_mask_topic: str = topics.ANOMALY_MASK,
        labels_topic: str = topics.LABELS,
        disparity_topic: str = topics.DISPARITY,
    ) -> None:
        self.path = Path(path)
        self.unmatched = 0
        # The three message types are the same in all distributions, so the bag's own type
        # definitions (which old bags lack) are not needed.
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._reader = self._open()
        try:
            with self._damage():
                self.topics = self._read_topics()
                custom = getattr(self._reader.storage.metadata, "custom", None) or {}
                self._is_packed = self._reader.compression_mode == "message"
                if self._is_packed:  # unpacked here, with a limit
                    metadata = self._reader.storage.metadata._replace(compression_mode=None)
                    self._reader.storage.metadata = metadata
            if not any(count for _, count in self.topics.values()):
                raise BagError(f"{self.path}: the bag is empty")
            self.image_topic = self._choose_image_topic(image_topic)
            self._slots = {
                topic: slot
                for topic, slot in (
                    (anomaly_mask_topic, "anomaly_mask"),
                    (labels_topic, "labels"),
                    (disparity_topic, "disparity"),
                )
                if self._count(topic, topics.IMAGE_TYPE)
            }
            self._camera_info_topic = self._choose_camera_info_topic()
            self._read_custom_data(custom)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; more calls do nothing."""
        if self._reader.is_open:
            self._reader.close()

    def __len__(self) -> int:
        """Number of messages on the image topic."""
        return self.topics[self.image_topic][1]

    @property
    def image_topics(self) -> list[str]:
        """Topics that could be the frames, in the bag's order."""
        return [
            name
            for name, (kind, count) in self.topics.items()
            if kind in (topics.IMAGE_TYPE, topics.COMPRESSED_IMAGE_TYPE)
            and count
            and not any(word in name.lower() for word in _NOT_A_CAMERA)
        ]

    @property
    def has_ground_truth(self) -> bool:
        """Whether there is an anomaly mask or class labels for any frame."""
        return bool({"anomaly_mask", "labels"} & set(self._slots.values()))

    def frames(self) -> Iterator[Frame]:
        """Yields the frames in recorded order, each with the ground truth of the same stamp.

        Messages of one stamp may lie in any order; a frame is held back for at most four others.

        Raises:
            BagError: The bag is damaged, or a message is not what its topic promises.
        """
        self.unmatched = 0
        pending: OrderedDict[int, dict[str, Any]] = OrderedDict()
        early: OrderedDict[int, dict[str, Any]] = OrderedDict()
        info_stamp, newest_info = None, None
        wanted = set(self._slots.values())
        if self._camera_info_topic:
            wanted.add("camera_info")
        for topic, message in self._messages():
            stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            slot, value = self._convert(topic, message)
            if slot == "image":
                while stamp in pending:  # a second image with this stamp: the first is complete
                    yield self._frame(*pending.popitem(last=False))
                pending[stamp] = {
                    "frame_id": message.header.frame_id,
                    "newest_info": newest_info,
                    **early.pop(stamp, {}),
                    slot: value,
                }
                if info_stamp == stamp:
                    pending[stamp]["camera_info"] = newest_info
            elif stamp in pending:
                pending[stamp][slot] = value
            elif slot != "camera_info":
                early.setdefault(stamp, {})[slot] = value
                if len(early) > _MAX_PENDING:
                    self.unmatched += len(early.popitem(last=False)[1])
            if slot == "camera_info":
                info_stamp, newest_info = stamp, value
            while pending and (
                len(pending) > _MAX_PENDING or wanted <= next(iter(pending.values())).keys()
            ):
                yield self._frame(*pending.popitem(last=False))
        while pending:
            yield self._frame(*pending.popitem(last=False))
        self.unmatched += sum(len(fields) for fields in early.values())

    def _frame(self, stamp_ns: int, fields: dict[str, Any]) -> Frame:
        newest_info = fields.pop("newest_info")
        fields.setdefault("camera_info", newest_info)
        sample = self._samples.get(stamp_ns, {})
        return Frame(
            stamp_ns=stamp_ns,
            name=sample.get("name"),
            baseline_m=sample.get("baseline_m"),
            fold=sample.get("fold", ""),
            **fields,
        )

    def _messages(self) -> Iterator[tuple[str, Any]]:
        chosen = {self.image_topic, self._camera_info_topic, *self._slots}
        connections = [
            x
            for x in self._reader.connections
            if x.topic in chosen and x.msgtype == self.topics[x.topic][0]
        ]
        with self._damage():
            messages = self._reader.messages(connections)
        while True:
            with self._damage():
                item = next(messages, None)
                if item is None:
                    return
                connection, _, data = item
                data = unpacked_message(data) if self._is_packed else data
                message = self._store.deserialize_cdr(data, connection.msgtype)
            yield connection.topic, message

    def _convert(self, topic: str, message: Any) -> tuple[str, Any]:
        if topic == self._camera_info_topic:
            return "camera_info", CameraInfo(
                message.height,
                message.width,
                message.distortion_model,
                message.d,
                message.k,
                message.r,
                message.p,
            )
        if hasattr(message, "format"):
            return "image", CompressedImage(message.format, message.data)
        image = RawImage(
            message.height,
            message.width,
            message.encoding,
            bool(message.is_bigendian),
            message.step,
            message.data,
        )
        if topic == self.image_topic:
            return "image", image
        slot = self._slots[topic]
        try:
            array = image.to_grey()
        except ImageError as error:
            raise BagError(f"{self.path}: topic {topic}: {error}") from error
        expected = np.uint16 if slot == "disparity" else np.uint8
        if array.dtype != expected:
            raise BagError(
                f"{self.path}: topic {topic}: encoding '{image.encoding}', "
                f"expected {np.dtype(expected).itemsize * 8} bits"
            )
        return slot, array

    def _open(self) -> Reader:
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag")
        if self.path.is_dir():
            if not (self.path / "metadata.yaml").is_file():
                raise BagError(f"{self.path}: not a bag (no metadata.yaml in this folder)")
        elif self.path.suffix == ".bag":
            raise BagError(f"{self.path}: a ROS 1 bag; convert it with rosbags-convert")
        elif self.path.suffix not in Reader.STORAGE_PLUGINS:
            raise BagError(f"{self.path}: not a bag (a folder, .mcap or .db3 file)")
        limit_chunks()
        with self._damage():
            check_sqlite_files(self.path)
            reader = Reader(self.path)
            reader.open()
        return reader

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turns what rosbags raises on a damaged bag into one BagError."""
        try:
            yield
        except _DAMAGE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BagError(f"{self.path}: damaged or truncated bag ({reason})") from error

    def _read_topics(self) -> dict[str, tuple[str, int]]:
        topics: dict[str, tuple[str, int]] = {}
        for connection in self._reader.connections:
            name, kind, count = connection.topic, connection.msgtype, connection.msgcount
            if not (isinstance(name, str) and isinstance(kind, str)):
                raise ReaderError(f"a topic called {shown(name)} of type {shown(kind)}")
            if type(count) is not int or not 0 <= count < sys.maxsize:
                raise ReaderError(f"topic {shown(name)} with {shown(count)} messages")
            # A topic has one connection for each publisher's QoS.
            topics[name] = (kind, topics.get(name, ("", 0))[1] + count)
        return topics

    def _count(self, topic: str, kind: str) -> int:
        found, count = self.topics.get(topic, ("", 0))
        return count if found == kind else 0

    def _choose_image_topic(self, wanted: str | None) -> str:
        found = self.image_topics
        if wanted is None:
            if not found:
                listing = ", ".join(self.topics) or "none"
                raise BagError(f"{self.path}: no image topic (topics: {listing})")
            return found[0]
        if not (
            self._count(wanted, topics.IMAGE_TYPE)
            or self._count(wanted, topics.COMPRESSED_IMAGE_TYPE)
        ):
            raise BagError(
                f"{self.path}: no images on topic {wanted} "
                f"(image topics: {', '.join(found) or 'none'})"
            )
        return wanted

    def _choose_camera_info_topic(self) -> str | None:
        """The camera_info beside the image topic (image_transport's rule), if there is one."""
        base = self.image_topic.removesuffix("/compressed")
        sibling = f"{base.rsplit('/', 1)[0]}/camera_info"
        return sibling if self._count(sibling, topics.CAMERA_INFO_TYPE) else None

    def _read_custom_data(self, custom: dict[str, str]) -> None:
        what = f"{self.path}: custom_data in metadata.yaml"
        self.dataset: str | None = None
        self.taxonomy: str | None = None
        self.frame_rate: float | None = None
        self._samples: dict[int, dict[str, Any]] = {}
        try:
            self.dataset = _optional(str, custom.get(topics.DATASET_KEY))
            self.taxonomy = _optional(str, custom.get(topics.TAXONOMY_KEY))
            if topics.FRAME_RATE_KEY in custom:
                self.frame_rate = float(custom[topics.FRAME_RATE_KEY])
            for sample in parse_json(custom.get(topics.SAMPLES_KEY, "[]"), what, BagError):
                _check_sample(sample)
                self._samples[sample["stamp_ns"]] = sample
            if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
                raise ValueError(f"a frame rate of {self.frame_rate}")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BagError(f"{what} is unreadable: {error}") from error


def _optional(kind: type, value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{shown(value)} instead of a {kind.__name__}")
    return value


def _check_sample(sample: Any) -> None:
    """Raises ValueError or TypeError unless this is what the writer writes for a sample."""
    stamp, name = sample["stamp_ns"], sample.get("name")
    if type(stamp) is not int:
        raise TypeError(f"a stamp {shown(stamp)}")
    # Names of frames become names of files.
    if name is not None and not is_file_name(name):
        raise ValueError(f"{shown(name)} is no name of a frame")
    _optional(int | float, sample.get("baseline_m"))
    fold = sample.get("fold", "")
    if not isinstance(fold, str):
        raise TypeError(f"a fold {shown(fold)}")
