# SPDX-License-Identifier: Apache-2.0
"""torch itself, operator by operator or, on a GPU, as a graph.

cuDNN's benchmark mode stays off: it chooses algorithms by timing them in each process, and as
algorithms round differently, one bag would no longer give the same bytes twice. The TF32 flags are
left alone, too; fp16 and bf16 do not use TF32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.backends.contract import ScaledNetwork, as_output
from anomaly_seg_ros.inference.backends.cuda_graph import GraphedNetwork, Network
from anomaly_seg_ros.inference.devices import select_precision
from anomaly_seg_ros.models.for_inference import round_kernels
from anomaly_seg_ros.system.stopwatch import Stopwatch


class TorchBackend:
    """Runs the network with torch.

    Args:
        network: BatchNorm folded already; taken over and changed.
        metadata: The network's metadata.
        device: CPU or CUDA.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        cuda_graphs: Replay the network on a GPU as one CUDA graph per input size.

    Attributes:
        notes: Sentences about options that this backend could not follow.

    Raises:
        ParameterError: The device does not support the precision.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        device: torch.device,
        precision: str,
        cuda_graphs: bool = False,
    ) -> None:
        self.precision, dtype = select_precision(precision, device)
        if dtype != torch.float32:
            network = round_kernels(network, dtype)
        network = network.to(device, dtype).to(memory_format=torch.channels_last)
        self._device = device
        self._network = ScaledNetwork(network.requires_grad_(False), metadata)
        self.notes: list[str] = []
        self._graphs: GraphedNetwork | None = None
        if cuda_graphs and device.type == "cuda":
            self._graphs = GraphedNetwork(self._runnable(), device, self.notes.append)
        elif cuda_graphs:
            self.notes.append(f"cuda_graphs: has no effect on the {device.type.upper()}")

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        uploaded = self._upload(frames)
        watch.lap("upload")
        output = as_output((self._graphs or self._runnable())(uploaded))
        watch.lap("network")
        return output

    def forget(self) -> None:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        if self._graphs is not None:
            self._graphs.forget()

    def _runnable(self) -> Network:
        """Returns the callable that maps uploaded frames to outputs."""
        return self._network

    def _upload(self, frames: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.require(frames, requirements=("C", "W")))
        if self._device.type == "cpu":
            return tensor
        # From pinned memory the host need not wait for the copy. torch reuses such blocks for
        # later frames, but not before their copy has ended.
        pinned = tensor.pin_memory()
        if self._graphs is not None:
            return self._graphs.upload(pinned)
        return pinned.to(self._device, non_blocking=True)
