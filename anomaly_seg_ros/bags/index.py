"""Where everything lies that belongs to the frames of a bag; no pixels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from anomaly_seg_ros.bags.matching import Match, Times, match
from anomaly_seg_ros.bags.recording import Message, Recording
from anomaly_seg_ros.bags.stamps import fault_of, identities, play_times

HEADER_STAMPS = "the header's stamps"


@dataclass(frozen=True)
class FrameIndex:
    """The messages of each frame, in recorded order.

    Attributes:
        frames: On the image topic.
        stamps: What tells the frames apart, rising, in nanoseconds.
        stamps_are: What that is: the header's stamps, or what stands in for them.
        fault: What keeps the header's stamps from it, in words; None if nothing does.
        play_ns: When to play each frame, in nanoseconds after the first one.
        camera_infos: Of each frame.
        matches: By slot: which ground truth belongs to which frame.
        truth: By slot: that of each frame.
    """

    frames: list[Message]
    stamps: list[int]
    stamps_are: str
    fault: str | None
    play_ns: list[int]
    camera_infos: list[Message | None]
    matches: dict[str, Match]
    truth: dict[str, list[Message | None]]

    @classmethod
    def build(
        cls,
        recording: Recording,
        image_topic: str,
        info_topic: str | None,
        slots: Mapping[str, str],
        tolerance_ns: int,
        frame_rate: float,
    ) -> FrameIndex:
        """Goes over the headers of a bag.

        Args:
            recording: The bag.
            image_topic: Of the frames.
            info_topic: Of their camera_info.
            slots: ``{topic: slot}`` of what belongs to the frames.
            tolerance_ns: That stamps may differ by.
            frame_rate: In Hz, where neither stamps nor times of recording rise.

        Raises:
            BagError: Damaged.
        """
        chosen = {image_topic, info_topic, *slots} - {None}
        by_topic: dict[str, list[Message]] = {topic: [] for topic in chosen}
        order: dict[str, list[int]] = {topic: [] for topic in chosen}
        for number, message in enumerate(recording.messages(chosen)):
            by_topic[message.topic].append(message)
            order[message.topic].append(number)
        frames = by_topic[image_topic]
        times = times_of(frames)
        stamps, stamps_are, fault = list(times.stamps), HEADER_STAMPS, fault_of(times.stamps)
        if fault is not None:
            stamps, stamps_are = identities(times, frame_rate)
        matches, truth = {}, {}
        for topic, slot in slots.items():
            found = match(times, times_of(by_topic[topic]), tolerance_ns)
            of_frame: list[Message | None] = [None] * len(frames)
            for message, frame in zip(by_topic[topic], found.frame_of, strict=True):
                if frame >= 0:
                    of_frame[frame] = message
            matches[slot], truth[slot] = found, of_frame
        infos: list[Message | None] = [None] * len(frames)
        if info_topic is not None:
            infos = _infos_of(frames, by_topic[info_topic], order[image_topic], order[info_topic])
        play_ns = play_times(stamps, times.recorded)
        return cls(frames, stamps, stamps_are, fault, play_ns, infos, matches, truth)


def times_of(messages: list[Message]) -> Times:
    """Stamps and record times."""
    return Times([x.stamp_ns for x in messages], [x.recorded_ns for x in messages])


def _infos_of(
    frames: list[Message], infos: list[Message], frame_order: list[int], info_order: list[int]
) -> list[Message | None]:
    """For each frame the camera_info of its stamp, otherwise the newest before it.

    Args:
        frames: In recorded order.
        infos: Likewise.
        frame_order: Where each frame stands among all messages, rising.
        info_order: Likewise for the infos.
    """
    of_stamp: dict[int, list[int]] = {}
    for number, info in enumerate(infos):
        of_stamp.setdefault(info.stamp_ns, []).append(number)
    found: list[Message | None] = []
    for frame, place in zip(frames, frame_order, strict=True):
        before = bisect_left(info_order, place)
        if same := of_stamp.get(frame.stamp_ns):
            # Of several with one stamp the newest before the frame, or else the first behind it.
            found.append(infos[same[max(0, bisect_left(same, before) - 1)]])
        else:
            found.append(infos[before - 1] if before else None)
    return found
