# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``detector``: camera images in, open-set semantic segmentation out.

    ros2 run anomaly_seg_ros detector --ros-args -r image:=/camera/image_raw

The executor's thread answers services, sets parameters and stores each camera's newest frame; a
worker's thread processes the frames (see :mod:`~anomaly_seg_ros.ros.pipeline`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from anomaly_seg_ros.errors import AnomalySegError, ParameterError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros import device_loss, parameters, rclpy_errors
from anomaly_seg_ros.ros.arrival import Arrival
from anomaly_seg_ros.ros.camera_input import CameraInput
from anomaly_seg_ros.ros.camera_pose import CameraPose
from anomaly_seg_ros.ros.device_loss import Recovery
from anomaly_seg_ros.ros.diagnostics import Reporter
from anomaly_seg_ros.ros.discovery import TransportWatch, domain_id
from anomaly_seg_ros.ros.model import load_model, say_if_uncalibrated
from anomaly_seg_ros.ros.pipeline import Pipeline
from anomaly_seg_ros.ros.publishers import Outputs
from anomaly_seg_ros.ros.qos import QosEvents
from anomaly_seg_ros.ros.qos_overrides import unused_overrides
from anomaly_seg_ros.ros.range_maps import GROUND
from anomaly_seg_ros.ros.rclpy_errors import guard_services
from anomaly_seg_ros.ros.reports import Report
from anomaly_seg_ros.ros.transport import use_profile
from anomaly_seg_ros.ros.worker import Worker
from anomaly_seg_ros.system import malloc_tuning, memory
from anomaly_seg_ros.system.missing_packages import in_one_line

# Minimum time for an idle thread to end, on a busy machine.
STOP_GRACE_S = 2.0
# Period of the checks for changes that the node must act on or report.
CHECK_PERIOD_S = 0.2
SIGNAL_POLL_S = 0.2


