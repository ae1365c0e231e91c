# SPDX-License-Identifier: Apache-2.0
"""Pixel figures by distance from the camera (DenseHybrid, section 6.4, Table 6).

distance = baseline x focal length / disparity, in bins [a, b) that include their lower end, 5 m
wide from 5 m to 50 m by default. A bin pools the pixels of all frames whose own distance lies in
it, in-distribution and anomalous alike: its false alarms are those at that range.

The paper leaves both open. Two more choices: the focal length is the camera's horizontal one,
because disparity runs along the row (the public code averages both); and a pixel without
disparity has no distance, so it is dropped and counted (the public code gives it the largest
distance in the image). That affects small objects most, hence the option to give such a pixel of
an object the median distance of the object's measured pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.components import label_components
from anomaly_seg_ros.metrics.exact_counts import DEFAULT_MEMORY_LIMIT, ExactCounts
from anomaly_seg_ros.metrics.pixel_scores import PixelMetrics, PixelScores

DISTANCE_EDGES = tuple(float(metres) for metres in range(5, 55, 5))


@dataclass(frozen=True)
class PixelCounts:
    """Numbers of labelled pixels of each kind."""

    anomalous: int
    in_distribution: int


@dataclass(frozen=True)
class DistanceMetrics:
    """Figures of each bin, and the pixels in no bin.

    Attributes:
        edges_m: (B + 1) edges in metres; bin i is [edges_m[i], edges_m[i + 1]).
        bins: Figures of each bin; NaN and a note if a kind of pixel is absent.
        unmeasured: Labelled pixels without a distance.
        out_of_range: Labelled pixels nearer or farther than all bins.
    """

    edges_m: tuple[float, ...]
    bins: tuple[PixelMetrics, ...]
    unmeasured: PixelCounts
    out_of_range: PixelCounts


def distance_from_disparity(disparity: np.ndarray, focal: float, baseline_m: float) -> np.ndarray:
    """Distance along the optical axis from a disparity map.

    Args:
        disparity: (H, W) in pixels, <= 0 or NaN where not measured. Lost and Found stores
            256 x this, Cityscapes 256 x this + 1; both store 0 where it is not measured.
        focal: Horizontal focal length in pixels of the same image.
        baseline_m: Distance between the two cameras in metres.

    Returns:
        (H, W) float64 metres, NaN where not measured.

    Raises:
        ParameterError: The focal length or the baseline is not positive.
    """
    for what, value in (("focal", focal), ("baseline_m", baseline_m)):
        if not 0 < value < np.inf:
            raise ParameterError(f"{what} must be positive, got {value}")
    disparity = np.asarray(disparity, np.float64)
    distance = np.full(disparity.shape, np.nan)
    np.divide(baseline_m * focal, disparity, out=distance, where=disparity > 0)
    return distance


def fill_objects(distance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gives each object's unmeasured pixels the median distance of its measured ones.

    Args:
        distance: (H, W) metres, NaN where not measured.
        mask: (H, W) anomaly mask; an object is an 8-connected component of value 1.

    Returns:
        A filled copy. Objects without a measured pixel and pixels outside objects are unchanged.
    """
    objects, sizes = label_components(mask == ANOMALY)
    measured = (objects > 0) & np.isfinite(distance)
    owners, values = objects[measured], distance[measured]
    order = np.lexsort((values, owners))
    owners, values = owners[order], values[order]
    # Each object's values are now contiguous and rising.
    present, start, count = np.unique(owners, return_index=True, return_counts=True)
    medians = np.full(sizes.size, np.nan)
    medians[present] = (values[start + (count - 1) // 2] + values[start + count // 2]) / 2
    return np.where((objects > 0) & ~measured, medians[objects], distance)


class DistanceScores:
    """Collects scores of labelled pixels by distance; exact, mergeable, order-independent.

    Args:
        edges_m: Edges of the bins in metres, rising; bin i is [edges_m[i], edges_m[i + 1]).
        object_median: True gives an object's unmeasured pixels its median distance (see
            :func:`fill_objects`) instead of dropping them.
        memory_limit: Bytes for the counts of either kind of pixels, over all bins; beyond it
            they go to temporary files.

    Raises:
        ParameterError: The edges do not rise.
    """

    def __init__(
        self,
        edges_m: Sequence[float] = DISTANCE_EDGES,
        object_median: bool = False,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
    ) -> None:
        self.edges_m = tuple(float(edge) for edge in edges_m)
        self.object_median = bool(object_median)
        rising = np.diff(self.edges_m) > 0
        if not rising.size or not rising.all():
            raise ParameterError(f"edges_m must be two or more rising numbers, got {edges_m}")
        limit = memory_limit // rising.size
        self._bins = [PixelScores(limit, per_image=False) for _ in rising]
        # (unmeasured, out of range) x (in-distribution, anomalous)
        self._left_out = np.zeros((2, 2), np.int64)

    def update(
        self, score: np.ndarray, mask: np.ndarray, distance: np.ndarray, name: str = ""
    ) -> None:
        """Adds one frame.

        Args:
            score: (H, W) float32 anomaly score, higher = more anomalous.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else dropped.
            distance: (H, W) metres, NaN where not measured, from
                :func:`distance_from_disparity`.
            name: The frame's name, for error messages.

        Raises:
            ImageError: The shapes differ, or a pixel's score in a bin is not finite.
        """
        score, mask, distance = np.asarray(score), np.asarray(mask), np.asarray(distance)
        if score.ndim != 2 or not score.shape == mask.shape == distance.shape:
            frame = f"frame {name!r}" if name else "frame"
            raise ImageError(
                f"{frame}: score is {score.shape}, mask is {mask.shape}, distance is "
                f"{distance.shape}; all must be (H, W)"
            )
        if self.object_median:
            distance = fill_objects(distance, mask)
        labelled = (mask == ANOMALY) | (mask == IN_DISTRIBUTION)
        score, mask, distance = score[labelled], mask[labelled], distance[labelled]
        # 0 means nearer than all bins, B + 1 farther or, for NaN, unmeasured.
        bins = np.searchsorted(self.edges_m, distance, side="right")
        unmeasured = np.isnan(distance)
        outside = ~unmeasured & ((bins == 0) | (bins == len(self.edges_m)))
        for row, where in enumerate((unmeasured, outside)):
            for column, kind in enumerate((IN_DISTRIBUTION, ANOMALY)):
                self._left_out[row, column] += np.count_nonzero(mask[where] == kind)
        for index, pixels in enumerate(self._bins):
            inside = bins == index + 1
            pixels.update(score[inside][None], mask[inside][None], name)

    def merge(self, other: DistanceScores) -> None:
        """Adds the pixels of another collection with the same bins, which is not changed."""
        if (other.edges_m, other.object_median) != (self.edges_m, self.object_median):
            raise ValueError(
                f"cannot merge bins {other.edges_m} (object_median={other.object_median}) into "
                f"{self.edges_m} (object_median={self.object_median})"
            )
        for mine, theirs in zip(self._bins, other._bins, strict=True):
            mine.merge(theirs)
        self._left_out += other._left_out

    def compute(self) -> DistanceMetrics:
        """Figures over everything added so far."""
        unmeasured, outside = (
            PixelCounts(anomalous=int(anomalous), in_distribution=int(known))
            for known, anomalous in self._left_out
        )
        return DistanceMetrics(
            edges_m=self.edges_m,
            bins=tuple(pixels.compute() for pixels in self._bins),
            unmeasured=unmeasured,
            out_of_range=outside,
        )

    def state(self) -> dict[str, np.ndarray]:
        """The whole state, as arrays of numbers that can be saved without pickle.

        Bin i has ``bin<i>/positives/keys``, ``bin<i>/positives/occurrences`` and the same for
        ``negatives``.
        """
        arrays = {
            "edges_m": np.array(self.edges_m),
            "object_median": np.array(self.object_median),
            "left_out": self._left_out.copy(),
        }
        for prefix, counts in self._named_counts():
            arrays[f"{prefix}/keys"], arrays[f"{prefix}/occurrences"] = counts.to_arrays()
        return arrays

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> DistanceScores:
        """The collection whose :meth:`state` this is."""
        scores = cls(state["edges_m"].tolist(), bool(state["object_median"]))
        scores._left_out += state["left_out"]
        for prefix, counts in scores._named_counts():
            counts.add_arrays(state[f"{prefix}/keys"], state[f"{prefix}/occurrences"])
        return scores

    def _named_counts(self) -> Iterator[tuple[str, ExactCounts]]:
        for index, pixels in enumerate(self._bins):
            yield f"bin{index}/positives", pixels.positives
            yield f"bin{index}/negatives", pixels.negatives
