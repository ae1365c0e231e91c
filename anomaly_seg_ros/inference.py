"""From an RGB image to labels, anomaly scores, confidence and what is unknown.

segmenter = Segmenter.load("default", device="auto")
prediction = segmenter.predict(image, scores=("max_logit", "energy"))
"""

from __future__ import annotations

import math
import threading
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
from anomaly_seg_ros.backends.contract import as_batch
from anomaly_seg_ros.backends.selection import TORCH, select_backend
from anomaly_seg_ros.checkpoints import load_model
from anomaly_seg_ros.devices import select_device, select_precision
from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError, ImageError, ParameterError
from anomaly_seg_ros.framing import FULL, RESIZED, TILE_OVERLAP, TILE_SIZE, TILED, Framing
from anomaly_seg_ros.memory import out_of_memory_as_device_error
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.models.fusion import fold_batchnorm
from anomaly_seg_ros.stopwatch import Stopwatch
from anomaly_seg_ros.tiling import band_height, row_bands, run_in_tiles
from anomaly_seg_ros.upsampling import upsampled, upsampled_argmax

# In float32 2 MiB: a core's second-level cache.
_CACHED_VALUES = 1 << 19
# What needs less memory, by inference mode.
_LESS_MEMORY = {
    RESIZED: "take inference mode 'tiled' or a smaller inference size",
    FULL: "take inference mode 'tiled'",
    TILED: "take smaller tiles",
}


@dataclass(frozen=True)
class UnknownRule:
    """Which pixels are called unknown, and what of it is wanted.

    Attributes:
        score: Name of the anomaly score; its calibration is the model's.
        threshold: On the unit scale; compared as float32, as subscribers would.
        mask, open_set_labels: Whether to make them; the unit score is always made.
    """

    score: str
    threshold: float
    mask: bool = True
    open_set_labels: bool = False


@dataclass
class Prediction:
    """What the network says about one image, at the image's size (H, W).

    Attributes:
        labels: (H, W) uint8 trainIds, or None if not asked for.
        confidence: (H, W) uint8, maximum softmax probability times 255, or None.
        scores: Raw anomaly scores by name, (H, W) float32, higher = more anomalous.
        unit_score: (H, W) float32, the rule's score on the unit scale, or None without a rule.
        mask: (H, W) uint8, 255 where unknown, else 0, or None.
        open_set_labels: (H, W) uint8, the labels with K where unknown, or None.
        inference_ms: From the image in memory to the arrays in memory.
        stages_ms: Parts of it: ``resize``, ``upload``, ``network``, ``score``, ``download``. Of a
            batch, each frame has those of the frames that ran with it.
    """

    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    unit_score: np.ndarray | None = None
    mask: np.ndarray | None = None
    open_set_labels: np.ndarray | None = None
    inference_ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    """What of a prediction was asked for; see :meth:`Segmenter.predict`."""

    scores: tuple[str, ...]
    labels: bool
    confidence: bool
    unknown: UnknownRule | None


