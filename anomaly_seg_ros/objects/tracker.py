# SPDX-License-Identifier: Apache-2.0
"""Ids that stay with unknown objects from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.regions import Box, UnknownObject

# Weight of a measured position against the predicted one, and that of the velocity which goes
# with it: Benedict and Bordner, Synthesis of an Optimal Set of Radar Track-While-Scan Smoothing
# Equations, IRE Transactions on Automatic Control, 1962, eq. 21.
_ALPHA = 0.7
_BETA = _ALPHA**2 / (2 - _ALPHA)
# Nothing is followed over a longer pause without any frame.
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class TrackRule:
    """When an object is the same as one before.

    Attributes:
        min_diou: Smallest DIoU of an object's box with a track's predicted one, in [-1, 1]. Two
            equal squares side by side have -0.2; at 0, boxes must overlap.
        birth: Successive frames with an object until it gets an id.
        death_s: A track ends with a frame without its object, if that was seen longer ago than
            this many seconds.

    Raises:
        ParameterError: A value is out of range.
    """

    min_diou: float = -0.2
    birth: int = 2
    death_s: float = 0.5

    def __post_init__(self) -> None:
        if not -1 <= self.min_diou <= 1:
            raise ParameterError(f"min_diou must be in [-1, 1], not {self.min_diou}")
        if self.birth < 1:
            raise ParameterError(f"birth must be at least 1, not {self.birth}")
        if not 0 <= self.death_s < np.inf:
            raise ParameterError(f"death_s must not be negative, got {self.death_s}")


class TrackedObject(NamedTuple):
    """An object of the newest frame with its id, a positive number that is never given again."""

    id: int
    unknown: UnknownObject


@dataclass
class _Track:
    """What is known of one object; vectors are those of :func:`_state`, velocities per second."""

    state: np.ndarray
    velocity: np.ndarray
    seen: float  # seconds, the newest frame with it
    sightings: int = 1
    id: int = 0  # 0 before its birth

    def predicted(self, seconds: float) -> np.ndarray:
        return self.state + self.velocity * (seconds - self.seen)

    def see(self, state: np.ndarray, seconds: float) -> None:
        elapsed = seconds - self.seen
        residual = state - self.predicted(seconds)
        # The second sighting is the first to tell a velocity: it tells all of it.
        alpha, beta = (1.0, 1.0) if self.sightings == 1 else (_ALPHA, _BETA)
        self.state = self.predicted(seconds) + alpha * residual
        if elapsed > 0:
            self.velocity = self.velocity + beta / elapsed * residual
        self.seen = seconds
        self.sightings += 1


class Tracker:
    """Follows the unknown objects of one camera.

    Each track predicts its box with constant velocity of centre and logarithmic size (an
    alpha-beta filter), so that things that the car drives towards may grow. Objects are assigned
    to tracks by the DIoU of the boxes, which is high for much overlap and short distance.

    The assignment is greedy, best pair first. It is not always the one of the largest sum, but
    differs from it only where an object is the best match of two tracks, and needs no solver at
    run time.

    Args:
        rule: When an object is the same as one before.
    """

    def __init__(self, rule: TrackRule | None = None) -> None:
        self.rule = TrackRule() if rule is None else rule
        self._tracks: list[_Track] = []
        self._born = 0
        self._seconds = -np.inf

    def update(self, objects: Sequence[UnknownObject], seconds: float) -> list[TrackedObject]:
        """Adds the next frame.

        Args:
            objects: Those of the frame, in any order.
            seconds: The frame's stamp. All tracks end where it goes back, as that of a bag in a
                loop does, and where it jumps by more than ``LONGEST_PAUSE_S``.

        Returns:
            The objects that have an id, in the order given.
        """
        if not 0 <= seconds - self._seconds <= max(LONGEST_PAUSE_S, self.rule.death_s):
            self._tracks = []
        self._seconds = seconds
        states = [_state(unknown.box) for unknown in objects]
        owners: dict[int, _Track] = {}
        if objects and self._tracks:
            predicted = np.stack([track.predicted(seconds) for track in self._tracks])
            similarity = diou(_corners(predicted), _corners(np.stack(states)))
            for row, column in assign(similarity, self.rule.min_diou):
                owners[column] = self._tracks[row]
        for index, state in enumerate(states):
            if index in owners:
                owners[index].see(state, seconds)
            else:
                owners[index] = _Track(state, np.zeros_like(state), seconds)
                self._tracks.append(owners[index])
        # A thing that is gone before its birth was none.
        self._tracks = [
            track
            for track in self._tracks
            if track.seen == seconds or (track.id and seconds - track.seen <= self.rule.death_s)
        ]
        tracked = []
        for index, unknown in enumerate(objects):
            track = owners[index]
            if not track.id and track.sightings >= self.rule.birth:
                self._born += 1
                track.id = self._born
            if track.id:
                tracked.append(TrackedObject(track.id, unknown))
        return tracked


def diou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance-IoU of boxes: IoU - d^2 / c^2 (Zheng et al., AAAI 2020, eq. 6 and 7).

    d is the distance of the two centres, c the diagonal of the smallest box around both.

    Args:
        first: (M, 4) float64 left, top, right, bottom.
        second: (N, 4), the same.

    Returns:
        (M, N) float64 in [-1, 1].
    """
    a, b = first[:, None], second[None]
    shared = np.minimum(a, b)[..., 2:] - np.maximum(a, b)[..., :2]
    intersection = shared.clip(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    around = np.maximum(a, b)[..., 2:] - np.minimum(a, b)[..., :2]
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    overlap = intersection / (areas[0] + areas[1] - intersection)
    return overlap - (between**2).sum(-1) / (around**2).sum(-1)


def assign(similarity: np.ndarray, smallest: float) -> list[tuple[int, int]]:
    """Pairs rows with columns greedily, the most similar pair first.

    Args:
        similarity: (M, N).
        smallest: Pairs below this are not made.

    Returns:
        (row, column) of each pair; no row and no column comes twice.
    """
    rows, columns = np.nonzero(similarity >= smallest)
    order = np.argsort(-similarity[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            pairs.append((row, column))
            free_rows.remove(row)
            free_columns.remove(column)
    return pairs


def _state(box: Box) -> np.ndarray:
    """(centre x, centre y, log width, log height) in pixels."""
    centre = (box.left + box.width / 2, box.top + box.height / 2)
    return np.array([*centre, np.log(box.width), np.log(box.height)])


def _corners(states: np.ndarray) -> np.ndarray:
    """(N, 4) left, top, right, bottom of states."""
    half = np.exp(states[:, 2:].clip(max=20)) / 2  # a wild prediction must not overflow
    return np.concatenate([states[:, :2] - half, states[:, :2] + half], 1)