class Detector(LifecycleNode):
    """Loads the model in ``configure``, listens in ``activate``; docs/node.md has the interface.

    Raises:
        ParameterError: An initial parameter is not accepted.
    """

    def __init__(self, **node_arguments: Any) -> None:
        self._transport = TransportWatch(os.environ)
        super().__init__("detector", **node_arguments)
        self._tell_transport()
        self._segmenter: Segmenter | None = None
        self._outputs: dict[CameraInput, Outputs] = {}
        self._pipeline: Pipeline | None = None
        self._pose: CameraPose | None = None
        self._worker: Worker[CameraInput, Arrival] | None = None
        self._qos_events = QosEvents(self.get_logger())
        self._recovery = Recovery()
        self._enabled = True
        self._failure = ""
        self._lost = ""  # why the device is gone; set in the worker's thread
        self._label_info = ""
        self._notes_told = 0
        parameters.declare(self)
        self._cameras = self._make_cameras()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.create_service(SetBool, "~/enable", self._on_enable)
        guard_services(self)
        # Steady: with use_sim_time, timers of the node's clock stand still until /clock arrives.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = Reporter(self, self._report, clock)
        self._reporter.restart(self.get_parameter("diagnostics_period").value)
        self.create_timer(CHECK_PERIOD_S, self._check, clock=clock)
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=clock)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Also accepts ``10`` for ``10.0`` and the reverse; otherwise as in every node.

        Both services that set parameters call this.
        """
        try:
            parameter_list = parameters.accepted(parameter_list)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return super().set_parameters_atomically(parameter_list)

    @property
    def state(self) -> str:
        """Label of the lifecycle state, such as ``active``."""
        return self._state_machine.current_state[1]

    # Lifecycle. rclpy silently turns an exception in these into ERROR, so none may escape.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, run it once, create the outputs."""
        self._recovery.cancel()
        failure = ""
        try:
            self._configure()
        except Exception as error:  # noqa: BLE001
            failure = f"configure failed: {in_one_line(error)}"
            if device_loss.is_lost(error):
                failure += "; a process that lost its device mostly has to be started again"
        # After the except block: inside it the traceback still holds the model and its memory.
        if failure:
            self._fail(failure)
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread and subscribe."""
        result = super().on_activate(state)
        try:
            self._reporter.restart(self.get_parameter("diagnostics_period").value)
            batch_wait = self.get_parameter("batch_wait_ms").value / 1e3
            if self._pipeline is None:
                raise RuntimeError("the node is not configured")
            process, cameras = self._pipeline.process, len(self._cameras)
            self._worker = Worker(process, self._on_fault, cameras, batch_wait)
            self._worker.start()
            if self._enabled:
                self._subscribe()
            for outputs in self._outputs.values():
                outputs.publish_label_info()
        except Exception as error:  # noqa: BLE001
            self._fail(f"activate failed: {in_one_line(error)}")
            return TransitionCallbackReturn.ERROR
        self.get_logger().info(f"active, listening on {self._topics()}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and end the inference thread once the frame at work is published.

        With a lost device or a stuck frame, the node goes to ``unconfigured``.
        """
        stopped = self._stop()
        if self._lost:
            self._fail(f"device lost: {self._lost}; configure the node again")
            return TransitionCallbackReturn.ERROR
        if not stopped:
            self._fail("inference stuck: a frame was left behind; configure the node again")
            return TransitionCallbackReturn.ERROR
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the outputs."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
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
        if self.state == "unconfigured":  # otherwise a lifecycle manager was faster
            self._start()

    def _start(self) -> bool:
        """Configure and activate; returns whether the node is active."""
        return (
            self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            and self.trigger_activate() == TransitionCallbackReturn.SUCCESS
        )

    def _check(self) -> None:
        self._check_device()
        self._follow_ranges()
        self._tell_notes()
        self._reporter.publish_changes()

    def _tell_notes(self) -> None:
        """Log new notes of the backend; some appear only with the first frames."""
        notes = () if self._segmenter is None else self._segmenter.notes
        for note in notes[self._notes_told :]:
            self.get_logger().warning(note)
        self._notes_told = len(notes)

    def _tell_unused_overrides(self) -> None:
        later = [topic for camera in self._cameras for topic in camera.range_maps.topics]
        for name in unused_overrides(self, later):
            self.get_logger().warning(
                f"parameter '{name}' is ignored: no topic of the node takes it"
            )

    def _tell_transport(self) -> None:
        if self._transport.discovery_trouble:
            self.get_logger().error(self._transport.discovery_trouble)
        for told in (self._transport.shortage, self._transport.note):
            if told:
                self.get_logger().warning(told)

    def _check_device(self) -> None:
        """Leave ``active`` when the device is lost, and retry when that is due."""
        if self._lost and self.state == "active":
            if any(camera.counts.totals()["processed"] for camera in self._cameras):
                self._recovery.succeeded()  # it worked before it was lost
            self.trigger_deactivate()  # ends in `unconfigured`, see there
            self._plan_recovery()
        elif self._recovery.is_due() and self.state == "unconfigured" and not self._start():
            self._plan_recovery()

    def _plan_recovery(self) -> None:
        delay = self._recovery.schedule(self.get_parameter("recovery_attempts").value)
        if delay is not None:
            self.get_logger().warning(f"the node configures itself again in {delay:.0f} s")

    def _configure(self) -> None:
        model, settings = load_model(parameters.values_of(self), self.get_logger())
        self._failure = self._lost = ""
        self._segmenter = model.segmenter
        self._notes_told = 0
        self._tell_notes()
        self._cameras = self._make_cameras()
        if frame := self.get_parameter("points_frame").value:
            self._pose = CameraPose(self, frame)
        for camera in self._cameras:
            self._outputs[camera] = Outputs(
                self, model.segmenter.metadata, self._qos_events, camera, self._pose
            )
        self._pipeline = Pipeline(model, self._outputs, settings, self.get_clock())
        self._label_info = "latched while active"
        if not all(outputs.has_label_info for outputs in self._outputs.values()):
            self._label_info = "not published: vision_msgs is not installed"
            topics = "~/label_info and ~/unknown_objects are"
            self.get_logger().warning(f"{topics} {self._label_info}")

    def _stop(self) -> bool:
        """Stop taking frames and end the inference thread; False if it had to be abandoned."""
        self._unsubscribe()
        worker, self._worker = self._worker, None
        if worker is None:
            return True
        limits = parameters.watchdog_limits(self)
        if worker.stop(max(limits.stuck_after - worker.at_work_for, STOP_GRACE_S)):
            return True
        took = worker.at_work_for
        for camera in worker.leave_behind():
            camera.say_first("inference stuck", f"left behind after {took:.0f} s")
        return False

    def _release(self) -> None:
        for outputs in self._outputs.values():
            outputs.destroy()
        if self._pose is not None:
            self._pose.close()
            self._pose = None
        if self._segmenter is not None and not self._lost:
            peak = memory.peak_memory(self._segmenter.device)
            self.get_logger().info(f"peak memory: {peak.mib:.0f} MiB {peak.what}")
        # A new dictionary, because an abandoned thread may still read the old one.
        self._outputs = {}
        self._pipeline = self._segmenter = None
        device_loss.free_cache()  # for other processes on the GPU

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self.get_logger().error(reason)

    # Input.

    def _make_cameras(self) -> list[CameraInput]:
        names = parameters.camera_names(self.get_parameter("cameras").value) or ("",)
        return [CameraInput(self, name, self._qos_events, self._on_image) for name in names]

    def _topics(self) -> str:
        return ", ".join(camera.topic for camera in self._cameras)

    def _follow_ranges(self) -> None:
        """Subscribe to depth or disparity while somebody wants points of them."""
        source = self.get_parameter("points_source").value
        for camera, outputs in self._outputs.items():
            wanted = (
                self._enabled and self.state == "active" and outputs.is_wanted("unknown_points")
            )
            camera.range_maps.follow(source if wanted else GROUND)

    def _subscribe(self) -> None:
        for camera in self._cameras:
            camera.subscribe()
        self._tell_unused_overrides()

    def _unsubscribe(self) -> None:
        for camera in self._cameras:
            camera.unsubscribe()

    def _on_image(self, camera: CameraInput, arrival: Arrival) -> None:
        worker, pipeline = self._worker, self._pipeline
        if worker is None or pipeline is None:  # it arrived while the node stopped
            camera.counts.add("received", "dropped")
        elif camera.limiter.admits(pipeline.settings.max_rate):
            worker.put(camera, arrival)
        else:
            camera.counts.add("received", "throttled")

    # In the worker's thread.

    def _on_fault(self, camera: CameraInput, error: Exception) -> None:
        camera.note_fault(error)
        if device_loss.is_lost(error):
            self._lost = in_one_line(error)

    # Parameters, services, diagnostics.

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        settings = None
        segmenter, pipeline = self._segmenter, self._pipeline
        try:
            for parameter in changed:
                parameters.check_change(parameter.name, parameter.value, self.state)
            # rclpy also comes here with the QoS parameters that it declares.
            if segmenter is not None and any(p.name in parameters.PARAMETERS for p in changed):
                values = parameters.values_of(self) | {p.name: p.value for p in changed}
                settings = parameters.resolve_settings(values, segmenter)
                if "score_method" in (parameter.name for parameter in changed):
                    say_if_uncalibrated(values, segmenter, self.get_logger())
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        # All checks passed; rclpy stores the values when this returns.
        if settings is not None and pipeline is not None:
            pipeline.settings = settings
        return SetParametersResult(successful=True)

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

    def _report(self) -> Report:
        worker, pipeline = self._worker, self._pipeline
        report = Report(
            node=self.get_fully_qualified_name(),
            state=self.state,
            enabled=self._enabled,
            failure=self._failure,
            cameras=[camera.report() for camera in self._cameras],
            limits=parameters.watchdog_limits(self),
            at_work_for=worker.at_work_for if worker else 0.0,
            incompatible_qos=self._qos_events.summary(),
            segmenter=self._segmenter,
            label_info=self._label_info,
            transport=self._transport.values(),
            memory_shortage=self._transport.memory_shortage(),
            discovery_trouble=self._transport.discovery_trouble,
        )
        if pipeline is not None:
            report.settings, report.stage_times = pipeline.settings, pipeline.stage_times
            report.reduced = pipeline.reduced
        return report


def _spin_once(executor: SingleThreadedExecutor, node: Detector) -> None:
    try:
        executor.spin_once(timeout_sec=SIGNAL_POLL_S)
    except Exception as error:  # noqa: BLE001 - the next callback may succeed
        node.get_logger().error(f"internal error: {in_one_line(error)}")


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM; both end with exit code 0."""
    malloc_tuning.keep_freed_memory()
    stop = threading.Event()
    # rclpy's own handlers would shut the context down while a frame is being published.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        domain_id(os.environ)  # Fast DDS ends the process at one out of range
        use_profile()
        rclpy_errors.start_ros(args)
        node = Detector()
        rclpy_errors.tell_unused_files(node, args)
    # rclpy raises ParameterException for parameters of its own, such as use_sim_time.
    except (AnomalySegError, ParameterException) as error:
        rclpy.try_shutdown()
        sys.exit(f"detector: error: {' '.join(str(error).split())}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set() and rclpy.ok():
        _spin_once(executor, node)
    if node.state != "finalized":
        node.trigger_shutdown()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    # Unloading torch takes seconds on a busy machine, after the interpreter has removed its
    # handlers: the SIGTERM that ros2 launch sends after five seconds would change the exit code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
