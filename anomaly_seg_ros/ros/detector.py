"""The lifecycle node ``detector``: camera images in, open-set semantic segmentation out.

    ros2 run anomaly_seg_ros detector --ros-args -r image:=/camera/image_raw

The executor's thread answers services and parameters and stores the newest frame; a worker's
thread does everything with it (see :mod:`~anomaly_seg_ros.ros.pipeline`).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool

from anomaly_seg_ros import memory
from anomaly_seg_ros.devices import select_device
from anomaly_seg_ros.errors import AnomalySegError, ParameterError
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.ros import diagnostics, parameters
from anomaly_seg_ros.ros.pipeline import Pipeline
from anomaly_seg_ros.ros.publishers import Outputs
from anomaly_seg_ros.ros.qos import QosEvents, input_profile
from anomaly_seg_ros.ros.worker import FrameCounts, RateLimiter, Worker

# Longer than any frame takes; after it the worker's thread counts as hung and is left behind.
WORKER_STOP_TIMEOUT_S = 60.0
SIGNAL_POLL_S = 0.2


class Detector(LifecycleNode):
    """Loads the model in ``configure``, listens in ``activate``; see README for the interface.

    Raises:
        ParameterError: A parameter given at the start is not accepted.
    """

    def __init__(self, **node_arguments: object) -> None:
        super().__init__("detector", **node_arguments)
        self._segmenter: Segmenter | None = None
        self._outputs: Outputs | None = None
        self._pipeline: Pipeline | None = None
        self._worker: Worker | None = None
        self._image_subscription: Subscription | None = None
        self._info_subscription: Subscription | None = None
        self._counts = FrameCounts()
        self._limiter = RateLimiter()
        self._qos_events = QosEvents(self.get_logger())
        self._enabled = True
        self._failure = ""
        self._label_info = ""
        self._last_stamp: int | None = None  # in nanoseconds
        self._last_arrival = time.monotonic()
        self._reported: Counter[str] = Counter()
        self._report_time = time.monotonic()
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self._answer_impossible_transitions()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady: with use_sim_time, timers of the node's clock stand still until /clock arrives.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer: Timer | None = None
        self._restart_diagnostics()
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(
                0.0, self._autostart, clock=self._steady_clock
            )

    @property
    def state(self) -> str:
        """Label of the lifecycle state, such as ``active``."""
        return self._state_machine.current_state[1]

    # Lifecycle. rclpy turns an exception in these into ERROR without a word, so none may escape.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, run it once, create the outputs."""
        try:
            self._configure()
        except Exception as error:  # noqa: BLE001
            known = isinstance(error, AnomalySegError)
            self._failure = str(error) if known else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure failed: {self._failure}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread and subscribe."""
        result = super().on_activate(state)
        self._restart_diagnostics()
        self._worker = Worker(self._pipeline.process, self._on_fault, self._counts)
        self._worker.start()
        self._last_stamp, self._last_arrival = None, time.monotonic()
        if self._enabled:
            self._subscribe()
        self._outputs.publish_label_info()
        self.get_logger().info(f"active, listening on {self._image_topic()}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and end the inference thread, after the frame at work is published."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the outputs."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from whatever state."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything and go back to ``unconfigured``."""
        self.get_logger().error(f"error in the transition from {state.label}; starting over")
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.state != "unconfigured":  # a lifecycle manager was faster
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _answer_impossible_transitions(self) -> None:
        """Refuse a transition that the present state has not: rclpy ends the process on one."""
        (service,) = (s for s in self.services if s.srv_type is ChangeState)
        change_state = service.callback

        def answer(
            request: ChangeState.Request, response: ChangeState.Response
        ) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RuntimeError as error:  # the base of rclpy's RCLError
                what = request.transition.label or request.transition.id
                self.get_logger().error(f"no transition {what} from '{self.state}': {error}")
                response.success = False
                return response

        service.callback = answer

    def _configure(self) -> None:
        started = time.monotonic()
        values = parameters.values_of(self)
        framing = parameters.framing_arguments(values)
        if values["num_threads"] > 0:
            torch.set_num_threads(values["num_threads"])
        self.get_logger().info(f"loading model '{values['model']}'; this can take a while")
        memory.reset_peak(select_device(values["device"]))
        segmenter = Segmenter.load(
            values["model"], values["device"], values["precision"], **framing
        )
        settings = parameters.resolve_settings(values, segmenter)
        self._say_if_uncalibrated(values, segmenter)
        warm_up_ms = segmenter.warm_up()
        self._segmenter = segmenter
        self._counts = FrameCounts()
        self._reported = Counter()
        self._outputs = Outputs(self, segmenter.metadata, self._qos_events)
        self._pipeline = Pipeline(segmenter, self._outputs, settings, self.get_clock())
        self._failure = ""
        self._label_info = "latched while active"
        if not self._outputs.has_label_info:
            self._label_info = "not published: vision_msgs is not installed"
            self.get_logger().warning(f"~/label_info is {self._label_info}")
        self.get_logger().info(
            f"model '{segmenter.metadata.name}' is ready on {segmenter.device} "
            f"({segmenter.precision}, {segmenter.framing.describe()}) after "
            f"{time.monotonic() - started:.1f} s, of which the first inference took "
            f"{warm_up_ms:.0f} ms"
        )

    def _stop(self) -> None:
        self._unsubscribe()
        if self._worker is not None and not self._worker.stop(WORKER_STOP_TIMEOUT_S):
            self.get_logger().error(
                f"the inference thread has not ended in {WORKER_STOP_TIMEOUT_S:.0f} s"
            )
        self._worker = None

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
        if self._segmenter is not None:
            peak = memory.peak_memory(self._segmenter.device)
            self.get_logger().info(f"peak memory: {peak.mib:.0f} MiB {peak.what}")
        self._outputs = self._pipeline = self._segmenter = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # back to other processes on the GPU

    # Input.

    def _image_topic(self) -> str:
        """The input's topic; compressed ones are named as image_transport does."""
        topic = self.resolve_topic_name("image")
        if self.get_parameter("image_transport").value == "raw":
            return topic
        if topic == self.resolve_topic_name("image", only_expand=True):
            return self.resolve_topic_name("image/compressed")  # may have its own remapping
        return f"{topic}/compressed"

    def _subscribe(self) -> None:
        raw = self.get_parameter("image_transport").value == "raw"
        profile = input_profile(
            self.get_parameter("qos_reliability").value, self.get_parameter("qos_depth").value
        )
        topic = self._image_topic()
        self._image_subscription = self.create_subscription(
            Image if raw else CompressedImage,
            topic,
            self._on_image,
            profile,
            event_callbacks=self._qos_events.of_subscription(topic),
        )
        info_topic = self.resolve_topic_name("camera_info")
        self._info_subscription = self.create_subscription(
            CameraInfo,
            "camera_info",
            self._on_camera_info,
            profile,
            event_callbacks=self._qos_events.of_subscription(info_topic),
        )

    def _unsubscribe(self) -> None:
        for subscription in (self._image_subscription, self._info_subscription):
            if subscription is not None:
                self.destroy_subscription(subscription)
        self._image_subscription = self._info_subscription = None

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if self._last_stamp is not None and stamp <= self._last_stamp:
            kind = "stamp repeated" if stamp == self._last_stamp else "stamp went back"
            reason = f"{self._last_stamp / 1e9:.9f} s was followed by {stamp / 1e9:.9f} s"
            self._say_first(kind, f"{reason}; the frame is processed all the same")
        self._last_stamp, self._last_arrival = stamp, time.monotonic()
        if self._limiter.admits(self._pipeline.settings.max_rate):
            self._worker.put(message)
        else:
            self._counts.add("received")
            self._counts.add("throttled")

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._pipeline.camera_info = message

    def _on_fault(self, kind: str, error: Exception) -> None:
        self._say_first(kind, " ".join(str(error).split()))  # OpenCV and torch write paragraphs

    def _say_first(self, kind: str, reason: str) -> None:
        """Count a fault, and log it if it is the first of its kind: a camera repeats its own."""
        if self._counts.add_fault(kind, reason):
            self.get_logger().warning(
                f"{self._image_topic()}: {kind}: {reason} (said once, counted in /diagnostics)"
            )

    # Parameters, services, diagnostics.

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        settings = None
        try:
            for parameter in changed:
                parameters.check_change(parameter.name, parameter.value, self.state)
            if self._segmenter is not None:
                values = parameters.values_of(self) | {p.name: p.value for p in changed}
                settings = parameters.resolve_settings(values, self._segmenter)
                if "score_method" in (parameter.name for parameter in changed):
                    self._say_if_uncalibrated(values, self._segmenter)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        # Nothing refuses them any more; rclpy stores the values when this returns.
        if settings is not None:
            self._pipeline.settings = settings
        return SetParametersResult(successful=True)

    def _say_if_uncalibrated(self, values: Mapping[str, Any], segmenter: Segmenter) -> None:
        if warning := parameters.missing_calibration(values, segmenter):
            self.get_logger().warning(warning)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        changed = request.data != self._enabled
        self._enabled = request.data
        if changed and self.state == "active":
            if self._enabled:
                self._subscribe()
            else:
                self._unsubscribe()
        response.success = True
        response.message = f"{'enabled' if self._enabled else 'disabled'}, {self.state}"
        return response

    def _restart_diagnostics(self) -> None:
        """Publish on /diagnostics at the period that the parameter has now."""
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
        self._diagnostics_timer = self.create_timer(
            self.get_parameter("diagnostics_period").value,
            self._publish_diagnostics,
            clock=self._steady_clock,
        )

    def _publish_diagnostics(self) -> None:
        now, totals = time.monotonic(), self._counts.totals()
        report = diagnostics.Report(
            node=self.get_fully_qualified_name(),
            state=self.state,
            enabled=self._enabled,
            failure=self._failure,
            topic=self._image_topic(),
            seconds=now - self._report_time,
            silence=now - self._last_arrival,
            totals=totals,
            new=totals - self._reported,
            faults=self._counts.faults(),
            latencies=self._pipeline.latencies.summary() if self._pipeline else {},
            incompatible_qos=self._qos_events.summary(),
            segmenter=self._segmenter,
            settings=self._pipeline.settings if self._pipeline else None,
            label_info=self._label_info,
        )
        self._report_time, self._reported = now, totals
        message = DiagnosticArray(status=diagnostics.statuses(report))
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM; both end with exit code 0."""
    stop = threading.Event()
    # rclpy's own handlers would end the context at once, while a frame is being published.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Detector()
    except AnomalySegError as error:
        rclpy.shutdown()
        sys.exit(f"detector: error: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=SIGNAL_POLL_S)
    if node.state != "finalized":
        node.trigger_shutdown()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    # Unloading torch takes seconds on a busy machine, and by then the interpreter has dropped its
    # handlers: the SIGTERM that ros2 launch sends after five seconds would spoil the exit code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