class Segmenter:
    """A network with its metadata on a device, ready for images of any size.

    Several threads may share one: they take turns.

    Args:
        network: See :class:`~anomaly_seg_ros.models.contract.SegmentationNetwork`; taken over and
            changed (BatchNorm is folded).
        metadata: Of the network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        inference_size, inference_mode, tile_size, tile_overlap: How frames reach the network; see
            :meth:`Framing.choose <anomaly_seg_ros.framing.Framing.choose>`.
        backend: What runs the network; see
            :func:`~anomaly_seg_ros.backends.selection.select_backend`.
        threads: Of the network on the CPU, for backends other than torch's; 0 decides.
        cuda_graphs: Whether a GPU replays the network as one graph.

    Attributes:
        framing: How frames reach the network; may be replaced between two frames.
        available_scores: Names of the scores that the model can compute.
        backend: Name of what runs the network.
        precision: Of the network's arithmetic.

    Raises:
        DeviceError, ExportError, ParameterError: What was asked for does not exist or does not
            fit.
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
        backend: str = TORCH,
        threads: int = 0,
        cuda_graphs: bool = False,
    ) -> None:
        self.metadata = metadata
        self.device = select_device(device)
        self.framing = Framing.choose(
            inference_mode,
            inference_size,
            tile_size,
            tile_overlap,
            metadata.inference_size,
            network.size_multiple,
        )
        has_head = getattr(network, "outlier_head", None) is not None
        self._align_corners = getattr(network, "align_corners", False)
        self._runner, self._notes = select_backend(
            fold_batchnorm(network.eval()),
            metadata,
            backend,
            self.device,
            precision,
            self.framing.tile or self.framing.usual_size,
            threads,
            cuda_graphs,
        )
        self.backend, self.precision = self._runner.name, self._runner.precision
        self._turn = threading.Lock()
        self._statistics = metadata.statistics
        if self._statistics is not None:  # a copy for each frame would wait for a GPU
            self._statistics = score_functions.ClassStatistics(
                *(t.to(self.device) for t in (self._statistics.mean, self._statistics.std))
            )
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
        backend: str = TORCH,
        threads: int = 0,
        cuda_graphs: bool = False,
    ) -> Segmenter:
        """Loads a model by name or file; see :func:`~anomaly_seg_ros.checkpoints.load_model`.

        Raises:
            CheckpointError, DeviceError, ExportError, ParameterError: See there and the class.
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
            backend,
            threads,
            cuda_graphs,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the backend, a sentence each.

        Some are known only after the first frame.
        """
        return (*self._notes, *self._runner.notes)

    @property
    def inference_size(self) -> tuple[int, int] | None:
        """(height, width) to which frames are resized; None if they keep their own."""
        return self.framing.size

    def predict(
        self,
        image: np.ndarray,
        scores: Sequence[str] = ("max_logit",),
        labels: bool = True,
        confidence: bool = True,
        unknown: UnknownRule | None = None,
    ) -> Prediction:
        """Segments one image.

        Args:
            image: (H, W, 3) uint8 RGB, any strides.
            scores: Names of the anomaly scores to compute, in raw units.
            labels: Whether to compute labels.
            confidence: Whether to compute class confidence.
            unknown: Whether, and how, to say which pixels are unknown.

        Raises:
            ImageError: The image has another shape or dtype.
            ParameterError: A score that this model cannot compute.
            DeviceError: Out of memory; the next, smaller image may do. Or logits that are NaN or
                infinite, of which nothing can be said.
            ExportError: The backend cannot take the network at this size.
        """
        return self.predict_batch([image], scores, labels, confidence, unknown)[0]

    def predict_batch(
        self,
        images: Sequence[np.ndarray],
        scores: Sequence[str] = ("max_logit",),
        labels: bool = True,
        confidence: bool = True,
        unknown: UnknownRule | None = None,
    ) -> list[Prediction]:
        """Segments several images, those that reach the network at the same size in one pass.

        Arguments and errors are those of :meth:`predict`. No images give no predictions.
        """
        names = tuple(scores) if unknown is None else (*scores, unknown.score)
        self._check(images, names)
        if not images:
            return []
        wanted = _Wanted(tuple(scores), labels, confidence, unknown)
        started = time.perf_counter()
        situation = "on {} for {} of {} x {}, {}: {}".format(
            self.device,
            "a frame" if len(images) == 1 else f"{len(images)} frames",
            *images[0].shape[:2],
            self.framing.describe(),
            _LESS_MEMORY[self.framing.mode],
        )
        with self._turn, torch.inference_mode():
            try:
                with out_of_memory_as_device_error(situation):
                    predictions = self._predict(images, wanted)
            except DeviceMemoryError:
                self._runner.forget()
                raise
        for prediction in predictions:
            prediction.inference_ms = 1e3 * (time.perf_counter() - started)
        return predictions

    def run_network(self, frames: np.ndarray) -> NetworkOutput:
        """The network alone, with its input scaling, on frames that have its size already.

        Args:
            frames: (N, H, W, 3) uint8 RGB.

        Returns:
            Logits and outlier logits on the device, good until the next call.
        """
        with self._turn:
            return self._runner(frames, Stopwatch(self.device))

    def _check(self, images: Sequence[np.ndarray], names: Sequence[str]) -> None:
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ImageError(
                    f"expected a non-empty (H, W, 3) uint8 image, got {image.shape} {image.dtype}"
                )
        for name in names:
            if name not in self.available_scores:
                raise ParameterError(
                    f"score {name!r}: model {self.metadata.name!r} offers "
                    f"{', '.join(self.available_scores)}"
                )

    def _predict(self, images: Sequence[np.ndarray], wanted: _Wanted) -> list[Prediction]:
        watch = Stopwatch(self.device)
        groups: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index, image in enumerate(images):
            frame = self.framing.fit(image)
            groups.setdefault(frame.shape, []).append((index, frame))
        watch.lap("resize")
        predictions: dict[int, Prediction] = {}
        peaks = []
        for shape, members in groups.items():
            indices, frames = zip(*members, strict=True)
            batch = frames[0][None] if len(frames) == 1 else np.stack(frames)
            output, band = self._run(batch, watch)
            peaks += [t.amax() for t in (output.logits, output.ood_logits) if t is not None]
            maps = []
            for place, index in enumerate(indices):
                one = _of_batch(output, place)
                maps.append(self._maps(one, band, shape[:2], images[index].shape[:2], wanted))
            watch.lap("score")
            for index, made in zip(indices, maps, strict=True):
                predictions[index] = _downloaded(made)
            if self.device.type == "cuda":
                watch.lap("download")
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self._require_finite(peaks)
        stages = watch.milliseconds()
        for prediction in predictions.values():
            prediction.stages_ms = stages
        return [predictions[index] for index in range(len(images))]

    def _require_finite(self, peaks: Sequence[Tensor]) -> None:
        """Refuses outputs whose maximum is NaN or infinite.

        A score that is NaN reaches no threshold: the mask would call its pixel known.
        """
        if all(map(math.isfinite, peaks)):
            return
        advice = "look at its weights and at the mean and std of its metadata"
        if self.precision == "fp16":
            advice = "fp16 ends at 65504: take precision 'bf16' or 'fp32'"
        raise DeviceError(
            f"model {self.metadata.name!r}: its logits are not finite on {self.device} in "
            f"{self.precision} (backend '{self.backend}'); {advice}"
        )

    def _run(self, frames: np.ndarray, watch: Stopwatch) -> tuple[NetworkOutput, int | None]:
        """The outputs of frames of one size, and the rows of logits to score at once."""
        if self.framing.tile is None:
            output = self._runner(frames, watch)
            return output, _cached_rows(output.logits)

        def tiled(frame: np.ndarray) -> NetworkOutput:
            def run(rows: slice, columns: slice) -> NetworkOutput:
                return self._runner(frame[None, rows, columns], watch)

            return run_in_tiles(run, frame.shape[:2], self.framing)

        outputs = [tiled(frame) for frame in frames]
        output = as_batch(outputs)
        return output, band_height(output.logits, frames.shape[2], self.framing.tile)

    def _maps(
        self,
        output: NetworkOutput,
        band: int | None,
        seen: tuple[int, int],
        image_size: tuple[int, int],
        wanted: _Wanted,
    ) -> dict[str, Tensor]:
        """What is wanted of one frame by name, on the device, (H, W) each."""
        height, width = image_size
        # A frame at its own size may have been padded: the maps are made for the padded one and
        # cut, so that nothing is resampled.
        size = image_size if self.inference_size else seen

        def finished(parts: list[Tensor]) -> Tensor:
            """Bands of a map (1, h, w) as one of (H, W)."""
            whole = upsampled(torch.cat(parts, 1), size, self._align_corners)
            return whole[:height, :width].contiguous()

        def score(name: str) -> Tensor:
            bands = row_bands(output, band)
            return finished([score_functions.compute(name, o, self._statistics) for o in bands])

        maps = {f"scores/{name}": score(name) for name in wanted.scores}
        labels = None
        rule = wanted.unknown
        if wanted.labels or (rule is not None and rule.open_set_labels):
            labels = self._labels(output.logits, seen, size, band)[:height, :width].contiguous()
        if wanted.labels:
            maps["labels"] = labels
        if wanted.confidence:
            bands = row_bands(output, band)
            top = finished([o.logits.float().softmax(1).amax(1) for o in bands])
            maps["confidence"] = top.mul_(255).round_().to(torch.uint8)
        if rule is not None:
            raw = maps.get(f"scores/{rule.score}")
            maps |= self._unknown(rule, score(rule.score) if raw is None else raw, labels)
        return maps

    def _unknown(self, rule: UnknownRule, raw: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        calibration = self.metadata.calibration_of(rule.score)
        if raw.device.type == "cpu":
            unit = torch.from_numpy(calibration.to_unit(raw.numpy()))
        else:
            unit = calibration.to_unit_on_device(raw)
        maps = {"unit_score": unit}
        if rule.mask or rule.open_set_labels:
            unknown = unit >= float(np.float32(rule.threshold))
            if rule.open_set_labels:
                number = len(self.metadata.classes)
                maps["open_set_labels"] = labels.masked_fill(unknown, number)
            if rule.mask:
                maps["mask"] = unknown.view(torch.uint8) * 255
        return maps

    def _labels(
        self, logits: Tensor, seen: tuple[int, int], size: tuple[int, int], band: int | None
    ) -> Tensor:
        """Argmax of logits brought to the size that the network saw, then nearest neighbour."""
        grid = min(seen, size, key=lambda s: s[0] * s[1])
        labels = upsampled_argmax(logits, grid, band, self._align_corners)
        if grid == size:
            return labels
        if labels.device.type == "cpu":
            resized = cv2.resize(labels.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            return torch.from_numpy(resized)
        return F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]


def _cached_rows(logits: Tensor) -> int | None:
    """Rows whose logits stay in a processor's cache over all steps of a score; None on a GPU."""
    if logits.device.type != "cpu":
        return None
    return max(1, _CACHED_VALUES // (logits.shape[1] * logits.shape[3]))


def _of_batch(output: NetworkOutput, place: int) -> NetworkOutput:
    """One frame's outputs, still with a batch axis."""
    parts = (output.logits, output.ood_logits)
    logits, ood_logits = (None if p is None else p[place : place + 1] for p in parts)
    return NetworkOutput(output.pre_logits, logits, ood_logits)


def _downloaded(maps: dict[str, Tensor]) -> Prediction:
    """Maps as arrays; from a GPU they are complete only when its stream has been waited for."""
    prediction = Prediction()
    for name, value in maps.items():
        host = value
        if value.device.type == "cuda":
            # Into pinned memory, so that the host queues all copies and waits once.
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            host.copy_(value, non_blocking=True)
        if name.startswith("scores/"):
            prediction.scores[name.removeprefix("scores/")] = host.numpy()
        else:
            setattr(prediction, name, host.numpy())
    return prediction
