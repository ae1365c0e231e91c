# SPDX-License-Identifier: Apache-2.0
"""What the detector says about itself on /diagnostics: regularly, and at once on a change."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.timer import Timer

from anomaly_seg_ros.inference.preprocessing import Framing
from anomaly_seg_ros.ros.counters import OUTCOMES, FrameCounts
from anomaly_seg_ros.ros.qos_overrides import overriding
from anomaly_seg_ros.ros.reports import CameraReport, Report
from anomaly_seg_ros.ros.watchdog import (
    Condition,
    inference_conditions,
    input_conditions,
    transport_conditions,
)
from anomaly_seg_ros.system.memory import peak_memory

# As diagnostic_updater says it.
_NO_HARDWARE = "none"


def statuses(report: Report) -> list[DiagnosticStatus]:
    """Return the statuses of model, input (also per camera, if several), latency and transport."""
    return [_model(report), *_inputs(report), _latency(report), _transport(report)]


def _model(report: Report) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, report.state
    if report.failure:
        level, message = DiagnosticStatus.ERROR, report.failure
    elif not report.enabled:
        message += ", disabled"
    values: dict[str, object] = {"lifecycle_state": report.state, "enabled": report.enabled}
    if report.segmenter is not None and report.settings is not None:
        metadata = report.segmenter.metadata
        peak = peak_memory(report.segmenter.device)
        values |= {
            "model": metadata.name,
            "architecture": metadata.architecture,
            "device": report.segmenter.device,
            "backend": report.segmenter.backend,
            "precision": report.segmenter.precision,
            **_framing(report.segmenter.framing),
            "peak_memory_mib": f"{peak.mib:.1f}",
            "peak_memory_of": peak.what,
            "score_method": report.settings.score_method,
            "threshold": f"{report.settings.threshold:.6g}",
            "label_info": report.label_info,
        }
        values |= {f"note {n}": note for n, note in enumerate(report.segmenter.notes, 1)}
    return _status(report, "model", level, message, values, _device(report))


def _framing(framing: Framing) -> dict[str, object]:
    size = "the frame's own"
    if framing.size is not None:
        size = "{} x {} (height x width)".format(*framing.size)
    values: dict[str, object] = {"inference_mode": framing.mode, "inference_size": size}
    if framing.tile is not None:
        values["tile_size"] = "{} x {} (height x width)".format(*framing.tile)
        values["tile_overlap"] = framing.overlap
    return values


def _inputs(report: Report) -> list[DiagnosticStatus]:
    """Make ``input`` with the counts of all cameras, and ``input <camera>`` of several."""
    conditions = {camera.name: input_conditions(report, camera) for camera in report.cameras}
    every = [condition for found in conditions.values() for condition in found]
    together = [_input(report, "input", report.cameras, every)]
    if len(report.cameras) == 1:
        return together
    return together + [
        _input(report, f"input {camera.name}", [camera], conditions[camera.name])
        for camera in report.cameras
    ]


def _input(
    report: Report, task: str, cameras: Sequence[CameraReport], conditions: Sequence[Condition]
) -> DiagnosticStatus:
    rate = sum(camera.new["received"] for camera in cameras) / report.seconds
    totals = sum((camera.totals for camera in cameras), Counter())
    values: dict[str, object] = {
        "topic": ", ".join(camera.topic for camera in cameras),
        "input_rate_hz": f"{rate:.2f}",
    }
    values |= {name: totals[name] for name in ("received", *OUTCOMES)}
    for camera in cameras:
        where = f" on {camera.name}" if len(cameras) > 1 else ""
        for kind, (count, reason) in sorted(camera.faults.items()):
            values[f"fault: {kind}{where}"] = f"{count}, last: {reason}"
        for number, note in enumerate(camera.notes, 1):
            values[f"note {number}{where}"] = note
    for topic, policy in sorted(report.incompatible_qos.items()):
        values[f"incompatible QoS: {topic}"] = policy
    fine = "frames arrive" if report.listening else "no frames are expected"
    return _judged(report, task, fine, values, conditions, str(values["topic"]))


def _latency(report: Report) -> DiagnosticStatus:
    rate = sum(camera.new["processed"] for camera in report.cameras) / report.seconds
    values: dict[str, object] = {"output_rate_hz": f"{rate:.2f}"}
    for stage, summary in report.stage_times.summary().items():
        values[f"{stage}_mean_ms"] = f"{summary.mean:.3f}"
        values[f"{stage}_median_ms"] = f"{summary.median:.3f}"
        values[f"{stage}_p99_ms"] = f"{summary.p99:.3f}"
        values[f"{stage}_max_ms"] = f"{summary.maximum:.3f}"
    conditions = inference_conditions(report)
    fine = f"{rate:.2f} frames/s"
    return _judged(report, "latency", fine, values, conditions, _device(report))


def _device(report: Report) -> str:
    return _NO_HARDWARE if report.segmenter is None else str(report.segmenter.device)


def _transport(report: Report) -> DiagnosticStatus:
    conditions = transport_conditions(report)
    return _judged(report, "transport", "nothing is short", report.transport, conditions)


def _judged(
    report: Report,
    task: str,
    fine: str,
    values: Mapping[str, object],
    conditions: Sequence[Condition],
    hardware: str = _NO_HARDWARE,
) -> DiagnosticStatus:
    """Make a status with the level of the worst condition, or ``fine`` without any."""
    level, message = DiagnosticStatus.OK, fine
    if conditions:
        worst = max(conditions, key=lambda condition: condition.level)
        level, message = bytes([worst.level]), worst.text
    told = {f"condition: {condition.kind}": condition.text for condition in conditions}
    return _status(report, task, level, message, {**values, **told}, hardware)


def _status(
    report: Report,
    task: str,
    level: bytes,
    message: str,
    values: Mapping[str, object],
    hardware: str,
) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=f"{report.node}: {task}",
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


# Minimum period for a rate: over less it would be noise.
SHORTEST_SPAN_S = 0.2


@dataclass
class _Mark:
    """The counts at one moment, by counter, because they restart with each ``configure``."""

    time: float = field(default_factory=time.monotonic)
    totals: Mapping[FrameCounts, Counter[str]] = field(default_factory=dict)


class Reporter:
    """Publishes reports, periodically and at once when something changes.

    New events are counted over one to two periods, so that a message between two periodic ones
    agrees with them.

    Args:
        node: Owner of the publisher and the timer.
        observe: Returns a report without the counts of new events.
        clock: Clock of the timer.
    """

    def __init__(self, node: Node, observe: Callable[[], Report], clock: Clock) -> None:
        self._node = node
        self._observe = observe
        self._clock = clock
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", 10, qos_overriding_options=overriding(node)
        )
        self._older = self._newer = _Mark()
        self._said: object = None
        self._timer: Timer | None = None

    def restart(self, period: float) -> None:
        """Publish every ``period`` seconds, starting now."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = self._node.create_timer(period, self._publish_regularly, clock=self._clock)

    def publish_changes(self) -> None:
        """Publish if the state or the set of problems changed since the last message."""
        report = self._report()
        if _gist(report) != self._said:
            self._publish(report)

    def _publish_regularly(self) -> None:
        report = self._report()
        self._publish(report)
        totals = {camera.counts: _counted(camera) for camera in report.cameras}
        self._older, self._newer = self._newer, _Mark(totals=totals)

    def _report(self) -> Report:
        report = self._observe()
        report.seconds = max(time.monotonic() - self._older.time, SHORTEST_SPAN_S)
        for camera in report.cameras:
            camera.new = _counted(camera) - self._older.totals.get(camera.counts, Counter())
        return report

    def _publish(self, report: Report) -> None:
        self._said = _gist(report)
        message = DiagnosticArray(status=statuses(report))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _counted(camera: CameraReport) -> Counter[str]:
    """Counts frames by outcome and faults by kind."""
    return camera.totals + Counter({kind: count for kind, (count, _) in camera.faults.items()})


def _gist(report: Report) -> object:
    """The part of a report whose change is published at once."""
    of_node = (*inference_conditions(report), *transport_conditions(report))
    conditions: set[tuple[str | None, str]] = {(None, found.kind) for found in of_node}
    for camera in report.cameras:
        conditions |= {(camera.name, found.kind) for found in input_conditions(report, camera)}
    return report.state, report.enabled, report.failure, conditions
