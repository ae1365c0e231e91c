"""The topics of a bag that may be the camera's, as its first messages and its headers say."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.index import times_of
from anomaly_seg_ros.bags.matching import Times, match
from anomaly_seg_ros.bags.recording import Message, Recording
from anomaly_seg_ros.bags.topic_choice import Candidate, choose, fault_of_name
from anomaly_seg_ros.errors import BagError

_IMAGE_TYPES = (topics.IMAGE_TYPE, topics.COMPRESSED_IMAGE_TYPE)


class CameraTopics:
    """Topics of images with messages, but for ground truth.

    Args:
        recording: The bag.
        truth: Topics of ground truth.
        tolerance_ns: That stamps of a frame and its ground truth may differ by.
    """

    def __init__(self, recording: Recording, truth: Collection[str], tolerance_ns: int) -> None:
        self._recording, self._truth, self._tolerance_ns = recording, truth, tolerance_ns

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Those that may be the camera's, in the bag's order."""
        return [x for x in self._images if x.topic not in self.left_out]

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Those that hold no camera's pictures, and why."""
        faults = {image.topic: image.fault for image in self._images}
        return {topic: fault for topic, fault in faults.items() if fault is not None}

    def choose(self, wanted: str | None) -> tuple[str, list[str]]:
        """The topic of the frames, and the other candidates.

        Args:
            wanted: As the user chose it; None chooses by the rule of :mod:`.topic_choice`.

        Raises:
            BagError: There is none, or no image on the wanted one.
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
            return ""  # its messages say nothing more
        try:
            message = self._recording.first(topic)
        except BagError:
            return ""  # told when the topic is read, if it is
        return getattr(message, "encoding", None) or message.format

    def _matched(self, topic: str) -> int:
        """How many messages of ground truth belong to the frames of a topic."""
        times = self._times
        return sum(
            match(times[topic], times[truth], self._tolerance_ns).matched for truth in self._truth
        )

    @cached_property
    def _times(self) -> dict[str, Times]:
        if not self._truth:  # nothing will be compared: nothing is read
            return {candidate.topic: Times((), ()) for candidate in self.candidates}
        wanted = [*(candidate.topic for candidate in self.candidates), *self._truth]
        found: dict[str, list[Message]] = {topic: [] for topic in wanted}
        for message in self._recording.messages(wanted):
            found[message.topic].append(message)
        return {topic: times_of(messages) for topic, messages in found.items()}
