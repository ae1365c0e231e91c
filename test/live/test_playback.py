# SPDX-License-Identifier: Apache-2.0
"""Frames come in order, at their pace, again and again; what is wrong with them is told once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_bag import ForeignBag

from anomaly_seg_ros.errors import AnomalySegError, ImageError
from anomaly_seg_ros.footage.film import OverlayVideo
from anomaly_seg_ros.live.playback import Playback, TimedFrame, open_playback


def image(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def unreadable() -> np.ndarray:
    raise ImageError("frame 1: torn")


def playback(
    *frames: TimedFrame, notes: tuple[str, ...] = (), is_camera: bool = False
) -> Playback:
    return Playback("clip", lambda stopped: iter(frames), 0.0, list(notes), is_camera)


def never() -> bool:
    return False


def test_it_starts_again_and_tells_once_what_it_leaves_out() -> None:
    told: list[str] = []
    frames = (
        TimedFrame(None, lambda: image(0)),
        TimedFrame(None, unreadable),
        TimedFrame(None, lambda: image(2)),
    )
    shown = islice(playback(*frames, notes=("ends early",)).play(never, told.append), 6)
    assert [int(picture[0, 0, 0]) for picture in shown] == [0, 2, 0, 2, 0, 2]
    assert told == ["left out: frame 1: torn", "ends early"]


def test_frames_come_when_they_are_due_and_a_late_one_moves_the_later_ones() -> None:
    def slow() -> np.ndarray:
        time.sleep(0.3)
        return image(1)

    frames = [TimedFrame(0.0, lambda: image(0)), TimedFrame(0.1, slow)]
    frames.append(TimedFrame(0.2, lambda: image(2)))
    began = time.monotonic()
    moments = [time.monotonic() - began for _ in islice(playback(*frames).play(never, print), 3)]
    assert moments[0] < 0.1
    assert 0.3 <= moments[1] < 0.5
    assert 0.1 <= moments[2] - moments[1] < 0.3  # no burst to catch up


def test_it_stops_while_it_waits() -> None:
    began = time.monotonic()
    frames = playback(TimedFrame(0.0, lambda: image(0)), TimedFrame(60.0, lambda: image(1)))
    assert len(list(frames.play(lambda: time.monotonic() - began > 0.2, print))) == 1
    assert time.monotonic() - began < 5


def test_footage_without_a_readable_frame_is_an_error() -> None:
    with pytest.raises(ImageError, match="clip: no frame can be read"):
        list(playback(TimedFrame(None, unreadable)).play(never, lambda line: None))


def test_a_camera_that_vanishes_is_an_error() -> None:
    camera = playback(
        TimedFrame(None, lambda: image(0)), notes=("camera 0: it is gone",), is_camera=True
    )
    frames = camera.play(never, print)
    assert next(frames).any() == image(0).any()
    with pytest.raises(ImageError, match="camera 0: it is gone"):
        next(frames)


def shown_of(given: Path, count: int) -> Iterator[np.ndarray]:
    with open_playback(str(given), frame_rate=100) as opened:
        yield from islice(opened.play(never, print), count)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for value in (10, 20):
        cv2.imwrite(str(tmp_path / f"{value}.png"), image(value))
    assert [int(picture[0, 0, 0]) for picture in shown_of(tmp_path, 3)] == [10, 20, 10]


def test_a_video(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "in.mp4", (48, 64), 10) as film:
        for value in (50, 200):
            film.write(np.full((48, 64, 3), value, np.uint8))
    means = [picture.mean() for picture in shown_of(tmp_path / "in.mp4", 3)]
    assert means == pytest.approx([50, 200, 50], abs=6)


def test_a_bag_at_the_pace_of_its_stamps(tmp_path: Path) -> None:
    bag = ForeignBag(tmp_path / "bag")
    for index, value in enumerate((30, 60)):
        bag.image("/front/image", 10**18 + index * 200_000_000, image(value), "rgb8")
    bag.writer.close()
    moments = []
    for picture in shown_of(bag.path, 2):
        moments.append((int(picture[0, 0, 0]), time.monotonic()))
    assert [value for value, _ in moments] == [30, 60]
    assert moments[1][1] - moments[0][1] == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ("nowhere", {}, "nowhere: no such file or folder"),
        ("nowhere.mcap", {}, "nowhere.mcap"),
        ("97", {}, "camera 97: cannot be opened"),
        (".", {"frame_rate": 0.0}, r"fps must be in \(0, 1000\], got 0.0"),
        (".", {"image_topic": "/front"}, r"image topic /front: \. is no bag"),
    ],
)
def test_what_cannot_be_played_is_one_error(
    given: str, options: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AnomalySegError, match=said), open_playback(given, **options):
        pass
