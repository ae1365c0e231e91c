"""The flow inside the training loop: both modes train, and a killed run continues bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_flow import Segmenter, batch, negatives

from training.data.batches import MixedBatch
from training.engine.loop import Distributed, LoopOptions, Trainer
from training.losses import build_loss
from training.objective import Objective

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
