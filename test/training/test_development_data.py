# SPDX-License-Identifier: Apache-2.0
"""The samples that the shipped models are trained on stay the same, bit for bit.

``python test/training/test_development_data.py`` writes the digests anew, for a change that is
meant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from training import closed_set, fine_tune, train_flow, train_style
from training.data.corpora import TrainingData
from training.data.held_out import NaturalFrames, mixed_held_out
from training.data.style.cameras import CameraPairs
from training.data.views import ViewDataset, view_options
from training.engine.config import CONFIGS, load_config
from training.engine.entry import Run, data_folder

FILE = Path(__file__).with_name("development_data.json")


def digest(arrays: Iterable[Any]) -> str:
    """Digest of arrays or tensors, with their shapes."""
    found = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        found.update(array.tobytes())
        found.update(str(array.shape).encode())
    return found.hexdigest()[:16]


def samples(dataset: Any, count: int) -> list[str]:
    """Digests of the first samples."""
    return [digest(dataset[i]) for i in range(count)]


def run_of(config: dict[str, Any], data: Path) -> Run:
    """A run that writes nothing."""
    silent = SimpleNamespace(is_main=False, rank=0, world_size=1)
    return Run(config, Path("nowhere"), data, torch.device("cpu"), silent)


def fine_tuning(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Mixed samples and held-out mixed frames of a fine-tuning."""
    data = TrainingData(config["data"], folder)
    dataset = fine_tune.build_dataset(run_of(config, folder), data)
    mixed = mixed_held_out(config["mixing"], data, 9)
    arrays = (array for frame in mixed for array in (frame.image, frame.mask))
    return {"samples": samples(dataset, 12), "mixed": digest(arrays)}


def make(folder: Path) -> dict[str, Any]:
    """Digests of every entry's first samples and of the held-out frames.

    Args:
        folder: Folder of the data sets.
    """
    cpu = torch.backends.cpu.get_cpu_capability()
    found: dict[str, Any] = {"opencv": cv2.__version__, "cpu": cpu}
    for name in ("fine_tune", "deeplab_lite0_open_set", "erfnet"):
        changes = None if name == "fine_tune" else CONFIGS / f"{name}.yaml"
        found[name] = fine_tuning(load_config(CONFIGS / "fine_tune.yaml", changes), folder)

    config = load_config(CONFIGS / "closed_set.yaml")
    data = TrainingData(config["data"], folder)
    classes = len(data.taxonomy.classes)
    bounds = tuple(config["class_weight_range"])
    weights = closed_set.class_weights(data.train, classes, config["class_weight_power"], bounds)
    views = ViewDataset(
        data.train, view_options(config), classes, config["seed"], config["class_uniform"]
    )
    found["closed_set"] = {
        "samples": samples(views, 16),
        "class_weights": [round(weight, 6) for weight in weights.tolist()],
    }

    config = load_config(CONFIGS / "flow.yaml", overrides=["validation_crops=8"])
    crops = train_flow.Crops(train_flow.views_of(data, data.train, config, config["seed"]))
    held_out = train_flow.held_out_crops(run_of(config, folder), data)
    found["flow"] = {"samples": samples(crops, 8), "held_out": digest(held_out)}

    size = load_config(CONFIGS / "style.yaml")["size"]
    pairs = CameraPairs(data.train, classes, size, 1)
    every_fifth = [corpus.every(5) for corpus in data.validation]
    held_out = train_style.held_out_pairs(every_fifth, classes, size, 4)
    found["style"] = {"samples": samples(pairs, 4), "held_out": digest(held_out)}

    natural = NaturalFrames(data.unknown)
    found["calibration"] = {
        "inliers": digest(x for corpus in data.calibration for pair in corpus for x in pair),
        "natural": digest(x for frame in natural for x in (frame.image, frame.mask)),
    }
    found["validation"] = digest(x for corpus in every_fifth for pair in corpus for x in pair)
    return found


@pytest.mark.slow
@pytest.mark.data
def test_samples_are_the_same(shared_data: Path) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    if expected["opencv"] != cv2.__version__:
        pytest.skip(f"written with OpenCV {expected['opencv']}, whose resampling may differ")
    if expected["cpu"] != torch.backends.cpu.get_cpu_capability():
        pytest.skip(f"written on a CPU with {expected['cpu']}, whose last bits may differ")
    assert make(shared_data) == expected


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(data_folder()), indent=1) + "\n", encoding="utf-8")
