# SPDX-License-Identifier: Apache-2.0
"""A normalizing flow over the pre-logits of single pixels, whose density is an anomaly score.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 6.3
(Table 5, bottom), where it replaces the unnormalised density; similar to the embedding density of
Blum et al., "Fishyscapes" (ICCV Workshops 2019). The paper does not specify the flow. Glow's step
with pixel-wise coupling networks is this package's choice.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.fit import compare, load_strictly
from anomaly_seg_ros.checkpoints.tensor_files import read_tensors, save_tensors
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import CheckpointError, ImageError
from anomaly_seg_ros.io.safe_yaml_json import parse_json
from training.flow.invertible import (
    ActNorm,
    AffineCoupling,
    InvertibleConv1x1,
    set_from_next_batch,
)
from training.losses.reduction import global_count, global_mean
from training.posthoc.base import on_logits_grid

# Name of the file beside the model that the flow was trained with.
FLOW_FILE = "pointwise_flow.safetensors"
_METADATA_KEY = "pointwise_flow"


class PointwiseFlow(nn.Module):
    """Steps of ActNorm, 1x1 convolution and affine coupling on the channels of each pixel.

    A pixel's density depends only on its own channels, not on the rest of the image. It is
    computed in the parameters' precision, regardless of any surrounding autocast.

    Args:
        channels: Channels of the pre-logits, C, at least 2.
        steps: Number of flow steps.
        width: Hidden channels of the coupling networks.
    """

    def __init__(self, channels: int, steps: int = 8, width: int = 64) -> None:
        super().__init__()
        self.arguments = {"channels": channels, "steps": steps, "width": width}

        def build_net(inputs: int, outputs: int) -> nn.Sequential:
            leave = nn.Conv2d(width, outputs, 1)
            nn.init.zeros_(leave.weight)
            nn.init.zeros_(leave.bias)
            enter, between = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, width, 1)
            return nn.Sequential(enter, nn.ReLU(), between, nn.ReLU(), leave)

        self.layers = nn.ModuleList()
        for _ in range(steps):
            self.layers += [
                ActNorm(channels),
                InvertibleConv1x1(channels),
                AffineCoupling(channels, build_net),
            ]

    def forward(self, pre_logits: Tensor) -> Tensor:
        """Same as :meth:`log_density`."""
        return self.log_density(pre_logits)

    def log_density(self, pre_logits: Tensor) -> Tensor:
        """Computes the log-density of every pixel's vector.

        Args:
            pre_logits: (N, C, h, w) of any float dtype.

        Returns:
            (N, h, w) nats, float32 (float64 if the parameters are).

        Raises:
            ImageError: The number of channels is wrong.
        """
        latents, log_det = self.encode(pre_logits)
        dimensions = latents.shape[1]
        log_base = -0.5 * (latents.square().sum(1) + dimensions * math.log(2 * math.pi))
        return log_base + log_det

    def encode(self, pre_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Maps to latents (N, C, h, w), with ln |det| of each pixel's map, (N, h, w).

        Raises:
            ImageError: The number of channels is wrong.
        """
        channels = self.arguments["channels"]
        if pre_logits.ndim != 4 or pre_logits.shape[1] != channels:
            raise ImageError(
                f"the point-wise flow reads pre-logits (N, {channels}, h, w), "
                f"got {tuple(pre_logits.shape)}"
            )
        with torch.autocast(pre_logits.device.type, enabled=False):
            x = pre_logits.to(next(self.parameters()).dtype)
            log_det = x.new_zeros(x.shape[0], *x.shape[2:])
            for layer in self.layers:
                x, change = layer(x)
                log_det = log_det + change
        return x, log_det

    def decode(self, latents: Tensor) -> Tensor:
        """Inverts :meth:`encode`."""
        with torch.autocast(latents.device.type, enabled=False):
            for layer in reversed(self.layers):
                latents = layer.inverse(latents)
        return latents

    @torch.no_grad()
    def initialise(self, pre_logits: Tensor) -> float:
        """Initialises every ActNorm from data; call once before training.

        Args:
            pre_logits: (N, C, h, w) of in-distribution images.

        Returns:
            Their mean log-density after initialisation, in nats.
        """
        set_from_next_batch(self)
        return float(self.log_density(pre_logits).mean())


