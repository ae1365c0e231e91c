# SPDX-License-Identifier: Apache-2.0
"""Where scores come from: a model in this process, or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from anomaly_seg_ros.calibration import ScoreCalibration
from anomaly_seg_ros.checkpoints.loading import resolve_model
from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.evaluation.dumps import find_dump, read_dump
from anomaly_seg_ros.evaluation.frames import folder_fingerprint
from anomaly_seg_ros.evaluation.plan import ALL, DUMPED, IN_PROCESS, NamedPath, Plan, chosen_scores
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.objects.rates import ObjectRates

# Name of a score that comes from files, which do not say what it is.
DUMPED_SCORE = "dumped"


class Scorer(Protocol):
    """A source of scores for frames.

    Attributes:
        name: Name in tables.
        via: How the scores are made: ``in-process`` or ``dumped``.
        scores: Names of the scores.
        default_score: The score that pictures show, if it is among the scores.
        classes: Classes of the predicted labels; None if it predicts none.
        palette: (K, 3) uint8 RGB colours of the classes; None if it predicts no labels.
        calibration: By score; scores that were never calibrated are missing.
        object_rates: The model's table of found objects and false alarms, or None.
        configuration: JSON-like; what the scores depend on.
        notes: Sentences for the reader of the figures.
    """

    name: str
    via: str
    scores: tuple[str, ...]
    default_score: str
    classes: tuple[str, ...] | None
    palette: np.ndarray | None
    calibration: dict[str, ScoreCalibration]
    object_rates: ObjectRates | None
    configuration: dict[str, Any]
    notes: list[str]

    def __call__(self, data: str, sample: LoadedSample, labels: bool) -> Prediction:
        """Returns all scores of a frame, and its labels if requested, from one forward pass."""

    def fingerprint(self) -> str:
        """A digest that changes with files that the configuration does not cover."""


class ModelScorer:
    """A model in this process; see :class:`Scorer`.

    Raises:
        CheckpointError, DeviceError, ParameterError: See :meth:`Segmenter.load`; or the model has
            none of the requested scores.
    """

    via = IN_PROCESS

    def __init__(self, model: NamedPath, plan: Plan, device: str) -> None:
        self.name = model.name
        self.segmenter = Segmenter.load(model.source, plan.segmenter, device=device)
        metadata, framing = self.segmenter.metadata, self.segmenter.framing
        available = self.segmenter.available_scores
        self.scores = chosen_scores(plan.scores, available)
        if not self.scores:
            raise ParameterError(
                f"model {model.name!r} has none of the scores {', '.join(plan.scores)}; it "
                f"offers {', '.join(available)}"
            )
        self.default_score = metadata.default_score
        self.classes: tuple[str, ...] | None = metadata.classes
        self.palette: np.ndarray | None = metadata.palette
        self.calibration = metadata.calibration
        self.object_rates = metadata.object_rates
        self.notes = [
            f"the model has no score {name}"
            for name in plan.scores
            if name not in (*self.scores, ALL)
        ]
        uncalibrated = [name for name in self.scores if name not in self.calibration]
        if uncalibrated:
            self.notes.append(f"not calibrated: {', '.join(uncalibrated)}")
        self.configuration: dict[str, Any] = {
            "name": metadata.name,
            "architecture": metadata.architecture,
            "sha256": file_sha256(resolve_model(model.source)),
            "device": self.segmenter.device.type,
            "threads": torch.get_num_threads() if self.segmenter.device.type == "cpu" else None,
            "backend": self.segmenter.backend,
            "precision": self.segmenter.precision,
            "inference_mode": framing.mode,
            "inference_size": framing.size and list(framing.size),
            "tile_size": framing.tile and list(framing.tile),
            "tile_overlap": framing.overlap,
        }

    def __call__(self, data: str, sample: LoadedSample, labels: bool) -> Prediction:
        """See :class:`Scorer`."""
        return self.segmenter.predict(sample.image, self.scores, labels, confidence=False)

    def fingerprint(self) -> str:
        """See :class:`Scorer`; the configuration already has the weights' digest."""
        return ""


class DumpedScorer:
    """Scores from files, see :mod:`.dumps`; see :class:`Scorer`.

    Raises:
        DatasetError: There is no such folder.
    """

    via = DUMPED
    default_score = DUMPED_SCORE
    classes: tuple[str, ...] | None = None
    palette: np.ndarray | None = None
    object_rates: ObjectRates | None = None

    def __init__(self, dumped: NamedPath) -> None:
        self._folder = Path(dumped.source)
        if not self._folder.is_dir():
            raise DatasetError(f"{self._folder}: no such folder of scores")
        self.name = dumped.name
        self.scores: tuple[str, ...] = (DUMPED_SCORE,)
        self.calibration: dict[str, ScoreCalibration] = {}
        self.configuration: dict[str, Any] = {
            "name": dumped.name,
            "folder": str(self._folder.resolve()),
        }
        self.notes = ["scores from files: no labels and no calibration"]

    def __call__(self, data: str, sample: LoadedSample, labels: bool) -> Prediction:
        """See :class:`Scorer`."""
        path = find_dump(self._folder, data, sample.name)
        return Prediction(scores={DUMPED_SCORE: read_dump(path, sample.image.shape[:2])})

    def fingerprint(self) -> str:
        """See :class:`Scorer`."""
        return folder_fingerprint(self._folder)
