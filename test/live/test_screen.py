# SPDX-License-Identifier: Apache-2.0
"""Messages become entities of a recording, which is written and read back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest

screen = pytest.importorskip(
    "anomaly_seg_ros.live.screen", reason="rerun-sdk is not installed (make live)"
)

STAMP_NS = 1_767_225_600_123_456_789
HEADER = Message(stamp=Message(sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9))


class Recorded:
    """A screen whose recording goes to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recording = screen.rr.RecordingStream("test", recording_id=path.name)
        self._recording.save(path, default_blueprint=screen.blueprint())
        self.screen = screen.Screen(self._recording, "/live/detector")

    def read(self) -> dict[str, dict[str, list[Any]]]:
        """Entity -> component (without its type's name) -> value of each row, and its stamps."""
        from rerun.chunk import RrdReader

        self._recording.flush()
        self._recording.disconnect()
        found: dict[str, dict[str, list[Any]]] = {}
        for chunk in RrdReader(self._path).stream():
            if chunk.is_static:
                continue
            batch = chunk.to_record_batch()
            columns = found.setdefault(chunk.entity_path.removeprefix("/"), {})
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if name == screen.TIMELINE:
                    column = column.cast("int64")
                elif ":" not in name:  # a timeline of rerun's own
                    continue
                columns.setdefault(name.rpartition(":")[2], []).extend(column.to_pylist())
        return found


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "recording.rrd")


def detection(number: int, left: float, top: float, width: float, height: float) -> Message:
    center = Message(position=Message(x=left + (width - 1) / 2, y=top + (height - 1) / 2))
    hypothesis = Message(hypothesis=Message(class_id="19", score=0.6449))
    return Message(
        id=str(number),
        bbox=Message(center=center, size_x=width, size_y=height),
        results=[hypothesis],
    )


def test_a_picture_is_kept_byte_for_byte_at_its_stamp(recorded: Recorded) -> None:
    recorded.screen.show_picture(screen.OVERLAY, STAMP_NS, b"\xff\xd8picture\xff\xd9")
    found = recorded.read()[screen.OVERLAY]
    assert bytes(found["blob"][0][0]) == b"\xff\xd8picture\xff\xd9"
    assert found["media_type"] == [["image/jpeg"]]
    assert found[screen.TIMELINE] == [STAMP_NS]


def test_objects_are_boxes_over_the_pixels_they_cover(recorded: Recorded) -> None:
    found = [detection(3, 10, 20, 5, 8), detection(12, 0, 0, 2, 2)]
    recorded.screen.show_objects(Message(header=HEADER, detections=found))
    recorded.screen.show_objects(Message(header=HEADER, detections=[]))
    boxes = recorded.read()[screen.OBJECTS]
    centers, half_sizes = np.array(boxes["centers"][0]), np.array(boxes["half_sizes"][0])
    # Pixels 10 to 14 reach from x = 10 to x = 15.
    assert (centers - half_sizes).tolist() == [[10, 20], [0, 0]]
    assert (centers + half_sizes).tolist() == [[15, 28], [2, 2]]
    assert boxes["labels"][0] == ["#3 0.64", "#12 0.64"]
    assert boxes["centers"][1] == []  # boxes of the frame before go


def test_diagnostics_are_curves_of_this_detector_only(recorded: Recorded) -> None:
    def status(name: str, **values: str) -> Message:
        pairs = [Message(key=key, value=value) for key, value in values.items()]
        return Message(name=name, values=pairs)

    statuses = [
        status("/live/detector: latency", pipeline_median_ms="61.5", output_rate_hz="9.90"),
        status("/live/detector: input", dropped="7", failed="0", received="90"),
        status("/other/detector: input", dropped="1000"),
    ]
    recorded.screen.show_diagnostics(Message(header=HEADER, status=statuses))
    recorded.screen.show_latency(STAMP_NS, 75.25)
    found = {
        entity: rows["scalars"] for entity, rows in recorded.read().items() if "scalars" in rows
    }
    assert found == {
        "latency/node": [[61.5]],
        "latency/topic_to_topic": [[75.25]],
        "rate/out": [[9.9]],
        "lost/dropped": [[7.0]],
        "lost/failed": [[0.0]],
    }
