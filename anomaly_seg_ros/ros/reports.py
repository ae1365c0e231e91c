"""The node's condition at one moment, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.counters import FrameCounts, StageTimes
from anomaly_seg_ros.ros.parameters import Settings, WatchdogLimits


@dataclass
class CameraReport:
    """One camera's input.

    Attributes:
        name: Empty for the only camera of a node.
        topic: Of its images, as remapped.
        silence: Seconds since the newest frame came, or since the node began to listen.
        age: Seconds from the newest frame's stamp to its arrival, or where the stamp does not
            tell, that it waited in the middleware; None before the first.
        counts: What these come from, which begin anew with ``configure``.
        totals: Frames by outcome.
        faults: Kind -> (how often, the last one's reason).
        new: ``totals``, and how often each fault occurred, over the report's ``seconds``.
        other_clock: How the newest stamp differs from the node's clock if it is of another.
        range_remarks: What is doubtful about the bit depth, by kind.
        notes: What is no fault but good to know.
    """

    name: str
    topic: str
    silence: float
    age: float | None
    counts: FrameCounts
    totals: Counter[str]
    faults: Mapping[str, tuple[int, str]]
    new: Counter[str] = field(default_factory=Counter)
    other_clock: str = ""
    range_remarks: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass
class Report:
    """The node.

    Attributes:
        node: Fully qualified name.
        state: Lifecycle state.
        enabled: As ``~/enable`` left it.
        failure: Why the node is not what it was asked to be, or empty.
        cameras: At least one.
        limits: Of the watchdog.
        at_work_for: Seconds for which the frames at work have been there, 0 if there are none.
        reduced: How a lack of memory changed the way of segmenting, or empty.
        stage_times: Of the newest frames.
        incompatible_qos: Topic -> what does not fit.
        segmenter, settings: None before ``configure``.
        label_info: What became of ``~/label_info``.
        transport: What is known of the way that messages take, for people.
        memory_shortage, discovery_trouble: What is wrong with that way, or empty.
        seconds: Over which what is new is counted.
    """

    node: str
    state: str
    enabled: bool
    failure: str
    cameras: Sequence[CameraReport]
    limits: WatchdogLimits
    at_work_for: float = 0.0
    reduced: str = ""
    stage_times: StageTimes = field(default_factory=StageTimes)
    incompatible_qos: Mapping[str, str] = field(default_factory=dict)
    segmenter: Segmenter | None = None
    settings: Settings | None = None
    label_info: str = ""
    transport: Mapping[str, object] = field(default_factory=dict)
    memory_shortage: str = ""
    discovery_trouble: str = ""
    seconds: float = 1.0

    @property
    def listening(self) -> bool:
        """Whether frames are expected."""
        return self.state == "active" and self.enabled
