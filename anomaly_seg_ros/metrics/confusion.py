# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix with IoU and accuracy: exact, one pass, mergeable."""

from __future__ import annotations

import numpy as np

from anomaly_seg_ros.errors import ImageError


class ConfusionMatrix:
    """Counts of (ground truth, prediction) over any number of label images.

    Args:
        num_classes: K. Ground-truth labels outside 0..K-1 are dropped (255 = ignore index);
            predictions outside 0..K-1 count as wrong for every class.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # The last column counts predictions that are no class.
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray, name: str = "") -> None:
        """Adds one image.

        Args:
            target: (H, W) integer labels.
            prediction: (H, W) integer labels.
            name: The frame's name, for error messages.

        Raises:
            ImageError: The shapes differ.
        """
        if target.shape != prediction.shape:
            frame = f"frame {name!r}" if name else "frame"
            raise ImageError(f"{frame}: target is {target.shape}, prediction {prediction.shape}")
        k = self.num_classes
        valid = (target >= 0) & (target < k)
        predicted = prediction[valid].astype(np.int64)
        predicted[(predicted < 0) | (predicted >= k)] = k
        flat = target[valid].astype(np.int64) * (k + 1) + predicted
        self.counts += np.bincount(flat, minlength=k * (k + 1)).reshape(k, k + 1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another matrix of the same size."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge {other.num_classes} into {self.num_classes} classes")
        self.counts += other.counts

    def iou(self) -> np.ndarray:
        """(K,) float64 intersection over union; NaN for classes absent from the ground truth."""
        hits = np.diagonal(self.counts).astype(np.float64)
        in_target = self.counts.sum(1)
        union = in_target + self.counts[:, : self.num_classes].sum(0) - hits
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(in_target > 0, hits / union, np.nan)

    def mean_iou(self) -> float:
        """Mean of :meth:`iou` over the classes that the ground truth contains; NaN if none."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels predicted correctly; NaN without any."""
        total = self.counts.sum()
        return float(np.diagonal(self.counts).sum() / total) if total else float("nan")
