# SPDX-License-Identifier: Apache-2.0
"""A joint training of a point-wise flow; run as a script it is one rank of it.

torchrun --nproc-per-node 2 test/tiny_density.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_training import OpenSetNetwork, mixed_batches, share_of

from anomaly_seg_ros.system.process_group import leave_process_group
from training.engine.distributed import average_gradients
from training.flow.joint_density import DensityOptions, JointDensity
from training.flow.pointwise_flow import PointwiseFlow
from training.losses import build_loss


def train_share(rank: int, world: int) -> dict[str, Tensor]:
    """Three steps on this rank's images: the flow, and the gradients of the segmenter.

    All pixels are taken, and none is a matter of chance. The ranks have different numbers of them.
    """
    torch.manual_seed(rank)  # the first rank's weights count
    flow = PointwiseFlow(8, steps=2, width=16)
    options = DensityOptions(outlier_weight=0.5, reaches_network="both", clip_norm=1e9)
    player = JointDensity(flow, 1.0, lambda step: 1.0, 0.9, options, initialised=True)
    # Plain steps: Adam divides by the gradient's size, so it blows rounding up where that is ~0.
    player._optimizer = torch.optim.SGD(flow.parameters(), 1e-3)
    network: nn.Module = OpenSetNetwork()
    loss = player.listening(build_loss("cross_entropy"))
    for batch in mixed_batches(0, 3):
        images, labels, ood_mask = share_of(batch, rank, world)
        loss(network(images.float() / 255), labels, ood_mask).total.backward()
        player.after_step(network, batch)
    average_gradients(network)
    gradients = {f"{k}.grad": p.grad for k, p in network.named_parameters()}
    return {**{k: v.clone() for k, v in flow.state_dict().items()}, **gradients}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    own_rank = int(os.environ["RANK"])
    state = train_share(own_rank, int(os.environ["WORLD_SIZE"]))
    torch.save(state, Path(sys.argv[1]) / f"rank{own_rank}.pt")
    leave_process_group()
