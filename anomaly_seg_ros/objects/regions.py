# SPDX-License-Identifier: Apache-2.0
"""Unknown objects of one frame: connected regions of the anomaly score, with hysteresis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.objects.ground_plane import GroundPlane


class Box(NamedTuple):
    """An upright rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Cuts the box out of a map (H, W)."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class ObjectRule:
    """What counts as an object.

    Attributes:
        threshold: On the unit scale, [0, 1]; an object has a pixel whose score reaches it.
        low_threshold: An object extends over the connected pixels whose score reaches this. A
            value above ``threshold`` counts as ``threshold``.
        min_area: Pixels of the smallest object.
        min_size_m: Side in metres of the smallest object, where its distance is known: the square
            root of its area, projected to the distance of its foot. 0 = any.
        min_score: Smallest score of an object, [0, 1].
        limit: Greatest number of objects in a frame; the highest scores are kept.

    Raises:
        ParameterError: A value is out of range.
    """

    threshold: float = 0.5
    low_threshold: float = 0.45
    min_area: int = 100
    min_size_m: float = 0.0
    min_score: float = 0.0
    limit: int = 100

    def __post_init__(self) -> None:
        for name in ("threshold", "low_threshold", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.min_size_m < np.inf:
            raise ParameterError(f"min_size_m must not be negative, got {self.min_size_m}")
        for name in ("min_area", "limit"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class UnknownObject:
    """A connected region that the model takes for nothing it knows.

    Attributes:
        box: The smallest box around it.
        area: Its pixels.
        score: Mean of its pixels' scores on the unit scale, [0, 1].
        peak: The highest of them.
        mask: (height, width) bool, its pixels inside the box.
        class_id: The closed-set class it was mistaken for: the most frequent trainId of its
            pixels, the smallest of equally frequent ones; 255 without labels.
        class_share: Share of its pixels with that class, [0, 1]; 0 without labels.
        distance_m: Distance of its foot on the road along the optical axis, metres; None
            without a ground plane, or where the foot is not below the horizon.
    """

    box: Box
    area: int
    score: float
    peak: float
    mask: np.ndarray
    class_id: int = IGNORE_INDEX
    class_share: float = 0.0
    distance_m: float | None = None

    @property
    def foot(self) -> tuple[float, float]:
        """(x, y) in pixels of where it stands: the middle of its lowest row of pixels."""
        columns = np.flatnonzero(self.mask[-1])
        middle = (columns[0] + columns[-1]) / 2
        return self.box.left + float(middle), float(self.box.top + self.box.height - 1)


def find_objects(
    score: np.ndarray,
    rule: ObjectRule,
    labels: np.ndarray | None = None,
    ground: GroundPlane | None = None,
) -> list[UnknownObject]:
    """Finds the unknown objects of one frame.

    The 8-connected regions of ``score >= low_threshold`` that hold a pixel of ``score >=
    threshold``: hysteresis thresholding (Canny, PAMI 1986, section VI). Thresholds are compared
    as float32, as a subscriber of the score would. Pixels that are NaN belong to no object.

    Args:
        score: (H, W) float32 on the unit scale, higher = more anomalous.
        rule: What counts as an object.
        labels: (H, W) uint8 closed-set trainIds, to tell what an object was mistaken for.
        ground: The road, for ``min_size_m`` and ``distance_m``.

    Returns:
        The objects by falling score; equal ones from top to bottom.

    Raises:
        ImageError: The shapes differ.
    """
    if score.ndim != 2 or (labels is not None and labels.shape != score.shape):
        others = "" if labels is None else f", labels are {labels.shape}"
        raise ImageError(f"score is {score.shape}{others}; expected (H, W)")
    high = np.float32(rule.threshold)
    inside = score >= min(np.float32(rule.low_threshold), high)
    objects = []
    for box, mask in _components(inside, score, high, rule.min_area):
        values = score[box.slices][mask]
        mean, peak = float(values.mean(dtype=np.float64)), float(values.max())
        if peak < high or mean < rule.min_score:
            continue
        distance = None if ground is None else ground.distance_or_none(box.top + box.height - 1)
        # Without a distance, pixels alone decide.
        if ground is not None and distance is not None:
            side = np.sqrt(values.size) * distance / ground.fy
            if side < rule.min_size_m:
                continue
        class_id, share = IGNORE_INDEX, 0.0
        if labels is not None:
            counts = np.bincount(labels[box.slices][mask])
            class_id = int(counts.argmax())
            share = float(counts[class_id] / values.size)
        objects.append(
            UnknownObject(box, values.size, mean, peak, mask, class_id, share, distance)
        )
    objects.sort(key=lambda unknown: (-unknown.score, unknown.box.top, unknown.box.left))
    return objects[: rule.limit]


def _components(
    inside: np.ndarray, score: np.ndarray, high: np.float32, min_area: int
) -> Iterator[tuple[Box, np.ndarray]]:
    """The 8-connected components of a (H, W) bool map that may be objects.

    Following borders finds the few regions of a large frame in a tenth of the time that it takes
    to label every pixel; the labelling is then done in their boxes only.

    Yields:
        (box, mask) of each component of at least ``min_area`` pixels, (h, w) bool; left out are
        most of those without a pixel of ``score >= high``.
    """
    picture = inside.view(np.uint8)
    contours, hierarchy = cv2.findContours(picture, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None:
        return
    parents = hierarchy[0, :, 3]
    for number in np.flatnonzero(parents < 0).tolist():  # the others are borders of holes
        box = Box(*cv2.boundingRect(contours[number]))
        if box.width * box.height < min_area or score[box.slices].max() < high:
            continue
        x, y = contours[number][0, 0]
        _, parts = cv2.connectedComponents(picture[box.slices], connectivity=8)
        mask = parts == parts[y - box.top, x - box.left]
        if np.count_nonzero(mask) >= min_area:
            yield box, mask


def paint(objects: Sequence[UnknownObject], shape: tuple[int, int]) -> np.ndarray:
    """Draws objects into a map.

    Args:
        objects: At most 65535.
        shape: (H, W) of the frame.

    Returns:
        (H, W) uint16, 1 for the pixels of the first object and so on, 0 elsewhere.
    """
    picture = np.zeros(shape, np.uint16)
    for number, unknown in enumerate(objects, 1):
        picture[unknown.box.slices][unknown.mask] = number
    return picture
