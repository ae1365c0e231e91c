# SPDX-License-Identifier: Apache-2.0
"""What to compute for an image, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class UnknownRule:
    """Which pixels count as unknown, and which maps to make of that.

    Attributes:
        score: Name of the anomaly score, put on the unit scale by the model's calibration.
        threshold: On the unit scale, [0, 1]; a pixel that reaches it is unknown. Compared as
            float32, as a subscriber of ``~/ood_score`` would.
        mask, open_set_labels: Whether to make these maps; the unit score is always made.
    """

    score: str
    threshold: float
    mask: bool = True
    open_set_labels: bool = False


@dataclass(frozen=True)
class OutputRequest:
    """The maps to compute.

    Attributes:
        scores: Names of the anomaly scores to return in raw units.
        labels, confidence: Whether to make these maps.
        unknown: Which pixels count as unknown; None makes none of the maps that depend on it.
    """

    scores: tuple[str, ...] = ()
    labels: bool = True
    confidence: bool = True
    unknown: UnknownRule | None = None

    @property
    def needed_scores(self) -> tuple[str, ...]:
        """Every score that must be computed: those returned, and the rule's."""
        if self.unknown is None or self.unknown.score in self.scores:
            return self.scores
        return (*self.scores, self.unknown.score)


@dataclass
class Prediction:
    """The requested maps of one image, at the image's size (H, W).

    Attributes:
        labels: (H, W) uint8 trainIds; None if not requested, as for the other maps.
        confidence: (H, W) uint8, maximum softmax probability times 255.
        scores: Raw anomaly scores by name, (H, W) float32, higher = more anomalous.
        unit_score: (H, W) float32, the score of the :class:`UnknownRule` on the unit scale.
        mask: (H, W) uint8, 255 where unknown, else 0.
        open_set_labels: (H, W) uint8, the labels, with K (the number of classes) where unknown.
        inference_ms: Milliseconds from the image in memory to the maps in memory.
        stages_ms: Their parts: ``resize``, ``upload``, ``network``, ``score``, ``download``.
            Images that ran in one batch share the times of the batch.
    """

    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    unit_score: np.ndarray | None = None
    mask: np.ndarray | None = None
    open_set_labels: np.ndarray | None = None
    inference_ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)

    def with_unit_score(
        self, unit_score: np.ndarray, threshold: float, unknown_label: int
    ) -> Prediction:
        """The prediction with another unit score, such as a mean over time.

        Args:
            unit_score: (H, W) float32.
            threshold: Of the :class:`UnknownRule`.
            unknown_label: K, which ``open_set_labels`` have where unknown.

        Returns:
            A copy whose ``mask`` and ``open_set_labels`` follow the new score where there were
            any; the latter need ``labels``.
        """
        unknown = unit_score >= np.float32(threshold)
        mask, open_set_labels = self.mask, self.open_set_labels
        if mask is not None:
            mask = unknown.view(np.uint8) * np.uint8(255)
        if open_set_labels is not None:
            if self.labels is None:
                raise ValueError("open_set_labels cannot follow a score without labels")
            open_set_labels = np.where(unknown, np.uint8(unknown_label), self.labels)
        return replace(self, unit_score=unit_score, mask=mask, open_set_labels=open_set_labels)
