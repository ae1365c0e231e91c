# SPDX-License-Identifier: Apache-2.0
"""The node's model: loading it as the parameters say, and coping with a lack of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rclpy.logging import RcutilsLogger

from anomaly_seg_ros.errors import DeviceMemoryError
from anomaly_seg_ros.inference.devices import cpu_threads, select_device
from anomaly_seg_ros.inference.options import TILE_OVERLAP, TILED, TORCH
from anomaly_seg_ros.inference.prediction import OutputRequest, Prediction
from anomaly_seg_ros.inference.preprocessing import Framing, Size
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros import parameters
from anomaly_seg_ros.ros.device_loss import free_cache
from anomaly_seg_ros.ros.parameters import TILE, Settings
from anomaly_seg_ros.system import memory

# Pixels per side: a smaller tile shows too little of a street to be worth its time.
SMALLEST_TILE = 128


class MemoryFallback:
    """Predicts in ever smaller portions once the device runs out of memory.

    Frames of several cameras then run one by one; a single frame runs in tiles, which are halved
    until they fit. This is permanent: what did not fit once will not fit the next time.

    Args:
        segmenter: Its framing will be changed.
        announce: Called with a sentence about each change.

    Attributes:
        segmenter: The same.
        reduced: The last sentence announced, or empty.
        one_by_one: Frames of several cameras do not share a pass. True from the start with the
            CPU's compilers, which need a program per number of frames while a CPU gains nothing
            from batches.
    """

    def __init__(self, segmenter: Segmenter, announce: Callable[[str], None]) -> None:
        self.segmenter = segmenter
        self.reduced = ""
        self._announce = announce
        self.one_by_one = segmenter.device.type == "cpu" and segmenter.backend != TORCH

    def warm_up(self, cameras: int, on_out_of_memory: str) -> float:
        """Runs grey images, in every batch size that may occur.

        This moves allocations out of the first frames, and shows at once whether the model fits.
        Where frames keep their own size, the grey ones have the size of a tile or the model's.

        Args:
            cameras: Maximum number of frames in a batch.
            on_out_of_memory: As in :meth:`predict`.

        Returns:
            The time it took, in milliseconds.

        Raises:
            DeviceMemoryError, ExportError: See :meth:`predict` and :meth:`Segmenter.predict`.
        """
        started = time.perf_counter()
        grey = np.full((*self.segmenter.framing.usual_size, 3), 127, np.uint8)
        everything = OutputRequest(self.segmenter.available_scores)
        for count in range(1, 2 if self.one_by_one else cameras + 1):
            self.predict([grey] * count, everything, on_out_of_memory)
        return 1e3 * (time.perf_counter() - started)

    def predict(
        self, images: Sequence[np.ndarray], request: OutputRequest, on_out_of_memory: str
    ) -> list[Prediction]:
        """Segments images, if need be in smaller portions.

        Args:
            images: See :meth:`Segmenter.segment`.
            request: The maps to make.
            on_out_of_memory: ``fail`` or ``tile``.

        Raises:
            DeviceMemoryError: Out of memory, and no smaller portion is possible or allowed.
        """
        while True:
            try:
                if len(images) == 1 or self.one_by_one:
                    return [self.segmenter.segment([image], request)[0] for image in images]
                return self.segmenter.segment(images, request)
            except DeviceMemoryError as error:
                reason = str(error)
            # After the except block: inside it the traceback still holds the tensors.
            free_cache()
            if not self._take_less(images, on_out_of_memory):
                raise DeviceMemoryError(reason)

    def separate(self, reason: str) -> None:
        """Runs frames of several cameras one by one from now on: together they fail, alone not."""
        self.one_by_one = True
        self._announce(
            f"the cameras' frames go through the network one by one now; together: {reason}"
        )

    def _take_less(self, images: Sequence[np.ndarray], on_out_of_memory: str) -> bool:
        """Switch to smaller portions; False if there are none."""
        if len(images) > 1 and not self.one_by_one:
            self.one_by_one = True
            self._tell("out of memory: the cameras' frames go through the network one by one now")
            return True
        if on_out_of_memory != TILE:
            return False
        largest = max((image.shape[:2] for image in images), key=lambda s: s[0] * s[1])
        framing = smaller_tiles(self.segmenter.framing, largest)
        if framing is None:
            return False
        self.segmenter.framing = framing
        self._tell(
            f"out of memory: the node goes on with frames {framing.describe()}; "
            "'inference_mode', the tile and the inference size can ask for less from the start"
        )
        return True

    def _tell(self, change: str) -> None:
        self.reduced = change
        self._announce(change)


def smaller_tiles(framing: Framing, frame: Size) -> Framing | None:
    """Halves what goes through the network at once.

    Args:
        framing: The current framing.
        frame: (height, width) of the frame that did not fit.

    Returns:
        The same frames in tiles, halved along their longer side; None if the half would be
        shorter than ``SMALLEST_TILE``.
    """
    multiple = framing.multiple
    whole = framing.size or frame
    tile = whole if framing.tile is None else tuple(map(min, framing.tile, whole))
    longer = 0 if tile[0] >= tile[1] else 1
    half = -(-tile[longer] // (2 * multiple)) * multiple
    if half < SMALLEST_TILE:
        return None
    # The other side may be the frame's, which need not be a multiple.
    sides = [-(-side // multiple) * multiple for side in tile]
    sides[longer] = half
    overlap = framing.overlap if framing.tile is not None else TILE_OVERLAP
    overlap = min(overlap, min(sides) // 4 // multiple * multiple)
    return replace(framing, mode=TILED, tile=(sides[0], sides[1]), overlap=overlap)


def load_model(
    values: Mapping[str, Any], logger: RcutilsLogger
) -> tuple[MemoryFallback, Settings]:
    """Load a model and run it once, so that the first frame does not pay for allocations.

    Args:
        values: The values of all parameters.
        logger: Told what is loaded, how long it took, and what a user should know about it.

    Returns:
        The model, and the settings that the parameters resolve to for it.

    Raises:
        CheckpointError, DeviceError, ExportError, ParameterError: See :meth:`Segmenter.load`,
            :meth:`MemoryFallback.warm_up` and :func:`~parameters.resolve_settings`.
    """
    started = time.monotonic()
    options = parameters.segmenter_options(values)
    torch.set_num_threads(cpu_threads(options.num_threads))
    logger.info(f"loading model '{values['model']}'; this can take a while")
    memory.reset_peak(select_device(options.device))
    segmenter = Segmenter.load(values["model"], options)
    settings = parameters.resolve_settings(values, segmenter)
    say_if_uncalibrated(values, segmenter, logger)
    model = MemoryFallback(segmenter, logger.warning)
    cameras = max(1, len(parameters.camera_names(values["cameras"])))
    warm_up_ms = model.warm_up(cameras, settings.on_out_of_memory)
    logger.info(
        f"model '{segmenter.metadata.name}' is ready on {segmenter.device} "
        f"({segmenter.backend}, {segmenter.precision}, {segmenter.framing.describe()}) after "
        f"{time.monotonic() - started:.1f} s, of which trying it took {warm_up_ms:.0f} ms"
    )
    return model, settings


def say_if_uncalibrated(
    values: Mapping[str, Any], segmenter: Segmenter, logger: RcutilsLogger
) -> None:
    """Warn if the model was not calibrated for the score in ``values``."""
    if warning := parameters.missing_calibration(values, segmenter):
        logger.warning(warning)
