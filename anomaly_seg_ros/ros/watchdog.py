# SPDX-License-Identifier: Apache-2.0
"""Current problems of the input, the inference and the transport, and what to do about them.

Levels are those of diagnostic_msgs/DiagnosticStatus.
"""

from __future__ import annotations

from dataclasses import dataclass

from anomaly_seg_ros.ros import arrival
from anomaly_seg_ros.ros.reports import CameraReport, Report

WARN, ERROR = 1, 2


@dataclass(frozen=True)
class Condition:
    """A current problem.

    Attributes:
        kind: One of a small set; constant while the problem lasts.
        level: WARN or ERROR.
        text: The problem, with figures, and what to do.
    """

    kind: str
    level: int
    text: str


def input_conditions(report: Report, camera: CameraReport) -> list[Condition]:
    """Problems of one camera's frames, the worst first; none while no frames are expected."""
    if not report.listening:
        return []
    found = []
    if failed := camera.new["failed"]:
        text = f"inference failed on {failed} frames in the last {report.seconds:.0f} s"
        found.append(Condition("failed", ERROR, f"{text}; see the faults below"))
    if bad := camera.new["bad"]:
        text = f"{bad} bad frames in the last {report.seconds:.0f} s"
        found.append(Condition("bad frames", WARN, f"{text}; see the faults below"))
    if report.incompatible_qos:
        text = f"partners of incompatible QoS on {', '.join(sorted(report.incompatible_qos))}"
        found.append(
            Condition("incompatible QoS", WARN, f"{text}: change 'qos_reliability' or theirs")
        )
    timeout = report.limits.frame_timeout
    if 0 < timeout < camera.silence:
        found.append(
            Condition(
                "no frames",
                WARN,
                f"no frames on {camera.topic} for {camera.silence:.0f} s: check that the camera "
                "runs, the topic's name and type (ros2 topic info -v), 'image_transport' and the "
                "QoS; large frames may need 'qos_reliability: reliable' or the shipped Fast DDS "
                "profile",
            )
        )
    found += [Condition(kind, WARN, text) for kind, text in camera.range_remarks.items()]
    found += _doubtful_stamps(report, camera)
    late = report.limits.late_after
    if late > 0 and camera.age is not None and abs(camera.age) > late:
        found.append(_late(camera, camera.age))
    return found


def _doubtful_stamps(report: Report, camera: CameraReport) -> list[Condition]:
    """Stamps by which nobody downstream can match or synchronise, the worst first."""
    found = []
    where = f"of the frames on {camera.topic} in the last {report.seconds:.0f} s"
    if count := camera.new[arrival.NO_STAMP]:
        text = (
            f"{count} {where} have stamp 0: the driver sets no stamp; the outputs carry it all "
            "the same, and ages count from the arrival"
        )
        found.append(Condition("no stamps", WARN, text))
    if camera.other_clock and report.limits.late_after > 0:
        text = f"frames on {camera.topic} are stamped by another clock: {camera.other_clock}"
        found.append(Condition("other clock", WARN, text))
    # A single one is an event, which is counted as a fault.
    if (count := camera.new[arrival.REPEATED]) > 1:
        text = (
            f"{count} {where} repeat the stamp of the one before: the driver does not stamp each "
            "frame, or two publishers send the same"
        )
        found.append(Condition("stamps repeat", WARN, text))
    if (count := camera.new[arrival.WENT_BACK]) > 1:
        text = (
            f"{count} {where} are stamped before the one before: two publishers on this topic, a "
            "clock that was set, or a recording that began again"
        )
        found.append(Condition("stamps go back", WARN, text))
    return found


def _late(camera: CameraReport, age: float) -> Condition:
    if age < 0:
        return Condition(
            "stamps ahead",
            WARN,
            f"frames on {camera.topic} are stamped {-age:.1f} s ahead of the node's clock: "
            "synchronise the clocks; with 'use_sim_time', check that /clock is published",
        )
    return Condition(
        "late frames",
        WARN,
        f"frames on {camera.topic} are {age:.1f} s old when they come: check the network, what "
        "the camera's driver queues, and 'qos_depth'; synchronise the clocks; for recorded data "
        "set 'use_sim_time'",
    )


def transport_conditions(report: Report) -> list[Condition]:
    """Problems of the transport to other processes, the worst first."""
    found = []
    if report.discovery_trouble:
        found.append(Condition("discovery", ERROR, report.discovery_trouble))
    if report.memory_shortage:
        found.append(Condition("shared memory", WARN, report.memory_shortage))
    return found


def inference_conditions(report: Report) -> list[Condition]:
    """Problems of the inference, the worst first."""
    found = []
    limits = report.limits
    if report.at_work_for > limits.stuck_after:
        found.append(
            Condition(
                "inference stuck",
                ERROR,
                f"a frame has been at work for {report.at_work_for:.0f} s ('stuck_after' is "
                f"{limits.stuck_after:g} s): if it does not end, deactivate the node, which does "
                "not wait for it any more, and configure it again; if it is only slow, lower the "
                "inference size or raise 'stuck_after'",
            )
        )
    if report.reduced:
        found.append(Condition("out of memory", WARN, report.reduced))
    took = report.stage_times.newest().get("processing", 0.0) / 1e3
    if report.listening and 0 < limits.late_after < took:
        found.append(
            Condition(
                "slow inference",
                WARN,
                f"the newest frame took {took:.1f} s ('late_after' is {limits.late_after:g} s): "
                "lower the inference size, take a smaller model, another 'backend' or a GPU, or "
                "close pictures that nobody looks at",
            )
        )
    return found
