"""torch itself, operator by operator or compiled; the only backend on a GPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.backends.contract import ScaledNetwork, as_output
from anomaly_seg_ros.devices import select_precision
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.models.rounding import round_kernels
from anomaly_seg_ros.stopwatch import Stopwatch


class TorchBackend:
    """Runs the network with torch.

    Args:
        network: BatchNorm folded already; taken over and changed.
        metadata: Of the network.
        device: CPU or CUDA.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ParameterError: The device does not have the precision.
    """

    name = "torch"

    def __init__(
        self, network: nn.Module, metadata: ModelMetadata, device: torch.device, precision: str
    ) -> None:
        self.precision, dtype = select_precision(precision, device)
        if dtype != torch.float32:
            network = round_kernels(network, dtype)
        network = network.to(device, dtype, memory_format=torch.channels_last)
        self._device = device
        self._network = ScaledNetwork(network.requires_grad_(False), metadata)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        uploaded = self._upload(frames)
        watch.lap("upload")
        output = as_output(self._network(uploaded))
        watch.lap("network")
        return output

    def _upload(self, frames: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(frames))
        if self._device.type == "cpu":
            return tensor
        # From pinned memory the copy is one transfer that the host need not wait for.
        return tensor.pin_memory().to(self._device, non_blocking=True)
