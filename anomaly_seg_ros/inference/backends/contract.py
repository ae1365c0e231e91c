# SPDX-License-Identifier: Apache-2.0
"""What every backend does: frames as bytes in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.system.stopwatch import Stopwatch


class Backend(Protocol):
    """Runs one network on one device, in one thread at a time.

    Attributes:
        name: One of :data:`~anomaly_seg_ros.inference.options.BACKENDS`, never ``auto``.
        precision: ``fp32``, ``bf16`` or ``fp16``: the arithmetic inside. Logits may come in it.
        notes: Sentences about options that this backend could not follow.
    """

    name: str
    precision: str

    @property
    def notes(self) -> Sequence[str]:
        """See the class."""
        ...

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """Runs the network.

        Args:
            frames: (N, H, W, 3) uint8 RGB, H and W multiples of the network's ``size_multiple``.
            watch: Records the laps ``upload`` and ``network``.

        Returns:
            Logits and outlier logits on the device, valid until the next call; the pre-logits are
            left out (an empty tensor).

        Raises:
            DeviceError: The network failed while it ran, or ran out of memory.
            ExportError: The network cannot be converted for this backend at this size.
        """
        ...

    def forget(self) -> None:
        """Frees what is cached per input size; it is made again when needed."""
        ...


class ScaledNetwork(nn.Module):
    """A network with its input scaling in front.

    Args:
        network: In eval mode, on its device, in its precision.
        metadata: The network's metadata.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.network = network
        weight = next(network.parameters())
        self._dtype, device = weight.dtype, weight.device
        constants = metadata.input_scaling.constants(device)
        for name, value in zip(("mean", "std"), constants, strict=True):
            self.register_buffer(name, value)
        self.eval()

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, H, W, 3) uint8 RGB to logits and, where there is a head, outlier logits."""
        # (N, H, W, 3) in memory is (N, 3, H, W) in channels-last order: no transpose is needed.
        images = (frames.permute(0, 3, 1, 2) - self.mean) / self.std
        output = self.network(images.to(self._dtype))
        if output.ood_logits is None:
            return (output.logits,)
        return output.logits, output.ood_logits


def as_output(tensors: Sequence[Tensor]) -> NetworkOutput:
    """Names the tensors that :class:`ScaledNetwork` returns."""
    logits, *ood_logits = tensors
    return NetworkOutput(logits.new_empty(0), logits, *ood_logits)


def as_batch(outputs: Sequence[NetworkOutput]) -> NetworkOutput:
    """Joins the outputs of single frames of one size to those of a batch."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    heads = [output.ood_logits for output in outputs if output.ood_logits is not None]
    ood_logits = torch.cat(heads) if heads else None
    return NetworkOutput(first.pre_logits, torch.cat([o.logits for o in outputs]), ood_logits)
