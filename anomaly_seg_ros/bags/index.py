# SPDX-License-Identifier: Apache-2.0
"""Locates everything that belongs to the frames of a bag, without reading pixels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from anomaly_seg_ros.bags.matching import Match, Times, match
from anomaly_seg_ros.bags.recording import Message, Recording

HEADER_STAMPS = "the header's stamps"


@dataclass(frozen=True)
class FrameIndex:
    """The messages of each frame, in recorded order.

    Attributes:
        frames: Messages on the image topic.
        stamps: Rising stamps that tell the frames apart, in nanoseconds.
        stamps_are: What these are, in words: the header's stamps or a substitute.
        fault: Why the header's stamps do not serve, in words; None if they do.
        play_ns: Time to play each frame, in nanoseconds after the first one.
        camera_infos: The camera_info of each frame.
        matches: By slot, how the ground truth matches the frames.
        truth: By slot, the ground-truth message of each frame.
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
        """Reads the headers of a bag.

        Args:
            recording: The bag.
            image_topic: Topic of the frames.
            info_topic: Topic of their camera_info.
            slots: ``{topic: slot}`` of the ground truth.
            tolerance_ns: Largest difference between the stamps of a frame and its ground truth.
            frame_rate: In Hz, used if neither stamps nor times of recording rise.

        Raises:
            BagError: The bag is damaged.
        """
        chosen = {image_topic, *slots} | ({info_topic} if info_topic is not None else set())
        by_topic: dict[str, list[Message]] = {topic: [] for topic in chosen}
        order: dict[str, list[int]] = {topic: [] for topic in chosen}
        for number, message in enumerate(recording.messages(chosen)):
            by_topic[message.topic].append(message)
            order[message.topic].append(number)
        frames = by_topic[image_topic]
        times = Times.of(frames)
        stamps, stamps_are, fault = list(times.stamps), HEADER_STAMPS, fault_of(times.stamps)
        if fault is not None:
            stamps, stamps_are = identities(times, frame_rate)
        matches, truth = {}, {}
        for topic, slot in slots.items():
            found = match(times, Times.of(by_topic[topic]), tolerance_ns)
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


def _infos_of(
    frames: list[Message], infos: list[Message], frame_order: list[int], info_order: list[int]
) -> list[Message | None]:
    """Finds for each frame the camera_info of its stamp, otherwise the newest before it.

    Args:
        frames: The frames in recorded order.
        infos: The camera_info messages in recorded order.
        frame_order: Position of each frame among all messages, rising.
        info_order: Position of each camera_info among all messages, rising.
    """
    of_stamp: dict[int, list[int]] = {}
    for number, info in enumerate(infos):
        of_stamp.setdefault(info.stamp_ns, []).append(number)
    found: list[Message | None] = []
    for frame, place in zip(frames, frame_order, strict=True):
        before = bisect_left(info_order, place)
        if same := of_stamp.get(frame.stamp_ns):
            # Several may share the stamp: the newest before the frame, or else the first after.
            found.append(infos[same[max(0, bisect_left(same, before) - 1)]])
        else:
            found.append(infos[before - 1] if before else None)
    return found


# The clock was set forward if an interval is this many times the usual one and at least a second.
_STEP_FACTOR = 10
_STEP_NS = 1_000_000_000


def fault_of(stamps: Sequence[int]) -> str | None:
    """Says why a camera's stamps do not tell frames apart; None if they rise."""
    if all(first < second for first, second in pairwise(stamps)):
        return None
    stamped = [stamp for stamp in stamps if stamp]
    if not stamped:
        return f"the driver sets no stamp: all {len(stamps)} are zero"
    if len(set(stamps)) == 1:
        return f"the driver does not set the stamp: all {len(stamps)} are {_seconds(stamps[0])}"
    faults = []
    if zeros := len(stamps) - len(stamped):
        faults.append(f"the driver sets no stamp on {zeros} of {len(stamps)} frames")
    if repeated := len(stamped) - len(set(stamped)):
        faults.append(f"{repeated} of {len(stamps)} stamps repeat another one")
    back = [first - second for first, second in pairwise(stamped) if second < first]
    if back:
        faults.append(f"stamps go back {_times(len(back))}, by up to {_seconds(max(back))}")
    return "; ".join(faults)


def identities(times: Times, frame_rate: float) -> tuple[list[int], str]:
    """Finds rising stamps for frames whose own stamps do not rise.

    Args:
        times: Times of the frames.
        frame_rate: In Hz, used if the times of recording do not rise either.

    Returns:
        A stamp in nanoseconds for each frame, and what the stamps are.
    """
    if all(first < second for first, second in pairwise(times.recorded)):
        return list(times.recorded), "the times of recording"
    first = times.recorded[0] if times.recorded else 0
    step = round(1e9 / frame_rate)
    stamps = [first + i * step for i in range(len(times.recorded))]
    return stamps, f"even steps of {frame_rate:g} Hz"


def play_times(stamps: Sequence[int], recorded: Sequence[int]) -> list[int]:
    """Returns when to play each frame, in nanoseconds from the first one.

    Follows the stamps, or the times of recording across a step where the clock was set forward.

    Args:
        stamps: Rising stamps of the frames.
        recorded: Times of recording of the same frames.
    """
    if not stamps:
        return []
    steps = [second - first for first, second in pairwise(stamps)]
    usual = max(_STEP_NS, _STEP_FACTOR * median(steps)) if steps else 0
    times = [0]
    for step, (first, second) in zip(steps, pairwise(recorded), strict=True):
        if step > usual and 0 <= second - first < step:
            step = second - first
        times.append(times[-1] + step)
    return times


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.9f}".rstrip("0").rstrip(".") + " s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
