# SPDX-License-Identifier: Apache-2.0
"""The flow inside a fine-tuning: built as configured, and a killed run resumes bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_flow import Segmenter, batch, flow, negatives
from torch.utils.data import Dataset

from training.data.mixing.mixed_views import MixedBatch
from training.engine.config import CONFIGS, load_config
from training.engine.loop import Distributed, LoopOptions, Trainer
from training.flow.dense_blocks import FlowStep
from training.flow.dense_flow import save_flow
from training.flow.synthetic_negatives import (
    FlowNegatives,
    build_flow_negatives,
    jensen_shannon_to_uniform,
)
from training.losses import build_loss
from training.losses.base import Objective

OPTIONS = LoopOptions(
    steps=4, warmup=1, validate_every=4, checkpoint_every=2, log_every=1, precision="fp32"
)


def trainer(folder: Path, passes: int) -> Trainer:
    player = negatives(passes=passes)
    network = Segmenter().train()
    device = torch.device("cpu")

    def scaling(images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    loss = build_loss("energy_margin", {})
    return Trainer(
        model=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_fn=Objective(player.listening(loss), scaling),
        options=OPTIONS,
        run_dir=folder,
        device=device,
        distributed=Distributed(device),
        validate=lambda average: {},
        config={"passes": passes},
        second_player=player,
    )


def stream(start: int, stop: int) -> Iterator[MixedBatch]:
    for _ in range(start, stop):
        yield batch()


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_a_killed_run_continues_bit_for_bit(tmp_path: Path, passes: int) -> None:
    whole = trainer(tmp_path / "whole", passes)
    start = [p.clone() for p in whole.second_player.flow.parameters()]
    whole.run(stream(0, 4))
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert sum("flow_bits_per_dim" in line for line in logged) == 4
    assert all(line["flow_divergence"] > 0 for line in logged if "flow_divergence" in line)
    assert not any(
        torch.equal(a, b)
        for a, b in zip(start, whole.second_player.flow.parameters(), strict=True)
    )

    class KilledError(Exception):
        pass

    def killed() -> Iterator[MixedBatch]:
        yield from stream(0, 3)
        raise KilledError

    with pytest.raises(KilledError):
        trainer(tmp_path / "killed", passes).run(killed())
    resumed = trainer(tmp_path / "killed", passes)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run(stream(2, 4))
    for mine, other in (
        (whole.model, resumed.model),
        (whole.second_player.flow, resumed.second_player.flow),
    ):
        theirs = other.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in mine.state_dict().items())


class Views(Dataset):
    def __getitem__(self, index: int) -> MixedBatch:
        generator = torch.Generator().manual_seed(index)
        images = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        return MixedBatch(images, torch.zeros(64, 64).long(), torch.zeros(64, 64).byte())


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("passes", ["1", "2"])
def test_the_divergence_is_that_of_the_networks_own_maps(align_corners: bool, passes: str) -> None:
    """Upsampled as the network's maps are, which its losses and the node do as well."""
    settings = ["flow.size=tiny", "flow.options.largest=24", f"flow.options.passes={passes}"]
    config = load_config(CONFIGS / "fine_tune.yaml", None, [*settings, "precision=fp32"])
    network = Segmenter().eval()
    network.align_corners = align_corners

    def scaling(images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    def build() -> FlowNegatives:
        torch.manual_seed(0)
        return build_flow_negatives(config, Views(), network, scaling, torch.device("cpu"))

    player, start = build(), batch()
    torch.manual_seed(3)
    if passes == "1":
        objective = Objective(player.listening(build_loss("energy_margin", {})), scaling)
        objective(network, player.prepare(start))
    found = player.after_step(network, start)["flow_divergence"]

    player = build()  # as it was when its samples were drawn
    torch.manual_seed(3)
    drawn = player._draw(start, 1.0, None)
    logits = network(scaling(drawn.images)).logits
    size = start.images.shape[-2:]
    maps = torch.nn.functional.interpolate(logits, size, None, "bilinear", align_corners)
    pixels = drawn.rectangles.cut(jensen_shannon_to_uniform(maps))
    torch.testing.assert_close(found, pixels.mean().detach())


@pytest.mark.parametrize("source", ["weights", "size"])
def test_checkpointing_reaches_the_flow_and_changes_no_gradient(
    tmp_path: Path, source: str
) -> None:
    weights = tmp_path / "flow.safetensors"
    save_flow(weights, flow(), {})
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
        player = build_flow_negatives(
            config, Views(), Segmenter(), lambda x: x / 255, torch.device("cpu")
        )
        steps = [m for m in player.flow.modules() if isinstance(m, FlowStep)]
        assert {step.checkpointing for step in steps} == {checkpointing}
        torch.manual_seed(1)
        player.after_step(Segmenter(), batch())
        gradients.append({k: p.grad for k, p in player.flow.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)
