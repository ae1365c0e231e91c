# SPDX-License-Identifier: Apache-2.0
"""Reads frames with their ground truth from a rosbag2, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.camera_topics import CameraTopics
from anomaly_seg_ros.bags.index import FrameIndex
from anomaly_seg_ros.bags.matching import Match
from anomaly_seg_ros.bags.messages import CameraInfo, CompressedImage, RawImage
from anomaly_seg_ros.bags.recording import Message, Recording
from anomaly_seg_ros.bags.topics import CustomData
from anomaly_seg_ros.errors import BagError, ImageError, ParameterError
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.labels import (
    MASK_255_ANOMALY,
    anomalies_from_255,
    check_anomaly_mask,
    check_labels,
    check_mask_255,
)

_DEFAULT_RATE = 10.0


@dataclass(frozen=True)
class Frame:
    """One image of a bag and everything that belongs to it.

    Attributes:
        stamp_ns: Header stamp in nanoseconds, or the substitute of :attr:`BagReader.stamps` if
            the camera's own stamps do not rise; no two frames share one.
        frame_id: The header's frame_id.
        image: The message as recorded.
        name: Name of the sample, in bags of this package.
        camera_info: The camera_info of the same stamp, otherwise the newest before it.
        baseline_m: Baseline of the stereo camera in metres, in bags of this package.
        fold: Part of the data set for cross-validation, in bags of this package.
        anomaly_mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        disparity: (H, W) uint16, 256 * pixels, 0 = not measured.
        play_ns: Time to play it, in nanoseconds after the first frame.
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
    play_ns: int = 0

    def to_rgb(self, depth: BitDepth | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB; ``depth`` scales 16-bit images and learns the bits they use.

        Raises:
            BagError: The image is unreadable or of an unknown encoding; names the frame.
        """
        try:
            return self.image.to_rgb(depth)
        except ImageError as error:
            raise BagError(f"frame {self.name or self.stamp_ns}: {error}") from error


class BagReader:
    """A rosbag2 (folder, or a single MCAP or SQLite file) of any ROS 2 distribution.

    Args:
        path: The bag.
        image_topic: Topic of the frames; None chooses one, see :mod:`.camera_topics`.
        anomaly_mask_topic: Topic of mono8 images.
        labels_topic: Topic of mono8 images.
        disparity_topic: Topic of mono16 images.
        stamp_tolerance: Seconds that the stamps of a frame and its ground truth may differ by.
        mask_255: Meaning of 255 in anomaly masks, "ignore" or "anomaly"; None means ignore.

    Attributes:
        topics: ``{topic: (type, number of messages)}``.
        image_topic: The topic of the frames.
        other_image_topics: The other topics that could be the frames.
        dataset: Name of the data set, None in foreign bags.
        taxonomy: Name of the taxonomy whose trainIds the labels hold, None if not noted.
        classes: Its classes, empty if not noted.
        frame_rate: Frames a second as written, None in foreign bags.
        masks_are_checked: True if the bag's writer declared the values of its masks.
        num_classes: Number of classes to check labels against; None leaves them unchecked.
        slots: ``{topic: attribute of Frame}`` of the ground truth and the disparity.

    Raises:
        BagError: The bag is missing, unsupported, damaged, empty, none, or has no image topic.
        ParameterError: An option is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        image_topic: str | None = None,
        anomaly_mask_topic: str = topics.ANOMALY_MASK,
        labels_topic: str = topics.LABELS,
        disparity_topic: str = topics.DISPARITY,
        stamp_tolerance: float = 0.0,
        mask_255: str | None = None,
    ) -> None:
        self.path = Path(path)
        if not 0 <= stamp_tolerance < math.inf:
            raise ParameterError(
                f"stamp_tolerance: must be at least 0 seconds, got {stamp_tolerance}"
            )
        self._tolerance_ns = round(stamp_tolerance * 1e9)
        self.mask_255 = check_mask_255(mask_255)
        self.num_classes: int | None = None
        self._recording = Recording(self.path)
        try:
            self.topics = self._recording.topics
            if not any(count for _, count in self.topics.values()):
                what = "no ROS 2 message" if self._recording.foreign else "the bag is empty"
                raise BagError(f"{self.path}: {what}{self._recording.foreign_in_words()}")
            self.slots = {
                topic: slot
                for topic, slot in (
                    (anomaly_mask_topic, "anomaly_mask"),
                    (labels_topic, "labels"),
                    (disparity_topic, "disparity"),
                )
                if self._count(topic, topics.IMAGE_TYPE)
            }
            self._cameras = CameraTopics(self._recording, self.slots, self._tolerance_ns)
            self.image_topic, self.other_image_topics = self._cameras.choose(image_topic)
            self._camera_info_topic = self._find_camera_info_topic()
            custom = CustomData.read(self._recording.custom, self.path)
            self.dataset, self.taxonomy = custom.dataset, custom.taxonomy
            self.classes = custom.classes
            self.frame_rate, self._samples = custom.frame_rate, custom.samples
            self.masks_are_checked = custom.masks_are_checked
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; more calls do nothing."""
        self._recording.close()

    def __len__(self) -> int:
        """Number of messages on the image topic."""
        return len(self._index.frames)

    @property
    def no_camera(self) -> dict[str, str]:
        """Image topics that cannot be the camera's, and why."""
        return self._cameras.left_out

    @property
    def matches(self) -> dict[str, Match]:
        """How ground truth matches the frames, by attribute of :class:`Frame`."""
        return self._index.matches

    @property
    def stamps(self) -> str:
        """The frames' stamps in words: "the header's stamps", or their substitute."""
        return self._index.stamps_are

    @property
    def stamp_fault(self) -> str | None:
        """The fault of the header's stamps in words; None if they rise."""
        return self._index.fault

    @property
    def skipped_ns(self) -> int:
        """Time by which the frames' clock was set forward; a replay does not wait for it."""
        index = self._index
        return index.stamps[-1] - index.stamps[0] - index.play_ns[-1]

    @property
    def notes(self) -> list[str]:
        """Findings in the files that a user should know."""
        return list(self._recording.notes)

    def frames(self, wanted: Iterable[int] | None = None) -> Iterator[Frame]:
        """Yields the frames in recorded order, each with its ground truth.

        Args:
            wanted: Numbers of the frames, rising; None for all of them.

        Raises:
            BagError: The bag is damaged, or a message is not what its topic promises.
        """
        index = self._index
        for i in range(len(index.frames)) if wanted is None else wanted:
            message = index.frames[i]
            image = self._recording.decoded(message)
            info = index.camera_infos[i]
            sample = self._samples.get(message.stamp_ns, {})
            yield Frame(
                stamp_ns=index.stamps[i],
                frame_id=image.header.frame_id,
                image=_image(image),
                name=sample.get("name"),
                camera_info=None if info is None else _camera_info(self._recording.decoded(info)),
                baseline_m=sample.get("baseline_m"),
                fold=sample.get("fold", ""),
                play_ns=index.play_ns[i],
                **{slot: self._truth(of[i]) for slot, of in index.truth.items()},
            )

    def anomaly_masks(self) -> Iterator[np.ndarray]:
        """Yields only the masks, (H, W) uint8 as recorded, in the order of their frames.

        Raises:
            BagError: The bag is damaged, or a message is not a mask.
        """
        for message in self._index.truth.get("anomaly_mask", ()):
            if message is not None:
                yield self._plane(message)

    @cached_property
    def _index(self) -> FrameIndex:
        return FrameIndex.build(
            self._recording,
            self.image_topic,
            self._camera_info_topic,
            self.slots,
            self._tolerance_ns,
            self.frame_rate or _DEFAULT_RATE,
        )

    def _truth(self, message: Message | None) -> np.ndarray | None:
        """(H, W) ground truth, its values checked."""
        if message is None:
            return None
        slot, plane = self.slots[message.topic], self._plane(message)
        where = f"{self.path}: topic {message.topic}, stamp {message.stamp_ns / 1e9:.9f}"
        if slot == "anomaly_mask":
            if self.mask_255 == MASK_255_ANOMALY:
                return anomalies_from_255(plane, where, BagError)
            check_anomaly_mask(plane, where, BagError)
        elif slot == "labels" and self.num_classes is not None:
            check_labels(plane, self.num_classes, where, BagError)
        return plane

    def _plane(self, message: Message) -> np.ndarray:
        """(H, W) uint8 as recorded; uint16 if a disparity."""
        image = _raw_image(self._recording.decoded(message))
        try:
            array = image.to_grey()
        except ImageError as error:
            raise BagError(f"{self.path}: topic {message.topic}: {error}") from error
        expected = np.uint16 if self.slots[message.topic] == "disparity" else np.uint8
        if array.dtype != expected:
            raise BagError(
                f"{self.path}: topic {message.topic}: encoding '{image.encoding}', "
                f"expected {np.dtype(expected).itemsize * 8} bits"
            )
        return array

    def _count(self, topic: str, kind: str) -> int:
        found, count = self.topics.get(topic, ("", 0))
        return count if found == kind else 0

    def _find_camera_info_topic(self) -> str | None:
        """The camera_info beside the image topic (image_transport's rule), if there is one."""
        base = self.image_topic.removesuffix("/compressed")
        sibling = f"{base.rsplit('/', 1)[0]}/camera_info"
        return sibling if self._count(sibling, topics.CAMERA_INFO_TYPE) else None


def _image(message: Any) -> RawImage | CompressedImage:
    if hasattr(message, "format"):
        return CompressedImage(message.format, message.data)
    return _raw_image(message)


def _raw_image(message: Any) -> RawImage:
    return RawImage(
        message.height,
        message.width,
        message.encoding,
        bool(message.is_bigendian),
        message.step,
        message.data,
    )


def _camera_info(message: Any) -> CameraInfo:
    return CameraInfo(
        message.height,
        message.width,
        message.distortion_model,
        message.d,
        message.k,
        message.r,
        message.p,
    )
