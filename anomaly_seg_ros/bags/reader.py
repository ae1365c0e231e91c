"""Reads frames with their ground truth out of a rosbag2, one at a time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.matching import Match, Times, match
from anomaly_seg_ros.bags.messages import CameraInfo, CompressedImage, RawImage
from anomaly_seg_ros.bags.recording import Message, Recording
from anomaly_seg_ros.bags.samples import CustomData
from anomaly_seg_ros.bags.stamps import fault_of, identities, play_times
from anomaly_seg_ros.bags.storage import damage
from anomaly_seg_ros.bags.topic_choice import Candidate, choose, fault_of_name
from anomaly_seg_ros.errors import BagError, ImageError, ParameterError
from anomaly_seg_ros.label_values import (
    ANOMALY,
    anomalies_from_255,
    check_anomaly_mask,
    check_labels,
    check_mask_255,
)

_IMAGE_TYPES = (topics.IMAGE_TYPE, topics.COMPRESSED_IMAGE_TYPE)
_DEFAULT_RATE = 10.0


@dataclass(frozen=True)
class Frame:
    """One image of a bag and everything that belongs to it.

    Attributes:
        stamp_ns: Header stamp in nanoseconds; what :attr:`BagReader.stamps` says where the
            camera's own stamps do not rise, so that no two frames share one.
        frame_id: Of the header.
        image: The message as recorded.
        name: Name of the sample, in bags of this package.
        camera_info: With the same stamp, otherwise the newest before it.
        baseline_m: Of the stereo camera in metres, in bags of this package.
        fold: Part of the data set for cross-validation, in bags of this package.
        anomaly_mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        disparity: (H, W) uint16, 256 * pixels, 0 = not measured.
        play_ns: When to play it, in nanoseconds after the first one.
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

    def to_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            BagError: The message holds no 8-bit image; names the frame.
        """
        try:
            return self.image.to_rgb()
        except ImageError as error:
            raise BagError(f"frame {self.name or self.stamp_ns}: {error}") from error


@dataclass(frozen=True)
class _Index:
    """Where everything lies that belongs to the frames; no pixels.

    Attributes:
        frames: Messages of the image topic in recorded order.
        stamps: What tells the frames apart, rising.
        stamps_from: What they are, where they are not the header's; else empty.
        fault: What is wrong with the header's stamps.
        play_ns: See :class:`Frame`.
        camera_infos: For each frame.
        matches: By slot.
        truth: By slot, for each frame.
    """

    frames: list[Message]
    stamps: list[int]
    stamps_from: str
    fault: str | None
    play_ns: list[int]
    camera_infos: list[Message | None]
    matches: dict[str, Match]
    truth: dict[str, list[Message | None]]


class BagReader:
    """A rosbag2 (folder, or a single MCAP or SQLite file) of any ROS 2 distribution.

    Args:
        path: The bag.
        image_topic: Topic of the frames; None chooses, see :mod:`.topic_choice`.
        anomaly_mask_topic: Image mono8.
        labels_topic: Image mono8.
        disparity_topic: Image mono16.
        stamp_tolerance: Seconds that the stamps of a frame and its ground truth may differ by.
        mask_255: What 255 means in anomaly masks, "ignore" or "anomaly"; None: ignore.

    Attributes:
        topics: ``{topic: (type, number of messages)}``.
        image_topic: The topic of the frames.
        other_image_topics: Those it was chosen among, or could have been.
        dataset: Name of the data set, None in foreign bags.
        taxonomy: Whose trainIds the labels are, None where nothing is said.
        frame_rate: Frames a second as written, None in foreign bags.
        masks_are_checked: Whether the bag's writer knew what its masks' values mean.
        num_classes: What labels are checked against; None leaves them unchecked.
        slots: ``{topic: attribute of Frame}`` of the ground truth and the disparity.

    Raises:
        BagError: Missing, not a bag, unsupported, damaged, empty, or without an image topic.
        ParameterError: An option out of range.
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
        # The message types are the same in all distributions, so the bag's own type definitions
        # (which old bags lack) are not needed.
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._recording = Recording(self.path)
        try:
            self.topics = self._recording.topics
            if not any(count for _, count in self.topics.values()):
                what = "no ROS 2 message" if self._recording.foreign else "the bag is empty"
                raise BagError(f"{self.path}: {what}{self._foreign()}")
            self.slots = {
                topic: slot
                for topic, slot in (
                    (anomaly_mask_topic, "anomaly_mask"),
                    (labels_topic, "labels"),
                    (disparity_topic, "disparity"),
                )
                if self._count(topic, topics.IMAGE_TYPE)
            }
            self.image_topic, self.other_image_topics = self._choose_image_topic(image_topic)
            self._camera_info_topic = self._find_camera_info_topic()
            custom = CustomData.read(self._recording.custom, self.path)
            self.dataset, self.taxonomy = custom.dataset, custom.taxonomy
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
    def image_topics(self) -> list[str]:
        """Topics that could be the frames, in the bag's order."""
        return [candidate.topic for candidate in self._candidates]

    @property
    def has_ground_truth(self) -> bool:
        """Whether there is an anomaly mask or class labels for any frame."""
        return bool({"anomaly_mask", "labels"} & set(self.slots.values()))

    @property
    def matches(self) -> dict[str, Match]:
        """Which ground truth belongs to which frame, by attribute of :class:`Frame`."""
        return self._index.matches

    @property
    def unmatched(self) -> int:
        """Ground-truth messages that match no frame."""
        return sum(found.messages - found.matched for found in self.matches.values())

    @property
    def stamps(self) -> str:
        """What tells the frames apart: "the header's stamps", or what stands in for them."""
        return self._index.stamps_from or "the header's stamps"

    @property
    def stamp_fault(self) -> str | None:
        """What is wrong with the header's stamps, in words."""
        return self._index.fault

    @property
    def notes(self) -> list[str]:
        """What was found in the files that a user should know."""
        return list(self._recording.notes)

    def frames(self, wanted: Iterable[int] | None = None) -> Iterator[Frame]:
        """Yields the frames in recorded order, each with its ground truth.

        Args:
            wanted: Their numbers, rising; None: all of them.

        Raises:
            BagError: The bag is damaged, or a message is not what its topic promises.
        """
        index = self._index
        for i in range(len(index.frames)) if wanted is None else wanted:
            message = index.frames[i]
            image = self._read(message)
            info = index.camera_infos[i]
            sample = self._samples.get(message.stamp_ns, {})
            yield Frame(
                stamp_ns=index.stamps[i],
                frame_id=image.header.frame_id,
                image=_image(image),
                name=sample.get("name"),
                camera_info=None if info is None else _camera_info(self._read(info)),
                baseline_m=sample.get("baseline_m"),
                fold=sample.get("fold", ""),
                play_ns=index.play_ns[i],
                **{slot: self._truth(of[i]) for slot, of in index.truth.items()},
            )

    def anomaly_masks(self) -> Iterator[np.ndarray]:
        """Yields the masks alone, (H, W) uint8 as recorded, in the order of their frames.

        Raises:
            BagError: Damaged, or not a mask.
        """
        for message in self._index.truth.get("anomaly_mask", ()):
            if message is not None:
                yield self._plane(message)

    @cached_property
    def _index(self) -> _Index:
        chosen = {self.image_topic, self._camera_info_topic, *self.slots} - {None}
        by_topic: dict[str, list[Message]] = {topic: [] for topic in chosen}
        place: dict[Message, int] = {}
        for number, message in enumerate(self._recording.messages(chosen)):
            by_topic[message.topic].append(message)
            place[message] = number
        frames = by_topic[self.image_topic]
        times = _times(frames)
        stamps, stamps_from, fault = list(times.stamps), "", fault_of(times.stamps)
        if fault is not None:
            stamps, stamps_from = identities(times, self.frame_rate or _DEFAULT_RATE)
        matches, truth = {}, {}
        for topic, slot in self.slots.items():
            messages = by_topic[topic]
            found = match(times, _times(messages), self._tolerance_ns)
            of_frame: list[Message | None] = [None] * len(frames)
            for message, frame in zip(messages, found.frame_of, strict=True):
                if frame >= 0:
                    of_frame[frame] = message
            matches[slot], truth[slot] = found, of_frame
        infos = by_topic.get(self._camera_info_topic, [])
        return _Index(
            frames,
            stamps,
            stamps_from,
            fault,
            play_times(stamps, times.recorded),
            _infos_of(frames, infos, place),
            matches,
            truth,
        )

    def _read(self, message: Message) -> Any:
        data = self._recording.read(message)
        with damage(self.path):
            return self._store.deserialize_cdr(data, self.topics[message.topic][0])

    def _truth(self, message: Message | None) -> np.ndarray | None:
        """(H, W) ground truth with checked values."""
        if message is None:
            return None
        slot, plane = self.slots[message.topic], self._plane(message)
        where = f"{self.path}: topic {message.topic}, stamp {message.stamp_ns / 1e9:.9f}"
        if slot == "anomaly_mask":
            if self.mask_255 == ANOMALY:
                return anomalies_from_255(plane, where, BagError)
            check_anomaly_mask(plane, where, BagError)
        elif slot == "labels" and self.num_classes is not None:
            check_labels(plane, self.num_classes, where, BagError)
        return plane

    def _plane(self, message: Message) -> np.ndarray:
        """(H, W) uint8 or, of a disparity, uint16 as recorded."""
        image = _image(self._read(message))
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

    @cached_property
    def _candidates(self) -> list[Candidate]:
        return [self._candidate(name) for name in self._images if name not in self.no_camera]

    def _choose_image_topic(self, wanted: str | None) -> tuple[str, list[str]]:
        if wanted is None:
            if not self._candidates:
                raise BagError(f"{self.path}: no image topic ({self._listing()}){self._foreign()}")
            first, others = choose(self._candidates, self._truth_of)
            return first.topic, [other.topic for other in others]
        if not any(self._count(wanted, kind) for kind in _IMAGE_TYPES):
            raise BagError(
                f"{self.path}: no images on topic {wanted} "
                f"(image topics: {', '.join(self.image_topics) or 'none'})"
            )
        return wanted, [topic for topic in self.image_topics if topic != wanted]

    def _truth_of(self, topic: str) -> int:
        """How many messages of ground truth belong to the frames of a topic."""
        messages = self._times_of_candidates
        return sum(
            match(messages[topic], messages[name], self._tolerance_ns).matched
            for name in self.slots
        )

    @cached_property
    def _times_of_candidates(self) -> dict[str, Times]:
        wanted = {*self.image_topics, *self.slots} if self.slots else set()
        by_topic: dict[str, list[Message]] = {topic: [] for topic in self.image_topics}
        by_topic |= {topic: [] for topic in self.slots}
        for message in self._recording.messages(wanted):
            by_topic[message.topic].append(message)
        return {topic: _times(messages) for topic, messages in by_topic.items()}

    def _listing(self) -> str:
        """All topics, and why those of images are no camera's."""
        listing = f"topics: {', '.join(self.topics) or 'none'}"
        return "; ".join([listing, *(f"{x}: {fault}" for x, fault in self.no_camera.items())])

    @cached_property
    def no_camera(self) -> dict[str, str]:
        """Topics of images that hold no camera's pictures, and why."""
        return {
            topic: fault
            for topic in self._images
            if (fault := fault_of_name(topic) or self._candidate(topic).fault) is not None
        }

    @cached_property
    def _images(self) -> list[str]:
        return [
            topic
            for topic, (kind, count) in self.topics.items()
            if kind in _IMAGE_TYPES and count and topic not in self.slots
        ]

    def _candidate(self, topic: str) -> Candidate:
        kind, count = self.topics[topic]
        try:
            data = self._recording.first(topic)
            with damage(self.path):
                message = self._store.deserialize_cdr(data, kind)
            encoding = getattr(message, "encoding", None) or message.format
        except BagError:
            encoding = ""  # told when the topic is read, if it is
        return Candidate(topic, encoding, count, kind == topics.COMPRESSED_IMAGE_TYPE)

    def _foreign(self) -> str:
        """Names the channels that are not of ROS 2, for messages of errors."""
        foreign = self._recording.foreign
        if not foreign:
            return ""
        listing = ", ".join(f"{topic} ({encoding})" for topic, encoding in foreign.items())
        if "ros1" in foreign.values():
            return f"; ROS 1 is unsupported, convert it with rosbags-convert: {listing}"
        return f"; not serialised by ROS 2: {listing}"

    def _find_camera_info_topic(self) -> str | None:
        """The camera_info beside the image topic (image_transport's rule), if there is one."""
        base = self.image_topic.removesuffix("/compressed")
        sibling = f"{base.rsplit('/', 1)[0]}/camera_info"
        return sibling if self._count(sibling, topics.CAMERA_INFO_TYPE) else None


def _times(messages: list[Message]) -> Times:
    return Times([x.stamp_ns for x in messages], [x.recorded_ns for x in messages])


def _infos_of(
    frames: list[Message], infos: list[Message], place: dict[Message, int]
) -> list[Message | None]:
    """For each frame the camera_info of its stamp, otherwise the newest before it."""
    places = [place[info] for info in infos]
    of_stamp: dict[int, list[int]] = {}
    for number, info in enumerate(infos):
        of_stamp.setdefault(info.stamp_ns, []).append(number)
    found: list[Message | None] = []
    for frame in frames:
        before = bisect_left(places, place[frame])
        same = of_stamp.get(frame.stamp_ns, [])
        # Of several with one stamp the newest before the frame, or else the first behind it.
        at = bisect_left(same, before)
        if same:
            found.append(infos[same[max(0, at - 1)]])
        else:
            found.append(infos[before - 1] if before else None)
    return found


def _image(message: Any) -> RawImage | CompressedImage:
    if hasattr(message, "format"):
        return CompressedImage(message.format, message.data)
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
