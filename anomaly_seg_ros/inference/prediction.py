"""What is asked of a segmenter about an image, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class UnknownRule:
    """Which pixels are called unknown, and what of it is wanted.

    Attributes:
        score: Name of the anomaly score; its calibration is the model's.
        threshold: On the unit scale; compared as float32, as subscribers would.
        mask, open_set_labels: Whether to make them; the unit score is always made.
    """

    score: str
    threshold: float
    mask: bool = True
    open_set_labels: bool = False


@dataclass
class Prediction:
    """What the network says about one image, at the image's size (H, W).

    Attributes:
        labels: (H, W) uint8 trainIds, or None if not asked for.
        confidence: (H, W) uint8, maximum softmax probability times 255, or None.
        scores: Raw anomaly scores by name, (H, W) float32, higher = more anomalous.
        unit_score: (H, W) float32, the rule's score on the unit scale, or None without a rule.
        mask: (H, W) uint8, 255 where unknown, else 0, or None.
        open_set_labels: (H, W) uint8, the labels with K where unknown, or None.
        inference_ms: From the image in memory to the arrays in memory.
        stages_ms: Parts of it: ``resize``, ``upload``, ``network``, ``score``, ``download``. Of a
            batch, each frame has those of the frames that ran with it.
    """

    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    unit_score: np.ndarray | None = None
    mask: np.ndarray | None = None
    open_set_labels: np.ndarray | None = None
    inference_ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What of a prediction was asked for.

    Attributes:
        scores: Names of anomaly scores, in raw units.
        labels, confidence: Whether these are.
        unknown: How to tell what is unknown; None asks for nothing of it.
    """

    scores: tuple[str, ...]
    labels: bool
    confidence: bool
    unknown: UnknownRule | None
