"""When the detector publishes on /diagnostics: regularly, and at once when something changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.timer import Timer

from anomaly_seg_ros.ros import diagnostics
from anomaly_seg_ros.ros.frame_counts import FrameCounts
from anomaly_seg_ros.ros.reports import CameraReport, Report
from anomaly_seg_ros.ros.watchdog import (
    inference_conditions,
    input_conditions,
    transport_conditions,
)

# At least; a rate over less would be noise.
SHORTEST_SPAN_S = 0.2


@dataclass
class _Mark:
    """The counts at one moment; by object, for they begin anew with each ``configure``."""

    time: float = field(default_factory=time.monotonic)
    totals: Mapping[FrameCounts, Counter[str]] = field(default_factory=dict)


class Reporter:
    """Publishes what ``observe`` returns.

    What is new is counted over one to two periods, so that a message between two regular ones
    says the same as they.

    Args:
        node: Owner of the publisher and the timer.
        observe: Reports everything but what is new.
        clock: Of the timer.
    """

    def __init__(self, node: Node, observe: Callable[[], Report], clock: Clock) -> None:
        self._node = node
        self._observe = observe
        self._clock = clock
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._older = self._newer = _Mark()
        self._said: object = None
        self._timer: Timer | None = None

    def restart(self, period: float) -> None:
        """Publish every ``period`` seconds from now on."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = self._node.create_timer(period, self._publish_regularly, clock=self._clock)

    def publish_changes(self) -> None:
        """Publish if something is wrong that was not when it was last published, or no more."""
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
        message = DiagnosticArray(status=diagnostics.statuses(report))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _counted(camera: CameraReport) -> Counter[str]:
    """Frames by outcome, and faults by kind."""
    return camera.totals + Counter({kind: count for kind, (count, _) in camera.faults.items()})


def _gist(report: Report) -> object:
    """What is worth a message at once when it changes."""
    of_node = (*inference_conditions(report), *transport_conditions(report))
    conditions = {(None, condition.kind) for condition in of_node}
    for camera in report.cameras:
        conditions |= {(camera.name, found.kind) for found in input_conditions(report, camera)}
    return report.state, report.enabled, report.failure, conditions
