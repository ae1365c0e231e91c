"""What the detector says about itself on /diagnostics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from anomaly_seg_ros.framing import Framing
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.memory import peak_memory
from anomaly_seg_ros.ros.parameters import Settings

# Without a frame for so long, an active node warns.
SILENCE_S = 5.0


@dataclass
class Report:
    """The node's condition over one period.

    Attributes:
        node: Fully qualified name.
        state: Lifecycle state.
        enabled: As ``~/enable`` left it.
        failure: Why the last ``configure`` failed, or empty.
        topic: The input's, as remapped.
        seconds: Length of the period.
        silence: Seconds since the last frame came, or since ``activate``.
        totals, new: Frames by outcome, since ``configure`` and in this period.
        faults: Kind -> (how often since ``configure``, the last one's reason).
        latencies: Name -> (mean, maximum) in milliseconds, of the newest frames.
        incompatible_qos: Topic -> what does not fit.
        segmenter, settings: None before ``configure``.
        label_info: What became of ``~/label_info``.
    """

    node: str
    state: str
    enabled: bool
    failure: str
    topic: str
    seconds: float
    silence: float = 0.0
    totals: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    faults: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    latencies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    incompatible_qos: Mapping[str, str] = field(default_factory=dict)
    segmenter: Segmenter | None = None
    settings: Settings | None = None
    label_info: str = ""


def statuses(report: Report) -> list[DiagnosticStatus]:
    """Three statuses: the model, the input, the latencies."""
    return [_model(report), _input(report), _latency(report)]


def _model(report: Report) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, report.state
    if report.failure:
        level, message = DiagnosticStatus.ERROR, f"configure failed: {report.failure}"
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
            "precision": report.segmenter.precision,
            **_framing(report.segmenter.framing),
            "peak_memory_mib": f"{peak.mib:.1f}",
            "peak_memory_of": peak.what,
            "score_method": report.settings.score_method,
            "threshold": f"{report.settings.threshold:.6g}",
            "label_info": report.label_info,
        }
    return _status(report, "model", level, message, values)


def _framing(framing: Framing) -> dict[str, object]:
    size = "the frame's own"
    if framing.size is not None:
        size = "{} x {} (height x width)".format(*framing.size)
    values: dict[str, object] = {"inference_mode": framing.mode, "inference_size": size}
    if framing.tile is not None:
        values["tile_size"] = "{} x {} (height x width)".format(*framing.tile)
        values["tile_overlap"] = framing.overlap
    return values


def _input(report: Report) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, "no frames are expected"
    if report.state == "active" and report.enabled:
        message = "frames arrive"
        if report.silence > SILENCE_S:
            level = DiagnosticStatus.WARN
            message = f"no frames on {report.topic} for {report.silence:.0f} s"
        if report.incompatible_qos:
            level, message = DiagnosticStatus.WARN, "partners of incompatible QoS"
        if report.new["bad"]:
            level, message = DiagnosticStatus.WARN, f"{report.new['bad']} bad frames"
        if report.new["failed"]:
            level = DiagnosticStatus.ERROR
            message = f"inference failed on {report.new['failed']} frames"
    rate = report.new["received"] / report.seconds
    values: dict[str, object] = {"topic": report.topic, "input_rate_hz": f"{rate:.2f}"}
    outcomes = ("received", "processed", "dropped", "throttled", "unwatched", "bad", "failed")
    values |= {name: report.totals[name] for name in outcomes}
    for kind, (count, reason) in sorted(report.faults.items()):
        values[f"fault: {kind}"] = f"{count}, last: {reason}"
    for topic, policy in sorted(report.incompatible_qos.items()):
        values[f"incompatible QoS: {topic}"] = policy
    return _status(report, "input", level, message, values)


def _latency(report: Report) -> DiagnosticStatus:
    rate = report.new["processed"] / report.seconds
    values: dict[str, object] = {"output_rate_hz": f"{rate:.2f}"}
    for name, (mean, highest) in report.latencies.items():
        values[f"{name}_mean_ms"] = f"{mean:.2f}"
        values[f"{name}_max_ms"] = f"{highest:.2f}"
    return _status(report, "latency", DiagnosticStatus.OK, f"{rate:.2f} frames/s", values)


def _status(
    report: Report, task: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=f"{report.node}: {task}",
        message=message,
        hardware_id="" if report.segmenter is None else str(report.segmenter.device),
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
