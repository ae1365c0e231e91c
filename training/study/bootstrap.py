# SPDX-License-Identifier: Apache-2.0
"""Intervals of a study's figures: over images, which are resampled, at the mean over seeds.

The images of a set are drawn with replacement, the same ones for every row and seed (Efron &
Tibshirani 1993, chapter 8). A replicate's figure is the mean over the seeds of a row; its
difference to another row's is paired, because both saw the same images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.metrics.resampling import FIGURES, draw_images, interval, pooled_figures
from training.study.image_scores import Histograms, read_histograms

REPLICATES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure or a difference of two, in percent.

    Attributes:
        value: From the exact figures.
        low, high: Its interval.
    """

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is above or below zero, 0 where it holds it."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Sampled:
    """Figures of one score on one set, over one or several seeds, in percent.

    Attributes:
        names: Names of the images.
        seeds: Figure by name -> exact figure of each seed.
        drawn: Figure by name -> (1 + R,) means over the seeds, from the histograms; the first is
            over every image once.
    """

    names: tuple[str, ...]
    seeds: dict[str, list[float]]
    drawn: dict[str, np.ndarray]

    @classmethod
    def joined(cls, parts: Sequence[Sampled]) -> Sampled:
        """Joins single seeds.

        Raises:
            ParameterError: They were measured on different images.
        """
        _check_names(parts)
        return cls(
            parts[0].names,
            {name: [value for part in parts for value in part.seeds[name]] for name in FIGURES},
            {name: np.mean([part.drawn[name] for part in parts], axis=0) for name in FIGURES},
        )

    def estimate(self, figure: str, than: Sampled | None = None) -> Estimate:
        """A figure, or how much it is above that of ``than``.

        Raises:
            ParameterError: The two were measured on different images.
        """
        value, drawn = float(np.mean(self.seeds[figure])), self.drawn[figure]
        if than is not None:
            _check_names([self, than])
            value -= float(np.mean(than.seeds[figure]))
            drawn = drawn - than.drawn[figure]
        # What the bins move the figure by, over all images, is taken off every replicate.
        low, high = interval(drawn[1:] - (drawn[0] - value), CONFIDENCE)
        return Estimate(value, low, high)


def _check_names(parts: Sequence[Sampled]) -> None:
    if len({part.names for part in parts}) > 1:
        raise ParameterError("two results to compare were measured on different images")


class Samples:
    """Draws the images of the runs in a folder, the same ones for all runs.

    Args:
        out: Folder with the run folders.
        histograms_name: Name of the histograms' file in each.
    """

    def __init__(self, out: Path, histograms_name: str) -> None:
        self._out = out
        self._name = histograms_name
        self._read = functools.lru_cache(maxsize=2)(self._read_folder)
        self._known: dict[tuple[str, str, str], Sampled] = {}

    def __call__(self, run: str, key: str, score: str, exact: dict[str, float]) -> Sampled:
        """Samples one run's score on one set.

        Args:
            run: Name of the run folder.
            key: Set.
            score: Score.
            exact: Exact figures, as fractions.

        Raises:
            ParameterError: The run has no histograms of this score, or its file is damaged.
        """
        if (run, key, score) not in self._known:
            try:
                table = self._read(run)[key][score]
            except KeyError as error:
                raise ParameterError(
                    f"{self._out / run / self._name}: no {score} on {key}"
                ) from error
            images = len(table.names)
            weights = np.vstack([np.ones(images), draw_images(images, REPLICATES, seed=0)])
            drawn = pooled_figures(weights, table.positives, table.negatives)
            self._known[run, key, score] = Sampled(
                table.names,
                {name: [100 * exact[name]] for name in FIGURES},
                {name: 100 * drawn[name] for name in FIGURES},
            )
        return self._known[run, key, score]

    def _read_folder(self, run: str) -> Histograms:
        return read_histograms(self._out / run / self._name)
