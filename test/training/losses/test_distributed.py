# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes with uneven outlier counts give the gradient of one with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_losses
import torch
from torch import Tensor

from training.losses import LOSSES


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", tiny_losses.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert run.returncode == 0, run.stderr
    return torch.load(Path(folder) / "gradients.pt", weights_only=True)


@pytest.mark.parametrize("batch", tiny_losses.BATCHES)
@pytest.mark.parametrize("name", LOSSES)
def test_same_gradient(name: str, batch: str, two_processes: dict[str, dict[str, Tensor]]) -> None:
    one = tiny_losses.gradients(name, batch)
    two = two_processes[f"{name}/{batch}"]
    used = {key for key, value in two.items() if value.abs().max() > 0}
    assert "stem.weight" in used
    assert used <= one.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_the_batch_is_uneven_enough_to_tell() -> None:
    """A mean of the ranks' own means is another number."""
    images, labels, ood_mask = tiny_losses.uneven_batch()
    assert int((ood_mask[:2] == 1).sum()) == 90
    assert int((ood_mask[2:] == 1).sum()) == 3
    network = tiny_losses.TinyNetwork(tiny_losses.CLASSES)
    loss = tiny_losses.build_loss("free_energy")
    with torch.no_grad():
        whole = loss(network(images), labels, ood_mask).terms["ood"]
        halves = [
            loss(network(images[s]), labels[s], ood_mask[s]).terms["ood"]
            for s in (slice(2), slice(2, 4))
        ]
    assert abs(float(whole - sum(halves) / 2)) > 1e-3
