# SPDX-License-Identifier: Apache-2.0
"""How a model runs: the options of a :class:`~anomaly_seg_ros.inference.segmenter.Segmenter`.

No torch here, because command lines take their choices and defaults from this module.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTO, TORCH, TORCH_COMPILE = "auto", "torch", "torch_compile"
OPENVINO, ONNXRUNTIME = "openvino", "onnxruntime"
BACKENDS = (AUTO, TORCH, TORCH_COMPILE, OPENVINO, ONNXRUNTIME)

RESIZED, FULL, TILED = "resized", "full", "tiled"
INFERENCE_MODES = (RESIZED, FULL, TILED)
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# The crop that public Cityscapes networks are trained on: a smaller tile would show them less
# context than they have learnt to use. config/detector.yaml has the same values.
TILE_SIZE = (768, 768)
TILE_OVERLAP = 128


@dataclass(frozen=True)
class SegmenterOptions:
    """Device, arithmetic, and how frames reach the network.

    Attributes:
        device: ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: Of the network's arithmetic: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        inference_size: (height, width) that frames are resized to; not in mode ``full``. None or
            zeros: the model's own size in mode ``resized`` (less for small frames), the frame's
            own in mode ``tiled``.
        inference_mode: One of :data:`INFERENCE_MODES`; see
            :class:`~anomaly_seg_ros.inference.preprocessing.Framing`.
        tile_size: (height, width) of a tile in mode ``tiled``; None or zeros: the model's own
            size.
        tile_overlap: Minimum overlap of neighbouring tiles, in pixels.
        backend: One of :data:`BACKENDS`; see
            :func:`~anomaly_seg_ros.inference.backends.selection.select_backend`.
        num_threads: CPU threads of OpenVINO and ONNX Runtime; 0 picks a number that suits the
            machine. torch uses those of the process (``torch.set_num_threads``).
        cuda_graphs: Whether to replay the network on a GPU as one CUDA graph per input size.
    """

    device: str = "auto"
    precision: str = "auto"
    inference_size: tuple[int, int] | None = None
    inference_mode: str = RESIZED
    tile_size: tuple[int, int] | None = TILE_SIZE
    tile_overlap: int = TILE_OVERLAP
    backend: str = TORCH
    num_threads: int = 0
    cuda_graphs: bool = False
