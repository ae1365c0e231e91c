# SPDX-License-Identifier: Apache-2.0
"""From an RGB image to labels, anomaly scores, confidence and unknown pixels.

For example::

    segmenter = Segmenter.load("default", device="auto")
    prediction = segmenter.predict(image, scores=("max_logit", "energy"))
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError, ImageError, ParameterError
from anomaly_seg_ros.inference.backends.contract import as_batch
from anomaly_seg_ros.inference.backends.selection import select_backend
from anomaly_seg_ros.inference.devices import select_device, select_precision
from anomaly_seg_ros.inference.options import FULL, RESIZED, TILED, SegmenterOptions
from anomaly_seg_ros.inference.postprocessing import Geometry, Maps, Postprocessor
from anomaly_seg_ros.inference.prediction import OutputRequest, Prediction, UnknownRule
from anomaly_seg_ros.inference.preprocessing import Framing, size_of
from anomaly_seg_ros.inference.tiling import band_height, run_in_tiles
from anomaly_seg_ros.models.for_inference import fold_batchnorm
from anomaly_seg_ros.system.memory import out_of_memory_as_device_error
from anomaly_seg_ros.system.stopwatch import Stopwatch

# 2 MiB of float32: a core's second-level cache.
_CACHED_VALUES = 1 << 19
# Advice on how to need less memory, by inference mode.
_LESS_MEMORY = {
    RESIZED: "take inference mode 'tiled' or a smaller inference size",
    FULL: "take inference mode 'tiled'",
    TILED: "take smaller tiles",
}


class Segmenter:
    """A network with its metadata on a device, ready for images of any size.

    Threads may share a Segmenter; their calls take turns.

    Args:
        network: See :class:`~anomaly_seg_ros.contract.SegmentationNetwork`; the Segmenter takes it
            over and changes it (BatchNorm is folded).
        metadata: The network's metadata.
        options: How to run it; None takes the defaults.
        **changes: Fields of :class:`~anomaly_seg_ros.inference.options.SegmenterOptions` that
            replace those of ``options``.

    Attributes:
        metadata: The network's metadata.
        device: The device in use.
        framing: How frames reach the network; may be replaced between two frames.
        available_scores: Names of the scores that the model can compute.
        backend: Name of the backend in use, never ``auto``.
        precision: Precision of the network's arithmetic, never ``auto``.

    Raises:
        DeviceError, ExportError, ParameterError: An option is unknown, or does not suit the
            machine or the network.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        metadata: ModelMetadata,
        options: SegmenterOptions | None = None,
        **changes: Any,
    ) -> None:
        options = replace(options or SegmenterOptions(), **changes)
        self.metadata = metadata
        self.device = select_device(options.device)
        self.framing = Framing.choose(options, metadata.inference_size, network.size_multiple)
        has_head = network.outlier_head is not None
        align_corners = network.align_corners
        fold_batchnorm(network.eval())
        self._runner, self._notes = select_backend(
            network,
            metadata,
            options,
            self.device,
            self.framing.tile or self.framing.usual_size,
        )
        self.backend, self.precision = self._runner.name, self._runner.precision
        self._turn = threading.Lock()
        self._postprocessor = Postprocessor(metadata, self.device, align_corners)
        self.available_scores = tuple(
            name
            for name in score_functions.SCORES
            if not score_functions.missing_for(name, metadata.statistics is not None, has_head)
        )

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        options: SegmenterOptions | None = None,
        **changes: Any,
    ) -> Segmenter:
        """Loads a model by name or from a file.

        Args:
            model: See :func:`~anomaly_seg_ros.checkpoints.loading.load_model`.
            options: How to run it; None takes the defaults.
            **changes: As for the class, such as ``device="cpu"``.

        Raises:
            CheckpointError: The file cannot be found, read or recognised.
            DeviceError, ExportError, ParameterError: See the class.
        """
        options = replace(options or SegmenterOptions(), **changes)
        # Refuse a wrong device or precision before the slow part.
        select_precision(options.precision, select_device(options.device))
        return cls(*load_model(model), options)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the backend for the user; some appear only after the first frame."""
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
            confidence: Whether to compute the maximum class probability.
            unknown: Which pixels count as unknown; None makes no maps of them.

        Returns:
            The requested maps at the image's size; those not requested are None.

        Raises:
            ImageError: The image has another shape or dtype.
            ParameterError: The model cannot compute a score.
            DeviceError: Out of memory (a smaller image may still fit), or the logits are NaN or
                infinite.
            ExportError: The backend cannot convert the network for this size.
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
        """Segments several images; arguments as in :meth:`predict`, see also :meth:`segment`."""
        return self.segment(images, OutputRequest(tuple(scores), labels, confidence, unknown))

    def segment(self, images: Sequence[np.ndarray], request: OutputRequest) -> list[Prediction]:
        """Makes the requested maps of each image, in order.

        Images that reach the network at the same size share one pass. Errors are those of
        :meth:`predict`.
        """
        self._check(images, request.needed_scores)
        if not images:
            return []
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
                    predictions = self._predict(images, request)
            except DeviceMemoryError:
                self._runner.forget()
                raise
        for prediction in predictions:
            prediction.inference_ms = 1e3 * (time.perf_counter() - started)
        return predictions

    def run_network(self, frames: np.ndarray) -> NetworkOutput:
        """Runs the network alone, with its input scaling, on frames that already fit it.

        Args:
            frames: (N, H, W, 3) uint8 RGB; H and W are multiples of its ``size_multiple``.

        Returns:
            Logits and outlier logits on the device, valid until the next call.
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

    def _predict(self, images: Sequence[np.ndarray], request: OutputRequest) -> list[Prediction]:
        watch = Stopwatch(self.device)
        groups: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index, image in enumerate(images):
            frame = self.framing.fit(image)
            groups.setdefault(frame.shape, []).append((index, frame))
        watch.lap("resize")
        predictions: dict[int, Prediction] = {}
        extremes: list[Tensor] = []
        for shape, members in groups.items():
            indices, frames = zip(*members, strict=True)
            batch = frames[0][None] if len(frames) == 1 else np.stack(frames)
            output, band = self._run(batch, watch)
            for tensor in (output.logits, output.ood_logits):
                extremes += () if tensor is None else tensor.aminmax()
            maps: list[Maps] = []
            for place, index in enumerate(indices):
                own, seen = size_of(images[index].shape), size_of(shape)
                geometry = Geometry(own, seen, own if self.framing.size else seen, band)
                maps.append(self._postprocessor(_of_batch(output, place), geometry, request))
            watch.lap("score")
            for index, made in zip(indices, maps, strict=True):
                predictions[index] = made.download()
            if self.device.type == "cuda":
                watch.lap("download")
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self._require_finite(extremes)
        stages = watch.milliseconds()
        for prediction in predictions.values():
            prediction.stages_ms = stages
        return [predictions[index] for index in range(len(images))]

    def _require_finite(self, extremes: Sequence[Tensor]) -> None:
        """Refuses outputs whose minimum or maximum is NaN or infinite.

        A NaN score reaches no threshold, so the mask would call its pixel known.
        """
        if all(map(math.isfinite, extremes)):
            return
        advice = "look at its weights and at the mean and std of its metadata"
        if self.precision == "fp16":
            advice = "fp16 ends at 65504: take precision 'bf16' or 'fp32'"
        raise DeviceError(
            f"model {self.metadata.name!r}: its logits are not finite on {self.device} in "
            f"{self.precision} (backend '{self.backend}'); {advice}"
        )

    def _run(self, frames: np.ndarray, watch: Stopwatch) -> tuple[NetworkOutput, int | None]:
        """Runs frames of one size; returns the outputs and the rows of logits to score at once."""
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


def _cached_rows(logits: Tensor) -> int | None:
    """Rows of logits that stay in the CPU's cache through all steps of a score; None on a GPU."""
    if logits.device.type != "cpu":
        return None
    return max(1, _CACHED_VALUES // (logits.shape[1] * logits.shape[3]))


def _of_batch(output: NetworkOutput, place: int) -> NetworkOutput:
    """Takes one frame's outputs from a batch, with N = 1."""
    one = slice(place, place + 1)
    ood_logits = None if output.ood_logits is None else output.ood_logits[one]
    return NetworkOutput(output.pre_logits, output.logits[one], ood_logits)
