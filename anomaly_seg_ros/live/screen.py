# SPDX-License-Identifier: Apache-2.0
"""What the browser shows of a detector: its messages as entities of a rerun recording.

rerun is an optional dependency (extra ``live``); only this module imports it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from anomaly_seg_ros.ros.stamps import nanoseconds_of

IMAGE, OVERLAY, SCORE, OBJECTS = "camera/image", "camera/overlay", "camera/score", "camera/objects"
LATENCY = "latency/topic_to_topic"
TIMELINE = "time"
_SHOWN_S = 60.0
_ORANGE, _BLUE, _GREY, _RED = (255, 176, 32), (79, 209, 224), (158, 167, 183), (240, 90, 90)
# (status on /diagnostics, key) -> (entity, name of its line, colour).
_PLOTTED = {
    ("latency", "pipeline_median_ms"): ("latency/node", "node, median", _BLUE),
    ("latency", "inference_median_ms"): ("latency/network", "network, median", _GREY),
    ("input", "input_rate_hz"): ("rate/in", "frames in", _GREY),
    ("latency", "output_rate_hz"): ("rate/out", "frames out", _BLUE),
    ("input", "dropped"): ("lost/dropped", "dropped for a newer frame", _ORANGE),
    ("input", "bad"): ("lost/bad", "unusable", _GREY),
    ("input", "failed"): ("lost/failed", "failed", _RED),
}


def blueprint() -> rrb.Blueprint:
    """Pictures above, curves of the last minute below, always at the newest frame."""
    pictures = [
        rrb.Spatial2DView(origin="camera", contents=[entity, OBJECTS], name=name)
        for entity, name in (
            (IMAGE, "Input, unknown objects"),
            (OVERLAY, "Classes, unknown in cyan"),
            (SCORE, "Anomaly score"),
        )
    ]
    boundary = rrb.TimeRangeBoundary
    last_minute = rrb.VisibleTimeRange(
        TIMELINE,
        start=boundary.cursor_relative(seconds=-_SHOWN_S),
        end=boundary.cursor_relative(),
    )
    curves = [
        rrb.TimeSeriesView(
            origin=origin,
            name=name,
            time_ranges=last_minute,
            plot_legend=rrb.Corner2D.LeftTop,
        )
        for origin, name in (
            ("latency", "Latency in ms"),
            ("rate", "Frames per second"),
            ("lost", "Frames lost"),
        )
    ]
    return rrb.Blueprint(
        rrb.Vertical(rrb.Horizontal(*pictures), rrb.Horizontal(*curves), row_shares=[3, 2]),
        rrb.TimePanel(state="collapsed", timeline=TIMELINE, play_state="following"),
        rrb.BlueprintPanel(state="hidden"),
        rrb.SelectionPanel(state="hidden"),
    )


class Screen:
    """Logs a detector's messages; may be called from several threads.

    Args:
        recording: Where to.
        detector: Fully qualified name of the node, whose diagnostics are shown.
    """

    def __init__(self, recording: rr.RecordingStream, detector: str) -> None:
        self._recording = recording
        self._detector = detector
        lines = {entity: (name, colour) for entity, name, colour in _PLOTTED.values()}
        lines[LATENCY] = "sent to last output received", _ORANGE
        for entity, (name, colour) in lines.items():
            recording.log(entity, rr.SeriesLines(names=name, colors=colour), static=True)

    def show_picture(self, entity: str, stamp_ns: int, jpeg: bytes) -> None:
        """Shows a JPEG image as ``IMAGE``, ``OVERLAY`` or ``SCORE``."""
        self._at(stamp_ns)
        self._recording.log(entity, rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))

    def show_latency(self, stamp_ns: int, milliseconds: float) -> None:
        """Shows the time from sending a frame to receiving the last of its outputs."""
        self._at(stamp_ns)
        self._recording.log(LATENCY, rr.Scalars(milliseconds))

    def show_objects(self, message: Any) -> None:
        """Shows a vision_msgs/Detection2DArray as boxes with id and score."""
        self._at(nanoseconds_of(message.header))
        boxes = [detection.bbox for detection in message.detections]
        # Of a message, 0 is the centre of the first pixel, here its upper left corner.
        centers = [(b.center.position.x + 0.5, b.center.position.y + 0.5) for b in boxes]
        labels = [
            f"#{detection.id} {detection.results[0].hypothesis.score:.2f}"
            for detection in message.detections
        ]
        self._recording.log(
            OBJECTS,
            rr.Boxes2D(
                centers=centers,
                sizes=[(box.size_x, box.size_y) for box in boxes],
                labels=labels,
                colors=_ORANGE,
                show_labels=True,
            ),
        )

    def show_diagnostics(self, message: Any) -> None:
        """Shows latencies, rates and counts of a diagnostic_msgs/DiagnosticArray."""
        self._at(nanoseconds_of(message.header))
        statuses: Mapping[str, Any] = {status.name: status for status in message.status}
        for (task, key), (entity, _, _) in _PLOTTED.items():
            status = statuses.get(f"{self._detector}: {task}")
            if status is not None:
                for pair in status.values:
                    if pair.key == key:
                        self._recording.log(entity, rr.Scalars(float(pair.value)))

    def _at(self, stamp_ns: int) -> None:
        # The timeline's position belongs to the calling thread.
        self._recording.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))


def serve(data_port: int, viewer_port: int) -> rr.RecordingStream:
    """Starts the viewer's data server, on this machine only, and the server of its files.

    The latter listens on every interface, because rerun has no choice for it; it holds no data.
    """
    # rerun would report its use to its makers; this is its only switch that is not a file.
    os.environ.setdefault("CI", "1")
    recording = rr.RecordingStream("anomaly_seg_ros live")
    sink = rr.GrpcServerSink("127.0.0.1", data_port, server_memory_limit="500MB")
    recording.set_sinks(sink, default_blueprint=blueprint())
    rr.serve_web_viewer(web_port=viewer_port, open_browser=False)
    return recording
