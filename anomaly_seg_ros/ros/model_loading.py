"""Loading the detector's model as its parameters say, and telling what was loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from rclpy.logging import RcutilsLogger

from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros import parameters
from anomaly_seg_ros.ros.memory_fallback import MemoryFallback
from anomaly_seg_ros.ros.parameters import Settings
from anomaly_seg_ros.system import memory
from anomaly_seg_ros.system.devices import cpu_threads, select_device


def load_model(
    values: Mapping[str, Any], logger: RcutilsLogger
) -> tuple[MemoryFallback, Settings]:
    """Load a model and try it, so that the first frame does not pay for allocations.

    Args:
        values: Of all parameters.
        logger: Is told what is loaded, how long it took, and what a user should know of it.

    Returns:
        The model, and the settings that the parameters mean for it.

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
    """Warn of a model that was not calibrated for the score in ``values``."""
    if warning := parameters.missing_calibration(values, segmenter):
        logger.warning(warning)
