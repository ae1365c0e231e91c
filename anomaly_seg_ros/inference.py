"""From an RGB image to labels, anomaly scores and confidence.

segmenter = Segmenter.load("default", device="auto")
prediction = segmenter.predict(image, scores=("max_logit", "energy"))
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints import load_model
from anomaly_seg_ros.devices import select_device, select_precision
from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.framing import FULL, RESIZED, TILE_OVERLAP, TILE_SIZE, TILED, Framing
from anomaly_seg_ros.memory import out_of_memory_as_device_error
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.models.fusion import fold_batchnorm
from anomaly_seg_ros.tiling import band_height, row_bands, run_in_tiles, upsampled_argmax

# What needs less memory, by inference mode.
_LESS_MEMORY = {
    RESIZED: "take inference mode 'tiled' or a smaller inference size",
    FULL: "take inference mode 'tiled'",
    TILED: "take smaller tiles",
}


@dataclass
class Prediction:
    """What the network says about one image, at the image's size (H, W).

    Attributes:
        labels: (H, W) uint8 trainIds, or None if not asked for.
        confidence: (H, W) uint8, maximum softmax probability times 255, or None.
        scores: Raw anomaly scores by name, (H, W) float32, higher = more anomalous.
        inference_ms: From the image in memory to the arrays in memory.
    """

    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    inference_ms: float = 0.0


class Segmenter:
    """A network with its metadata on a device, ready for images of any size.

    Args:
        network: See :class:`~anomaly_seg_ros.models.contract.SegmentationNetwork`; taken over and
            changed (BatchNorm is folded).
        metadata: Of the network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        inference_size, inference_mode, tile_size, tile_overlap: How frames reach the network; see
            :meth:`Framing.choose <anomaly_seg_ros.framing.Framing.choose>`.

    Attributes:
        framing: How frames reach the network.
        inference_size: (height, width) to which frames are resized; None if they keep their own.
        available_scores: Names of the scores that the model can compute.

    Raises:
        DeviceError, ParameterError: What was asked for does not exist or does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        device: str = "auto",
        precision: str = "auto",
        inference_size: tuple[int, int] | None = None,
        inference_mode: str = RESIZED,
        tile_size: tuple[int, int] | None = TILE_SIZE,
        tile_overlap: int = TILE_OVERLAP,
    ) -> None:
        self.metadata = metadata
        self.device = select_device(device)
        self.precision, self._dtype = select_precision(precision, self.device)
        self.framing = Framing.choose(
            inference_mode,
            inference_size,
            tile_size,
            tile_overlap,
            metadata.inference_size,
            network.size_multiple,
        )
        self.inference_size = self.framing.size
        network = fold_batchnorm(network.eval())
        self._network = network.to(
            self.device, self._dtype, memory_format=torch.channels_last
        ).requires_grad_(False)
        self._scale = 255 * torch.tensor(metadata.std, device=self.device).view(1, 3, 1, 1)
        self._offset = 255 * torch.tensor(metadata.mean, device=self.device).view(1, 3, 1, 1)
        self._align_corners = getattr(network, "align_corners", False)
        has_head = getattr(network, "outlier_head", None) is not None
        self.available_scores = tuple(
            name
            for name in score_functions.SCORE_NAMES
            if not score_functions.missing_for(name, metadata.statistics is not None, has_head)
        )

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        device: str = "auto",
        precision: str = "auto",
        inference_size: tuple[int, int] | None = None,
        inference_mode: str = RESIZED,
        tile_size: tuple[int, int] | None = TILE_SIZE,
        tile_overlap: int = TILE_OVERLAP,
    ) -> Segmenter:
        """Loads a model by name or file; see :func:`~anomaly_seg_ros.checkpoints.load_model`.

        Raises:
            CheckpointError, DeviceError, ParameterError: See there and the class.
        """
        select_precision(precision, select_device(device))  # refuse before the slow part
        network, metadata = load_model(model)
        return cls(
            network,
            metadata,
            device,
            precision,
            inference_size,
            inference_mode,
            tile_size,
            tile_overlap,
        )

    def warm_up(self) -> float:
        """Runs one grey image, so that the first frame does not pay for allocations.

        Where frames keep their own size, the grey image has a tile's or the model's.

        Returns:
            Milliseconds.

        Raises:
            DeviceError: Out of memory.
        """
        grey = np.full((*self.framing.usual_size, 3), 127, np.uint8)
        return self.predict(grey, scores=self.available_scores).inference_ms

    def predict(
        self,
        image: np.ndarray,
        scores: Sequence[str] = ("max_logit",),
        labels: bool = True,
        confidence: bool = True,
    ) -> Prediction:
        """Segments one image.

        Args:
            image: (H, W, 3) uint8 RGB, any strides.
            scores: Names of the anomaly scores to compute.
            labels: Whether to compute labels.
            confidence: Whether to compute class confidence.

        Raises:
            ImageError: The image has another shape or dtype.
            ParameterError: A score that this model cannot compute.
            DeviceError: Out of memory; the next, smaller image may do.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(
                f"expected a non-empty (H, W, 3) uint8 image, got {image.shape} {image.dtype}"
            )
        for name in scores:
            if name not in self.available_scores:
                raise ParameterError(
                    f"score {name!r}: model {self.metadata.name!r} offers "
                    f"{', '.join(self.available_scores)}"
                )
        started = time.perf_counter()
        situation = "on {} for a frame of {} x {}, {}: {}".format(
            self.device,
            *image.shape[:2],
            self.framing.describe(),
            _LESS_MEMORY[self.framing.mode],
        )
        with out_of_memory_as_device_error(situation), torch.inference_mode():
            prediction = self._predict(image, scores, labels, confidence)
        prediction.inference_ms = 1e3 * (time.perf_counter() - started)
        return prediction

    def _predict(
        self, image: np.ndarray, scores: Sequence[str], labels: bool, confidence: bool
    ) -> Prediction:
        frame = self.framing.fit(image)
        band = None
        if self.framing.tile is None:
            output = self._run(frame)
        else:
            output = run_in_tiles(
                lambda rows, columns: self._run(frame[rows, columns]),
                frame.shape[:2],
                self.framing,
            )
            band = band_height(output.logits, frame.shape[1], self.framing.tile)
        height, width = image.shape[:2]
        # A frame at its own size may have been padded: the maps are made for the padded one and
        # cut, so that nothing is resampled.
        size = (height, width) if self.inference_size else frame.shape[:2]

        def finished(maps: list[Tensor]) -> Tensor:
            """Bands of a map (1, h, w) as one of (H, W)."""
            whole = _upsample(torch.cat(maps, 1), size, self._align_corners)
            return whole[:height, :width].contiguous()

        prediction = Prediction()
        statistics = self.metadata.statistics
        for name in scores:
            score = finished(
                [score_functions.compute(name, o, statistics) for o in row_bands(output, band)]
            )
            prediction.scores[name] = score.cpu().numpy()
        if labels:
            whole = self._labels(output.logits, frame.shape[:2], size, band)
            prediction.labels = np.ascontiguousarray(whole[:height, :width])
        if confidence:
            top = finished([o.logits.float().softmax(1).amax(1) for o in row_bands(output, band)])
            level = top.mul_(255).round_().to(torch.uint8)
            prediction.confidence = level.cpu().numpy()
        return prediction

    def _run(self, frame: np.ndarray) -> NetworkOutput:
        return self._network(self._to_input(frame))

    def _to_input(self, frame: np.ndarray) -> Tensor:
        """Maps (H, W, 3) uint8 of a size that the network takes to its input (1, 3, H, W)."""
        # (H, W, 3) in memory is (1, 3, H, W) in channels-last order: no transpose is needed.
        tensor = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None]
        return ((tensor - self._offset) / self._scale).to(self._dtype)

    def _labels(
        self, logits: Tensor, seen: tuple[int, int], size: tuple[int, int], band: int | None
    ) -> np.ndarray:
        """Argmax of logits brought to the size that the network saw, then nearest neighbour."""
        grid = min(seen, size, key=lambda s: s[0] * s[1])
        labels = upsampled_argmax(logits, grid, band, self._align_corners).cpu().numpy()
        if grid != size:
            labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return labels


def _upsample(score: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(1, h, w) float32 to (H, W), bilinear."""
    if score.shape[-2:] == size:
        return score[0]
    return F.interpolate(score[None], size=size, mode="bilinear", align_corners=align_corners)[
        0, 0
    ]
