# SPDX-License-Identifier: Apache-2.0
"""Made-up road scenes, for tests that train on anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.corpora import Corpus, TrainingData
from training.engine.config import read_data

ROAD, SKY = 0, 10


def scenes(name: str, seed: int, count: int = 3) -> Corpus:
    """Sky above road, in noise; 72 x 108."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (72, 108, 3)).astype(np.uint8) for _ in range(count)]
    label = np.full((72, 108), ROAD, np.uint8)
    label[:36] = SKY
    return Corpus.of_arrays(name, images, [label.copy() for _ in images])


def training_data(
    folder: Path = Path("no folder"), objects: dict | None = None, **sections: list[Corpus]
) -> TrainingData:
    """Frames in memory in place of a data block's: ``train=[...], validation=[...]``."""
    data = TrainingData({"taxonomy": "cityscapes", "objects": objects or {}}, folder)
    sections = {"unknown": [], "calibration": sections.get("validation", []), **sections}
    data.__dict__.update(sections)
    return data


def real_held_out_frames(shared_data: Path, every: int) -> Corpus:
    """Every n-th of the 500 Cityscapes validation frames of 256 x 256."""
    (corpus,) = TrainingData(read_data("development", Path()), shared_data).validation
    return corpus.every(every)
