# SPDX-License-Identifier: Apache-2.0
"""A flow and a segmenter of milliseconds; run as a script it is one rank of a joint training.

torchrun --nproc-per-node 2 test/tiny_flow.py FOLDER
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.system.process_group import leave_process_group
from training.data.mixing.mixed_views import MixedBatch
from training.flow import synthetic_negatives
from training.flow.dense_flow import DenseFlow
from training.flow.rectangles import Rectangles
from training.flow.synthetic_negatives import FlowNegatives, FlowOptions, flow_optimizer

OPTIONS = FlowOptions(smallest=16, largest=24, epoch_steps=0)


class Segmenter(SegmentationNetwork):
    """Five classes at a quarter of the resolution; with BatchNorm and dropout to tempt a leak."""

    def __init__(self, confident: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 1)
        with torch.no_grad():
            for parameter in (*self.features.parameters(), *self.head.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            self.head.weight.mul_(2.0 if confident else 1.0)
        if confident:
            self.eval()

    def forward(self, images: Tensor) -> NetworkOutput:
        features = torch.relu(self.norm(self.features(images)))
        return NetworkOutput(features, self.head(features))


def flow() -> DenseFlow:
    """Tiny, and away from the start, where couplings are identities."""
    torch.manual_seed(0)
    model = DenseFlow.by_name("tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        model.blocks[0].units[0][0].norm.log_scale -= 1.5  # samples within 0 to 255, mostly
    return model


def negatives(precision: str = "fp32", **changes: float) -> FlowNegatives:
    model = flow()
    options = replace(OPTIONS, **changes)
    return FlowNegatives(model, flow_optimizer(model, 1e-2), lambda x: x / 255, options, precision)


def batch(count: int = 4) -> MixedBatch:
    generator = torch.Generator().manual_seed(5)
    base = torch.randint(0, 200, (count, 3, 5, 6), generator=generator).repeat_interleave(8, 2)
    images = base.repeat_interleave(8, 3) + torch.randint(0, 50, (1,), generator=generator)
    return MixedBatch(
        images.to(torch.uint8),
        torch.randint(0, 5, (count, 40, 48), generator=generator),
        torch.zeros(count, 40, 48, dtype=torch.uint8),
    )


def train_share(rank: int, world: int) -> dict[str, Tensor]:
    """Three steps on this rank's images, with the same samples as a single process would draw.

    So that the two can be compared, the random numbers of the whole batch are drawn on every
    rank, which then takes its part. The ranks have different numbers of inlier patches.
    """
    model = flow()
    # Plain steps: Adamax divides by the gradient's size, so it blows rounding up where that is ~0.
    steps = torch.optim.SGD(model.parameters(), 1e-3)
    player = FlowNegatives(model, steps, lambda x: x / 255, OPTIONS, "fp32")
    whole_batch = batch()
    whole_batch.ood_mask[0] = 1
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    share = MixedBatch(*(x[mine] for x in whole_batch))
    network = Segmenter().eval()
    draw = synthetic_negatives.draw_rectangles
    log_prob = player.flow.log_prob
    sample = player.flow.sample

    def rectangles(count: int, *args: object) -> Rectangles:
        r = draw(4, *args)
        return r._replace(images=torch.arange(count), tops=r.tops[mine], lefts=r.lefts[mine])

    synthetic_negatives.draw_rectangles = rectangles
    player.flow.sample = lambda count, size, g: sample(4, size, g)[mine]

    def all_bits(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        padded = images.new_zeros(4, *images.shape[1:])
        padded[mine] = images
        return log_prob(padded, generator)[mine]

    player.flow.log_prob = all_bits
    try:
        for step in range(3):
            torch.manual_seed(step)
            player.after_step(network, share)
    finally:
        synthetic_negatives.draw_rectangles = draw
    return {key: value.clone() for key, value in player.flow.state_dict().items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    own_rank = int(os.environ["RANK"])
    state = train_share(own_rank, int(os.environ["WORLD_SIZE"]))
    torch.save(state, Path(sys.argv[1]) / f"rank{own_rank}.pt")
    leave_process_group()
