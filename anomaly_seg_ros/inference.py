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
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.fusion import fold_batchnorm


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
        inference_size: (height, width) of the network input; None or zeros take the metadata's.

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
    ) -> None:
        self.metadata = metadata
        self.device = select_device(device)
        self.precision, self._dtype = select_precision(precision, self.device)
        if inference_size is None or tuple(inference_size) == (0, 0):
            inference_size = metadata.inference_size
        self.inference_size = _checked_size(inference_size, network.size_multiple)
        network = fold_batchnorm(network.eval())
        self._network = network.to(
            self.device, self._dtype, memory_format=torch.channels_last
        ).requires_grad_(False)
        self._scale = 255 * torch.tensor(metadata.std, device=self.device).view(1, 3, 1, 1)
        self._offset = 255 * torch.tensor(metadata.mean, device=self.device).view(1, 3, 1, 1)
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
    ) -> Segmenter:
        """Loads a model by name or file; see :func:`~anomaly_seg_ros.checkpoints.load_model`.

        Raises:
            CheckpointError, DeviceError, ParameterError: See there and the class.
        """
        select_precision(precision, select_device(device))  # refuse before the slow part
        network, metadata = load_model(model)
        return cls(network, metadata, device, precision, inference_size)

    def warm_up(self) -> float:
        """Runs one grey image, so that the first frame does not pay for allocations.

        Returns:
            Milliseconds.
        """
        grey = np.full((*self.inference_size, 3), 127, np.uint8)
        return self.predict(grey, scores=self.available_scores).inference_ms

    @torch.inference_mode()
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
        size = image.shape[:2]
        output = self._network(self._to_input(image))
        prediction = Prediction()
        statistics = self.metadata.statistics
        for name in scores:
            score = score_functions.compute(name, output, statistics)
            prediction.scores[name] = _upsample(score, size).cpu().numpy()
        if labels:
            prediction.labels = self._labels(output.logits, size)
        if confidence:
            top = output.logits.float().softmax(1).amax(1)
            level = _upsample(top, size).mul_(255).round_().to(torch.uint8)
            prediction.confidence = level.cpu().numpy()
        prediction.inference_ms = 1e3 * (time.perf_counter() - started)
        return prediction

    def _to_input(self, image: np.ndarray) -> Tensor:
        height, width = self.inference_size
        if image.shape[:2] != (height, width):
            # Area averaging where pixels are dropped: plain bilinear would alias.
            shrinks = image.shape[0] > height and image.shape[1] > width
            image = cv2.resize(
                image,
                (width, height),
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            )
        elif not image.flags.c_contiguous or not image.flags.writeable:
            image = image.copy()
        # (H, W, 3) in memory is (1, 3, H, W) in channels-last order: no transpose is needed.
        tensor = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None]
        return ((tensor - self._offset) / self._scale).to(self._dtype)

    def _labels(self, logits: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Argmax of logits brought to the inference size, then nearest neighbour to the image."""
        grid = min(self.inference_size, size, key=lambda s: s[0] * s[1])
        if logits.shape[-2:] != grid:
            logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
        labels = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        if grid != size:
            labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return labels


def _upsample(score: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, h, w) float32 to (H, W), bilinear between pixel centres."""
    if score.shape[-2:] == size:
        return score[0]
    return F.interpolate(score[None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _checked_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (int(v) for v in size)
    nearest = tuple(max(multiple, round(v / multiple) * multiple) for v in (height, width))
    if (height, width) != nearest:
        raise ParameterError(
            f"inference size {height} x {width}: height and width must be positive multiples of "
            f"{multiple}, the nearest is {nearest[0]} x {nearest[1]}"
        )
    return height, width
