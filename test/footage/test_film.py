# SPDX-License-Identifier: Apache-2.0
"""The film is read back: codec, number of frames, size, colours; failures leave nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError, OutputError
from anomaly_seg_ros.footage import film as film_module
from anomaly_seg_ros.footage.film import OverlayVideo, StreamFilm, compose_frame, letterbox


def frame(index: int, height: int = 48, width: int = 96) -> np.ndarray:
    """Blue, with a red bar that moves right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 2] = 200
    picture[:, 8 * index : 8 * index + 16] = (200, 0, 0)
    return picture


def write_film(path: Path, frames: list[np.ndarray], fps: float = 10) -> OverlayVideo:
    with OverlayVideo(path, frames[0].shape[:2], fps) as film:
        for picture in frames:
            film.write(picture)
    return film


def read(path: Path) -> tuple[list[np.ndarray], cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, picture = capture.read()
        if not found:
            return frames, capture
        frames.append(picture[..., ::-1])


@pytest.mark.parametrize(
    ("size", "stored"), [((48, 96), (48, 96)), ((47, 95), (48, 96)), ((1, 3), (2, 4))]
)
def test_reads_back(tmp_path: Path, size: tuple[int, int], stored: tuple[int, int]) -> None:
    path = tmp_path / "made" / "overlay.mp4"
    film = write_film(path, [frame(index, *size) for index in range(7)])
    assert film.frames == 7
    frames, capture = read(path)
    assert len(frames) == 7
    assert frames[0].shape == (*stored, 3)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert codec.lower() in ("avc1", "h264")
    assert [file.name for file in path.parent.iterdir()] == ["overlay.mp4"]


def test_frames_keep_their_order_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    mirrored = [np.ascontiguousarray(frame(index)[:, ::-1]) for index in range(8)]
    write_film(path, [picture[:, ::-1] for picture in mirrored])
    for index, picture in enumerate(read(path)[0]):
        np.testing.assert_allclose(picture[24, 8 * index + 8], (200, 0, 0), atol=25)
        np.testing.assert_allclose(picture[24, (8 * index + 56) % 96], (0, 0, 200), atol=25)


def test_an_error_inside_leaves_the_old_film(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    path.write_bytes(b"old")

    def evaluate() -> None:
        with OverlayVideo(path, (48, 96), 10) as film:
            film.write(frame(0))
            raise RuntimeError("inference failed")

    with pytest.raises(RuntimeError, match="inference"):
        evaluate()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_film_without_frames_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="at least one frame"),
        OverlayVideo(tmp_path / "overlay.mp4", (48, 96), 10),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    with pytest.raises(ImageError, match=r"frame 1 of .*overlay\.mp4.*\(20, 20, 3\)"):
        write_film(path, [frame(0), frame(1, 20, 20)])
    assert not list(tmp_path.iterdir())


def test_writing_outside_the_block_is_refused(tmp_path: Path) -> None:
    film = OverlayVideo(tmp_path / "overlay.mp4", (48, 96), 10)
    with pytest.raises(OutputError, match="not open"):
        film.write(frame(0))


def test_an_encoder_that_dies_is_one_clear_error(tmp_path: Path, monkeypatch) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(film_module, "find_ffmpeg", lambda: str(broken))
    path = tmp_path / "out" / "overlay.mp4"
    # More than a pipe holds, so that writing itself fails, not only closing.
    big = np.zeros((480, 960, 3), np.uint8)
    with pytest.raises(OutputError, match=r"overlay\.mp4: No space left on device"):
        write_film(path, [big] * 20)
    assert not list(path.parent.iterdir())


def test_a_real_encoder_reports_an_unwritable_target(tmp_path: Path, monkeypatch) -> None:
    film = OverlayVideo(tmp_path / "overlay.mp4", (48, 96), 10)
    monkeypatch.setattr(film, "_partial", tmp_path / "absent" / "x.partial")
    with pytest.raises(OutputError, match="No such file"), film:
        film.write(frame(0))


def test_unusable_targets_and_settings(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with (
        pytest.raises(OutputError, match="cannot write"),
        OverlayVideo(blocker / "overlay.mp4", (48, 96), 10),
    ):
        pass
    with pytest.raises(OutputError, match="frames per second"):
        OverlayVideo(tmp_path / "a.mp4", (48, 96), 0)
    with pytest.raises(ImageError, match="at least 1 x 1"):
        OverlayVideo(tmp_path / "a.mp4", (0, 96), 10)


def test_no_ffmpeg_says_what_to_install(monkeypatch) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

    def absent() -> str:
        raise RuntimeError("none")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", absent)
    with pytest.raises(OutputError, match="pip install imageio-ffmpeg"):
        film_module.find_ffmpeg()


def test_compose_puts_three_panels_side_by_side() -> None:
    panels = [np.full((30, 61, 3), value, np.uint8) for value in (10, 100, 200)]
    picture = compose_frame(*panels, width=301)
    assert picture.shape == (49, 300, 3)
    assert [int(picture[20, x, 0]) for x in (50, 150, 250)] == [10, 100, 200]
    with pytest.raises(ImageError):
        compose_frame(panels[0], panels[1], panels[2][:20])


@pytest.mark.parametrize("size", [(40, 40), (20, 80), (7, 3), (100, 11), (40, 80)])
def test_letterbox_keeps_the_shape_inside_a_fixed_size(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    boxed = letterbox(picture, (40, 80))
    assert boxed.shape == (40, 80, 3)
    rows, columns = np.nonzero(boxed[..., 0])
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    scale = min(40 / size[0], 80 / size[1])
    assert abs(height - scale * size[0]) <= 1.5
    assert abs(width - scale * size[1]) <= 1.5
    assert abs(rows.min() + rows.max() - 39) <= 1
    assert abs(columns.min() + columns.max() - 79) <= 1
    with pytest.raises(ImageError, match="needs"):
        letterbox(picture[..., 0], (40, 80))


def test_a_live_film_keeps_the_pace_of_the_camera(tmp_path: Path) -> None:
    """At 10 frames/s, a picture stays until the next one's time; more than that are left out."""
    path = tmp_path / "overlay.mp4"
    red, green, blue = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    with StreamFilm(path, 10, live=True) as film:
        for time_s, colour in ((0.0, red), (0.35, green), (0.36, red), (0.62, blue)):
            film.add(np.full((48, 96, 3), colour, np.uint8), time_s)
    shown = [frame[20, 40] for frame in read(path)[0]]
    # The one of 0.36 s had no frame of its own, but was the newest until 0.6 s.
    for colour, expected in zip(shown, [red] * 3 + [green] + [red] * 2 + [blue], strict=True):
        np.testing.assert_allclose(colour, expected, atol=25)


def test_a_stream_of_any_sizes_is_one_film_and_none_without_a_path(tmp_path: Path) -> None:
    with StreamFilm(tmp_path / "overlay.mp4", 10, live=False) as film:
        film.add(np.full((100, 2400, 3), 90, np.uint8), None)  # wider than a film may be
        film.add(np.full((300, 300, 3), 90, np.uint8), None)
    assert [frame.shape for frame in read(tmp_path / "overlay.mp4")[0]] == [(80, 1920, 3)] * 2
    with StreamFilm(None, 10, live=False) as film:
        film.add(np.full((100, 240, 3), 90, np.uint8), None)
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.mp4"]
