"""The flow of a fine-tuning is built as its configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_flow
import torch
from tiny_flow import Segmenter, batch
from torch.utils.data import Dataset

from training.data.batches import MixedBatch
from training.engine.config import CONFIGS, load_config
from training.flow.checkpoints import save_flow
from training.flow.layers import FlowStep
from training.flow.synthetic_negatives import build_flow_negatives


class Views(Dataset):
    def __getitem__(self, index: int) -> MixedBatch:
        generator = torch.Generator().manual_seed(index)
        images = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        return MixedBatch(images, torch.zeros(64, 64).long(), torch.zeros(64, 64).byte())


@pytest.mark.parametrize("source", ["weights", "size"])
def test_checkpointing_reaches_the_flow_and_changes_no_gradient(
    tmp_path: Path, source: str
) -> None:
    weights = tmp_path / "flow.safetensors"
    save_flow(weights, tiny_flow.flow(), {})
    value = {"weights": weights, "size": "tiny"}[source]
    gradients = []
    for checkpointing in (False, True):
        settings = [
            f"flow.{source}={value}",
            f"flow.checkpointing={str(checkpointing).lower()}",
            "flow.options.largest=24",
            "precision=fp32",
        ]
        config = load_config(CONFIGS / "fine_tune.yaml", None, settings)
        torch.manual_seed(0)
        player = build_flow_negatives(config, Views(), lambda x: x / 255, torch.device("cpu"))
        steps = [m for m in player.flow.modules() if isinstance(m, FlowStep)]
        assert {step.checkpointing for step in steps} == {checkpointing}
        torch.manual_seed(1)
        player.after_step(Segmenter(), batch())
        gradients.append({k: p.grad for k, p in player.flow.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)