def density_terms(
    flow: PointwiseFlow, inliers: Tensor, outliers: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    r"""The mean log-densities that training raises and lowers.

    Args:
        flow: The flow.
        inliers: (n, C) float pre-logits.
        outliers: (m, C) float pre-logits; both may be empty.
        floor: Outliers this many nats per channel below the inliers' mean count as the floor.

    Returns:
        :math:`E_{in}[\ln p(z)]` and :math:`E_{out}[\max(\ln p(z) - floor, 0)]`, means over the
        pixels of all processes; 0 without pixels.
    """
    pixels = torch.cat([inliers, outliers])
    # Convolutions refuse an image without a pixel.
    log_p = flow.log_density(pixels.T[None, :, None])[0, 0] if len(pixels) else pixels.sum(1)
    inlier, outlier = log_p.split([len(inliers), len(outliers)])
    everyone = torch.ones_like(inlier)
    level = (global_count(inlier) / global_count(everyone).clamp(min=1)).to(log_p.dtype)
    excess = torch.relu(outlier - (level - floor * pixels.shape[1]))
    return global_mean(inlier, everyone), global_mean(excess, torch.ones_like(outlier))


def flow_density(output: NetworkOutput, flow: PointwiseFlow) -> Tensor:
    r"""Anomaly score :math:`-\ln p(z)`, on the grid of the logits.

    Args:
        output: Output of the network that the flow was fitted to.
        flow: The flow, on the same device.

    Returns:
        (N, h, w) float32, higher = more anomalous.
    """
    return on_logits_grid(-flow.log_density(output.pre_logits), output)


def flow_hybrid(output: NetworkOutput, flow: PointwiseFlow) -> Tensor:
    r"""The hybrid score with the flow's density, :math:`\ln P(d_{out} | x) - \ln p(z)`.

    Args:
        output: Output of a network with an outlier head.
        flow: See :func:`flow_density`.

    Raises:
        CheckpointError: The network has no outlier head.
    """
    if output.ood_logits is None:
        raise CheckpointError("the hybrid score with a flow needs a model with an outlier head")
    return output.ood_logits.float().log_softmax(1)[:, 1] + flow_density(output, flow)


def save_pointwise_flow(path: Path, flow: PointwiseFlow, provenance: dict[str, Any]) -> None:
    """Writes weights as safetensors; an interrupted write leaves no file.

    Args:
        path: File to write.
        flow: The flow.
        provenance: Plain values that say which network the flow belongs to.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    header = json.dumps({"arguments": flow.arguments, "provenance": provenance})
    save_tensors(path, flow, {_METADATA_KEY: header})


def load_pointwise_flow(path: Path) -> PointwiseFlow:
    """Loads a flow written by :func:`save_pointwise_flow`.

    Returns:
        The flow in eval mode, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, not a point-wise flow, or does not match its
            own description.
    """
    tensors, header = read_tensors(path)
    if _METADATA_KEY not in header:
        raise CheckpointError(f"{path}: no {_METADATA_KEY!r} metadata, so it is no such flow")
    content = parse_json(header[_METADATA_KEY], f"{path}: metadata", CheckpointError)
    try:
        with torch.device("meta"):  # a file may claim any size
            blank = PointwiseFlow(**content["arguments"])
        if misfit := compare(blank.state_dict(), tensors):
            raise CheckpointError(f"{path} does not fit PointwiseFlow: {misfit}")
        flow = PointwiseFlow(**content["arguments"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: unreadable metadata: {error!r}") from error
    load_strictly(flow, tensors, str(path))
    return flow.eval()


def flow_beside(model: str | Path) -> Path | None:
    """File of the point-wise flow that was trained along with a model file, if there is one."""
    flow = Path(model).with_name(FLOW_FILE)
    return flow if Path(model).is_file() and flow.is_file() else None
