# SPDX-License-Identifier: Apache-2.0
"""A live stream, served by this process: newest frames, and what comes when it ends."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest
from tiny_camera import network_camera

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.footage.camera import Camera
from anomaly_seg_ros.footage.sources import open_source


def test_the_newest_frame_wins_and_the_end_is_noted() -> None:
    with network_camera(60) as address:
        camera = open_source([address])
        assert isinstance(camera, Camera)
        levels, times = [], []
        for frame in camera.frames(lambda: False):
            levels.append(float(frame.read().mean()))
            times.append(frame.time_s)
            time.sleep(0.08)  # slower than the camera
    assert levels == sorted(levels)
    assert times[0] == 0
    assert times == sorted(times)
    assert camera.dropped > 10
    assert 3 < len(levels) < 50
    assert camera.notes == [f"camera {address}: no more frames after {len(levels)}; it is gone"]


def test_one_that_is_stopped_has_not_vanished() -> None:
    with network_camera(1000) as address:
        camera = Camera(address)
        seen: list[str] = []
        with closing(camera.frames(lambda: len(seen) >= 3)) as frames:
            for frame in frames:
                seen.append(frame.name)
    assert seen == ["000000", "000001", "000002"]
    assert not camera.notes


def test_one_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageError, match=f"{port}/x: cannot be opened; is it there"):
        open_source([f"http://127.0.0.1:{port}/x"])
    with pytest.raises(ImageError, match=r"camera 97: cannot be opened; .*/dev/video97"):
        open_source(["97"])
    with pytest.raises(ImageError, match="camera /dev/null: cannot be opened"):
        open_source(["/dev/null"])
