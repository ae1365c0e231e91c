# SPDX-License-Identifier: Apache-2.0
"""Chooses the camera topic of a bag, from the topics' names, first messages and headers.

Outputs of this package's detector, ground truth, and depth and the like are never chosen. Of the
other image topics :data:`RULE` chooses one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.matching import Times, match
from anomaly_seg_ros.bags.recording import Message, Recording
from anomaly_seg_ros.errors import BagError

RULE = (
    "most ground truth of the same stamps, colour before grey, most messages, raw before "
    "compressed, by name"
)
# The detector's topics, below its name or that of one of its cameras (docs/node.md).
OWN_OUTPUTS = frozenset(
    (
        "labels",
        "open_set_labels",
        "open_set_mask",
        "ood_score",
        "confidence",
        "overlay",
        "ood_heatmap",
    )
)
_TRANSPORTS = ("/compressed", "/compressedDepth")
_NO_COLOUR_CAMERA = frozenset(
    ("depth", "disparity", "range", "ranges", "infrared", "infra", "ir", "thermal")
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Encodings of distances, not brightness; 8-bit and RGB images may hold anything.
_DEPTH_ENCODING = re.compile(r"(16|32|64)[USF]C1\b|.*compressedDepth", re.IGNORECASE)
_GREY_ENCODING = re.compile(r"(mono|8UC1\b|16UC1\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """An image topic.

    Attributes:
        topic: The topic's name.
        encoding: Encoding of its first message, or the format if it is compressed.
        count: Number of messages.
        is_compressed: True if the messages are CompressedImage.
    """

    topic: str
    encoding: str
    count: int
    is_compressed: bool

    @property
    def fault(self) -> str | None:
        """Why the images cannot be a camera's; None if they can."""
        if fault := fault_of_name(self.topic):
            return fault
        if _DEPTH_ENCODING.match(self.encoding):
            return f"its encoding {self.encoding!r} is one of depth images"
        return None


def fault_of_name(topic: str) -> str | None:
    """Why a topic of this name cannot be a camera's; None if it can."""
    base = topic
    for transport in _TRANSPORTS:
        base = base.removesuffix(transport)
    if base.rsplit("/", 1)[-1] in OWN_OUTPUTS:
        return "it is named like an output of the detector"
    if "ground_truth" in topic.lower():
        return "it is named like ground truth"
    words = {word.lower() for word in _WORD.findall(topic)}
    if found := sorted(words & _NO_COLOUR_CAMERA):
        return f"its name has {found[0]!r} in it"
    return None


def choose(
    candidates: Sequence[Candidate], matched: Callable[[str], int]
) -> tuple[Candidate, list[Candidate]]:
    """Returns the topic of the frames by :data:`RULE`, and the others.

    Args:
        candidates: At least one, all without a fault.
        matched: Returns how many ground-truth messages belong to a topic; called only if needed.
    """
    if len(candidates) == 1:
        return candidates[0], []

    def rank(candidate: Candidate) -> tuple:
        return (
            -matched(candidate.topic),
            bool(_GREY_ENCODING.match(candidate.encoding)),
            -candidate.count,
            candidate.is_compressed,
            candidate.topic,
        )

    first, *others = sorted(candidates, key=rank)
    return first, others


_IMAGE_TYPES = (topics.IMAGE_TYPE, topics.COMPRESSED_IMAGE_TYPE)


class CameraTopics:
    """Image topics of a bag that have messages and hold no ground truth.

    Args:
        recording: The bag.
        truth: Topics of ground truth.
        tolerance_ns: Largest difference between the stamps of a frame and its ground truth.
    """

    def __init__(self, recording: Recording, truth: Collection[str], tolerance_ns: int) -> None:
        self._recording, self._truth, self._tolerance_ns = recording, truth, tolerance_ns

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Topics that may be the camera's, in the bag's order."""
        return [x for x in self._images if x.topic not in self.left_out]

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Topics that cannot be the camera's, and why."""
        faults = {image.topic: image.fault for image in self._images}
        return {topic: fault for topic, fault in faults.items() if fault is not None}

    def choose(self, wanted: str | None) -> tuple[str, list[str]]:
        """Returns the topic of the frames, and the other candidates.

        Args:
            wanted: The user's choice; None chooses by :data:`RULE`.

        Raises:
            BagError: There is no candidate, or the wanted topic has no image.
        """
        found = [candidate.topic for candidate in self.candidates]
        path, known = self._recording.path, self._recording.topics
        if wanted is None:
            if not found:
                faults = "".join(f"; {topic}: {fault}" for topic, fault in self.left_out.items())
                raise BagError(
                    f"{path}: no image topic (topics: {', '.join(known) or 'none'}{faults})"
                    f"{self._recording.foreign_in_words()}"
                )
            first, others = choose(self.candidates, self._matched)
            return first.topic, [other.topic for other in others]
        kind, count = known.get(wanted, ("", 0))
        if kind not in _IMAGE_TYPES or not count:
            listing = ", ".join(found) or "none"
            raise BagError(f"{path}: no images on topic {wanted} (image topics: {listing})")
        return wanted, [topic for topic in found if topic != wanted]

    @cached_property
    def _images(self) -> list[Candidate]:
        return [
            Candidate(topic, self._encoding(topic), count, kind == topics.COMPRESSED_IMAGE_TYPE)
            for topic, (kind, count) in self._recording.topics.items()
            if kind in _IMAGE_TYPES and count and topic not in self._truth
        ]

    def _encoding(self, topic: str) -> str:
        if fault_of_name(topic) is not None:
            return ""  # the name has settled it
        try:
            message = self._recording.first(topic)
        except BagError:
            return ""  # raised again if the topic is read
        return getattr(message, "encoding", None) or message.format

    def _matched(self, topic: str) -> int:
        """Number of ground-truth messages that belong to the frames of a topic."""
        times = self._times
        return sum(
            match(times[topic], times[truth], self._tolerance_ns).matched for truth in self._truth
        )

    @cached_property
    def _times(self) -> dict[str, Times]:
        if not self._truth:  # nothing to compare, so read nothing
            return {candidate.topic: Times((), ()) for candidate in self.candidates}
        wanted = [*(candidate.topic for candidate in self.candidates), *self._truth]
        found: dict[str, list[Message]] = {topic: [] for topic in wanted}
        for message in self._recording.messages(wanted):
            found[message.topic].append(message)
        return {topic: Times.of(messages) for topic, messages in found.items()}
