# SPDX-License-Identifier: Apache-2.0
"""Matches ground truth with frames, by stamp over a whole bag; each message is used once.

If the driver sets no stamps, the times of recording decide where they leave no doubt.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anomaly_seg_ros.bags.recording import Message

# By record time, a message's frame must be this many times nearer than the next one.
_CLEARLY = 4


class Times(NamedTuple):
    """Stamps and record times of a topic's messages in nanoseconds, in recorded order."""

    stamps: Sequence[int]
    recorded: Sequence[int]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Times:
        """The times of messages."""
        return cls([x.stamp_ns for x in messages], [x.recorded_ns for x in messages])

    @property
    def have_stamps(self) -> bool:
        """True if the stamps tell messages apart: not all zero, nor mostly the same."""
        different = len(set(self.stamps))
        return 2 * different > len(self.stamps) and (any(self.stamps) or len(self.stamps) == 1)


@dataclass(frozen=True)
class Match:
    """How one ground-truth topic matches the frames.

    Attributes:
        frame_of: For each message the number of its frame, -1 if it has none.
        frames: Number of frames.
        by_record_time: True if stamps were useless and the times of recording decided.
        repeated: Number of messages left out because later ones have the same stamp.
        largest_ns: Largest difference between the stamps of a pair; 0 by record time.
        nearest_ns: Smallest difference of stamps between a message without a frame and any frame;
            None if every message has a frame, or by record time.
    """

    frame_of: tuple[int, ...]
    frames: int
    by_record_time: bool = False
    repeated: int = 0
    largest_ns: int = 0
    nearest_ns: int | None = None

    @property
    def messages(self) -> int:
        """Number of messages."""
        return len(self.frame_of)

    @property
    def matched(self) -> int:
        """Number of messages with a frame."""
        return sum(frame >= 0 for frame in self.frame_of)

    @property
    def unmatched(self) -> int:
        """Number of messages without a frame, not counting the repeated ones."""
        return self.messages - self.matched - self.repeated


def match(frames: Times, truth: Times, tolerance_ns: int = 0) -> Match:
    """Gives each message the frame of its stamp, or the nearest one within a tolerance.

    Args:
        frames: Times of the images.
        truth: Times of the ground truth.
        tolerance_ns: Largest difference between the stamps of a pair.
    """
    if not (frames.have_stamps and truth.have_stamps):
        everything = range(len(frames.stamps)), range(len(truth.stamps))
        pairs = _by_record_time(frames, truth, *everything)
        frame_of = tuple(pairs.get(i, -1) for i in everything[1])
        return Match(frame_of, len(frames.stamps), by_record_time=True)
    pairs = _same_stamp(frames, truth)
    if tolerance_ns:
        pairs |= _nearest(frames.stamps, truth.stamps, pairs, tolerance_ns)
    done = {truth.stamps[t] for t in pairs}
    rising = sorted(frames.stamps)
    left = [stamp for t, stamp in enumerate(truth.stamps) if t not in pairs and stamp not in done]
    return Match(
        tuple(pairs.get(i, -1) for i in range(len(truth.stamps))),
        len(rising),
        repeated=len(truth.stamps) - len(pairs) - len(left),
        largest_ns=max(
            (abs(frames.stamps[f] - truth.stamps[t]) for t, f in pairs.items()), default=0
        ),
        nearest_ns=min((_distance(rising, stamp) for stamp in left), default=None),
    )


def _same_stamp(frames: Times, truth: Times) -> dict[int, int]:
    """``{message: frame}`` of equal stamps; record time or order decides among several."""
    of_stamp: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for which, stamps in enumerate((frames.stamps, truth.stamps)):
        for index, stamp in enumerate(stamps):
            of_stamp[stamp][which].append(index)
    pairs: dict[int, int] = {}
    for stamp, (f, t) in of_stamp.items():
        if not f:
            continue
        if len(f) > 1 and t:
            clear = _by_record_time(frames, truth, f, t)
            if clear or not stamp:
                pairs |= clear
                continue
        pairs |= dict(zip(t[-len(f) :], f, strict=False))
    return pairs


def _by_record_time(
    frames: Times, truth: Times, of_frames: Sequence[int], of_truth: Sequence[int]
) -> dict[int, int]:
    """``{message: frame}`` if each message has one clearly nearest frame, otherwise empty."""
    if not of_frames:
        return {}
    order = sorted(of_frames, key=lambda index: frames.recorded[index])
    rising = [frames.recorded[index] for index in order]
    pairs: dict[int, int] = {}
    for index in of_truth:
        at = truth.recorded[index]
        place = bisect_left(rising, at)
        near = sorted(
            (abs(rising[i] - at), i) for i in range(max(0, place - 2), min(len(rising), place + 2))
        )
        if len(near) > 1 and (near[0][0] * _CLEARLY > near[1][0] or not near[1][0]):
            return {}
        pairs[index] = order[near[0][1]]
    return pairs if len(set(pairs.values())) == len(pairs) else {}


def _nearest(
    frames: Sequence[int], truth: Sequence[int], pairs: dict[int, int], tolerance: int
) -> dict[int, int]:
    """``{message: frame}`` of the unpaired rest, the closest pairs first."""
    taken = set(pairs.values())
    free = sorted((stamp, i) for i, stamp in enumerate(frames) if i not in taken)

    def closest(index: int) -> tuple[int, tuple[int, int], int] | None:
        stamp = truth[index]
        place = bisect_left(free, (stamp,))
        near = ((abs(x[0] - stamp), x, index) for x in free[max(0, place - 1) : place + 1])
        best = min(near, default=None)
        return best if best is not None and best[0] <= tolerance else None

    found: dict[int, int] = {}
    queue = [
        best for i in range(len(truth)) if i not in pairs and (best := closest(i)) is not None
    ]
    heapq.heapify(queue)
    while queue:
        _, frame, index = heapq.heappop(queue)
        place = bisect_left(free, frame)
        if free[place : place + 1] == [frame]:
            found[index] = frame[1]
            del free[place]
        elif (best := closest(index)) is not None:
            heapq.heappush(queue, best)
    return found


def _distance(rising: Sequence[int], stamp: int) -> int:
    place = bisect_left(rising, stamp)
    return min(abs(stamp - x) for x in rising[max(0, place - 1) : place + 1])
