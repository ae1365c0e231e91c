"""A normalizing flow over the pre-logits of single pixels: its density as anomaly score.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 6.3
(Table 5, bottom), which puts it in the place of the unnormalised density; in the spirit of the
embedding density of Blum et al., "Fishyscapes" (ICCV Workshops 2019). The paper says nothing of
the flow's size: Glow's step with pixel-wise coupling networks is this package's choice.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
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

_METADATA_KEY = "pointwise_flow"


class PointwiseFlow(nn.Module):
    """Steps of ActNorm, 1x1 convolution and affine coupling on the channels of each pixel.

    A pixel's density depends on nothing but its own channels, so it is the same in any picture
    and at any size. Computed in the parameters' precision, whatever autocast is on.

    Args:
        channels: C of the pre-logits, at least 2.
        steps: Steps of the flow.
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
        """The same as :meth:`log_density`."""
        return self.log_density(pre_logits)

    def log_density(self, pre_logits: Tensor) -> Tensor:
        """Log-density of every pixel's vector.

        Args:
            pre_logits: (N, C, h, w) of any float dtype.

        Returns:
            (N, h, w) nats, float32 (float64 if the parameters are).

        Raises:
            ImageError: Another number of channels.
        """
        latents, log_det = self.encode(pre_logits)
        dimensions = latents.shape[1]
        log_base = -0.5 * (latents.square().sum(1) + dimensions * math.log(2 * math.pi))
        return log_base + log_det

    def encode(self, pre_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Maps to latents (N, C, h, w), with (N, h, w) ln |det| of each pixel's map."""
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
        """Inverse of :meth:`encode`."""
        with torch.autocast(latents.device.type, enabled=False):
            for layer in reversed(self.layers):
                latents = layer.inverse(latents)
        return latents

    @torch.no_grad()
    def initialise(self, pre_logits: Tensor) -> float:
        """Sets every ActNorm from data, once; call before training.

        Args:
            pre_logits: (N, C, h, w) of in-distribution images.

        Returns:
            Their mean log-density afterwards, nats.
        """
        set_from_next_batch(self)
        return float(self.log_density(pre_logits).mean())


def flow_density(output: NetworkOutput, flow: PointwiseFlow) -> Tensor:
    r"""Anomaly score :math:`-\ln p(z)`, on the grid of the logits.

    Args:
        output: Of the network that the flow was fitted to.
        flow: On the same device.

    Returns:
        (N, h, w) float32, higher = more anomalous.
    """
    score = -flow.log_density(output.pre_logits)
    size = output.logits.shape[-2:]
    if score.shape[-2:] != size:
        score = F.interpolate(score[:, None], size=size, mode="bilinear", align_corners=False)[
            :, 0
        ]
    return score


def flow_hybrid(output: NetworkOutput, flow: PointwiseFlow) -> Tensor:
    r"""The hybrid score with the flow's density, :math:`\ln P(d_{out} | x) - \ln p(z)`.

    Args:
        output: Of a network with an outlier head.
        flow: As for :func:`flow_density`.

    Raises:
        CheckpointError: The network has no outlier head.
    """
    if output.ood_logits is None:
        raise CheckpointError("the hybrid score with a flow needs a model with an outlier head")
    return output.ood_logits.float().log_softmax(1)[:, 1] + flow_density(output, flow)


def save_pointwise_flow(path: Path, flow: PointwiseFlow, provenance: dict[str, Any]) -> None:
    """Writes weights as safetensors, so that an interrupted write leaves no file.

    Args:
        path: The file.
        flow: Any.
        provenance: Plain values; say which network the flow belongs to.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    header = json.dumps({"arguments": flow.arguments, "provenance": provenance})
    save_tensors(path, flow, {_METADATA_KEY: header})


def load_pointwise_flow(path: Path) -> PointwiseFlow:
    """Reads what :func:`save_pointwise_flow` wrote.

    Returns:
        The flow in eval mode, on the CPU.

    Raises:
        CheckpointError: Missing, damaged, not a point-wise flow, or not fitting its description.
    """
    tensors, header = read_tensors(path)
    if _METADATA_KEY not in header:
        raise CheckpointError(f"{path}: no {_METADATA_KEY!r} metadata, so it is no such flow")
    content = parse_json(header[_METADATA_KEY], f"{path}: metadata", CheckpointError)
    try:
        with torch.device("meta"):  # a file may ask for any size
            blank = PointwiseFlow(**content["arguments"])
        if misfit := compare(blank.state_dict(), tensors):
            raise CheckpointError(f"{path} does not fit PointwiseFlow: {misfit}")
        flow = PointwiseFlow(**content["arguments"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: unreadable metadata: {error!r}") from error
    load_strictly(flow, tensors, str(path))
    return flow.eval()
