# SPDX-License-Identifier: Apache-2.0
"""The node's condition at one moment, as plain data."""

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
        name: The camera's name; empty for the only camera of a node.
        topic: Its image topic, as remapped.
        silence: Seconds since the newest frame arrived, or since the node started listening.
        age: Seconds from the newest frame's stamp to its arrival or, if the stamp is not usable,
            its time in the middleware; None before the first frame.
        counts: The counters behind ``totals``, which restart with ``configure``.
        totals: Frames by outcome.
        faults: By kind: (count, reason of the last one).
        new: ``totals`` and fault counts over the report's ``seconds``.
        other_clock: How the newest stamp differs from the node's clock, if it is from another.
        range_remarks: Doubts about the bit depth, by kind.
        notes: Remarks that are no faults.
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
        enabled: As set by ``~/enable``.
        failure: Why the last transition failed, or empty.
        cameras: Reports of the cameras, at least one.
        limits: The watchdog's limits.
        at_work_for: Seconds that the frames at work have taken so far, 0 without any.
        reduced: How frames are segmented in smaller portions for lack of memory, or empty.
        stage_times: Stage times of the newest frames.
        incompatible_qos: By topic: the policy that does not match.
        segmenter, settings: None before ``configure``.
        label_info: Whether ``~/label_info`` is published, in words.
        transport: Facts about the transport of messages, for people.
        memory_shortage, discovery_trouble: Problems of the transport, or empty.
        seconds: The period over which new events are counted.
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
