# SPDX-License-Identifier: Apache-2.0
"""Processing frames in the inference thread: decode, segment, publish, measure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from anomaly_seg_ros.errors import first_line
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.compressed_format import read_format
from anomaly_seg_ros.objects.smoothing import ScoreSmoother
from anomaly_seg_ros.ros.arrival import Arrival
from anomaly_seg_ros.ros.camera_input import CameraInput
from anomaly_seg_ros.ros.counters import StageTimes
from anomaly_seg_ros.ros.device_loss import is_lost
from anomaly_seg_ros.ros.messages import rgb_from_message
from anomaly_seg_ros.ros.model import MemoryFallback
from anomaly_seg_ros.ros.parameters import Settings
from anomaly_seg_ros.ros.publishers import Outputs, output_request
from anomaly_seg_ros.ros.stamps import nanoseconds_of, seconds_of
from anomaly_seg_ros.ros.worker import Outcome
from anomaly_seg_ros.system.memory import is_out_of_memory


@dataclass(frozen=True)
class _Frame:
    """A decoded frame with at least one subscribed output."""

    camera: CameraInput
    header: Header
    image: np.ndarray  # (H, W, 3) uint8 RGB
    camera_info: CameraInfo | None
    wanted: frozenset[str]
    milliseconds: dict[str, float]  # take and decode
    arrived: float | None  # time.perf_counter() on arrival; None if the stamp is usable


class Pipeline:
    """Turns messages into published outputs.

    Another thread may replace ``settings`` and a camera's ``camera_info`` at any time; each is
    read once per frame, at the start.

    Args:
        model: Does the inference.
        outputs: The publishers of each camera.
        settings: Used until replaced.
        clock: The node's clock, which stamps are compared with.

    Attributes:
        stage_times: Stage times of the newest frames; see :meth:`process`.
    """

    def __init__(
        self,
        model: MemoryFallback,
        outputs: Mapping[CameraInput, Outputs],
        settings: Settings,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.stage_times = StageTimes()
        self._model = model
        self._outputs = outputs
        self._clock = clock
        self._smoothers: dict[CameraInput, ScoreSmoother] = {}
        self._unknown_label = len(model.segmenter.metadata.classes)

    @property
    def reduced(self) -> str:
        """How frames are segmented in smaller portions for lack of memory, or empty."""
        return self._model.reduced

    def process(self, batch: Mapping[CameraInput, Arrival]) -> dict[CameraInput, Outcome]:
        """Processes one message per camera, and records how long its stages took.

        Stages, in milliseconds: ``take``, from the message's arrival to this call (queues,
        deserialisation, waiting for the previous frame); ``decode``, message to RGB image; the
        stages of ``Prediction.stages_ms``; ``fill``, arrays to messages; ``publish``, inside the
        middleware's publish calls. Sums: ``inference``, the whole prediction; ``processing``,
        from this call to the last publish call; ``pipeline``, from the message's stamp to then,
        or from its arrival where the stamp is missing, repeated or from another clock.

        Returns:
            By camera: ``processed``; ``unwatched`` if no output has a subscriber, in which case
            the image is not even decoded; or the exception raised, a FrameError if the message
            holds no usable image.
        """
        started = time.perf_counter()
        settings = self.settings
        outcomes: dict[CameraInput, Outcome] = {}
        frames = []
        for camera, arrival in batch.items():
            frame = self._read(camera, arrival, settings, started)
            if isinstance(frame, _Frame):
                frames.append(frame)
            else:
                outcomes[camera] = frame
        together = [[frame] for frame in frames] if self._model.one_by_one else [frames]
        for portion in together:
            outcomes |= self._answer(portion, settings, started)
        return outcomes

    def _answer(
        self, frames: Sequence[_Frame], settings: Settings, started: float
    ) -> dict[CameraInput, Outcome]:
        """Predict and publish frames that share a pass."""
        if not frames:
            return {}
        wanted = frozenset().union(*(frame.wanted for frame in frames))
        # Whatever inference raises (out of memory, a lost device) affects these frames only.
        try:
            predictions = self._model.predict(
                [frame.image for frame in frames],
                output_request(wanted, settings),
                settings.on_out_of_memory,
            )
        except Exception as error:  # noqa: BLE001
            if len(frames) == 1 or is_out_of_memory(error) or is_lost(error):
                return {frame.camera: error for frame in frames}
            reason = f"{type(error).__name__}: {first_line(error)}"
            predictions = None
        if predictions is None:
            # A single frame may be the cause, such as one whose logits overflow.
            outcomes: dict[CameraInput, Outcome] = {}
            for frame in frames:
                outcomes |= self._answer([frame], settings, started)
            if not any(isinstance(outcome, Exception) for outcome in outcomes.values()):
                self._model.separate(reason)
            return outcomes
        return {
            frame.camera: self._publish(frame, prediction, settings, started)
            for frame, prediction in zip(frames, predictions, strict=True)
        }

    def _read(
        self, camera: CameraInput, arrival: Arrival, settings: Settings, started: float
    ) -> _Frame | Outcome:
        """Decode the frame; returns its outcome instead if it ends here."""
        wanted = self._outputs[camera].wanted()
        if not wanted:
            return "unwatched"
        began = time.perf_counter()
        try:
            camera.depth.bits = settings.bit_depth
            image = rgb_from_message(arrival.message, camera.depth)
        except Exception as error:  # noqa: BLE001
            return error
        milliseconds = {
            "take": (started - arrival.time) * 1e3,
            "decode": (time.perf_counter() - began) * 1e3,
        }
        for kind, remark in camera.depth.remarks().items():
            camera.say_first(kind, f"{remark}; the frame is processed all the same")
        if isinstance(arrival.message, CompressedImage):
            camera.note(read_format(arrival.message.format).remark)
        header = arrival.message.header
        arrived = None if arrival.stamp_tells else arrival.time
        return _Frame(camera, header, image, camera.camera_info, wanted, milliseconds, arrived)

    def _smoothed(self, frame: _Frame, prediction: Prediction, settings: Settings) -> Prediction:
        """The prediction with its camera's mean score over time, if that is wanted."""
        if settings.smoothing is None or prediction.unit_score is None:
            self._smoothers.pop(frame.camera, None)
            return prediction
        smoother = self._smoothers.setdefault(frame.camera, ScoreSmoother(settings.smoothing))
        smoother.rule = settings.smoothing
        mean = smoother.update(prediction.unit_score, frame.image, seconds_of(frame.header))
        return prediction.with_unit_score(mean, settings.threshold, self._unknown_label)

    def _publish(
        self, frame: _Frame, prediction: Prediction, settings: Settings, started: float
    ) -> Outcome:
        """Publish one frame's outputs; an error becomes the outcome of this camera only."""
        outputs, header = self._outputs[frame.camera], frame.header
        began = time.perf_counter()
        try:
            prediction = self._smoothed(frame, prediction, settings)
            publish_ms = outputs.publish_frame(
                frame.wanted, header, frame.image, prediction, settings, frame.camera_info
            )
        except Exception as error:  # noqa: BLE001
            return error
        ended = time.perf_counter()
        if frame.arrived is None:
            pipeline_ms = (self._clock.now().nanoseconds - nanoseconds_of(header)) / 1e6
        else:
            pipeline_ms = (ended - frame.arrived) * 1e3
        sums = {
            "inference": prediction.inference_ms,
            "processing": (ended - started) * 1e3,
            "pipeline": pipeline_ms,
        }
        outputs.publish_latencies(frame.wanted, sums)
        self.stage_times.add(
            {
                **frame.milliseconds,
                **prediction.stages_ms,
                "fill": (ended - began) * 1e3 - publish_ms,
                "publish": publish_ms,
                **sums,
            }
        )
        return "processed"
