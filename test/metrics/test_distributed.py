"""Two processes and four give the digits of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.distributed import (
    merge_across_ranks,
    merge_confusion_across_ranks,
)
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.states import save_state

_ROOT = Path(__file__).parents[2]

# Each rank takes every n-th frame, as a distributed sampler deals them out.
_JOB = """
import dataclasses, json, sys
from pathlib import Path
from torch import distributed
sys.path[:0] = [sys.argv[2], sys.argv[3]]
import test_distributed as here
from anomaly_seg_ros.system.process_group import leave_process_group
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
pixels, matrix = here.collect(range(rank, here.FRAMES, ranks))
total = here.merge_across_ranks(pixels)
matrix = here.merge_confusion_across_ranks(matrix)
folder = Path(sys.argv[1])
(folder / f"{rank}.json").write_text(here.report(total, matrix))
here.save_state(total, folder / f"{rank}.state")
leave_process_group()
"""

FRAMES = 7


def collect(numbers: range) -> tuple[PixelScores, ConfusionMatrix]:
    """Made-up frames; the wide scores fill many pages, the rounded ones tie."""
    pixels, matrix = PixelScores(), ConfusionMatrix(3)
    for number in numbers:
        rng = np.random.default_rng(number)
        mask = rng.choice([0, 1, 255], (40, 50), p=[0.8, 0.1, 0.1]).astype(np.uint8)
        score = rng.normal(size=mask.shape) * 10.0 ** rng.integers(-5, 5, mask.shape) + mask % 2
        if number % 2:
            score = np.round(score)
        pixels.update(score.astype(np.float32), mask, str(number))
        matrix.update(rng.integers(0, 3, (9, 9)), rng.integers(0, 3, (9, 9)))
    return pixels, matrix


def report(pixels: PixelScores, matrix: ConfusionMatrix) -> str:
    metrics = pixels.compute()
    figures = [metrics.AP, metrics.AUROC, metrics.fpr95, metrics.positives, metrics.negatives]
    means = [metrics.per_image.AP, metrics.per_image.AUROC, metrics.per_image.fpr95]
    return json.dumps([figures, means, metrics.per_image.frames, matrix.counts.tolist()])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, pytest.param(8, marks=pytest.mark.thorough)])
def test_torchrun_gives_the_digits_of_one_process(tmp_path: Path, ranks: int) -> None:
    # Eight ranks share seven frames: the last one has nothing to add.
    (tmp_path / "job.py").write_text(_JOB)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", str(tmp_path / "job.py"), str(tmp_path)]
    command += [str(_ROOT), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    pixels, matrix = collect(range(FRAMES))
    save_state(pixels, tmp_path / "one.state")
    for rank in range(ranks):
        assert (tmp_path / f"{rank}.json").read_text() == report(pixels, matrix)
        one, all_ranks = tmp_path / "one.state", tmp_path / f"{rank}.state"
        assert all_ranks.read_bytes() == one.read_bytes()


def test_without_torch_distributed_nothing_happens() -> None:
    pixels, matrix = collect(range(1))
    assert merge_across_ranks(pixels) is pixels
    assert merge_confusion_across_ranks(matrix) is matrix
