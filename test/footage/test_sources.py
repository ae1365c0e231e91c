# SPDX-License-Identifier: Apache-2.0
"""What the user names is found, in order and under names of its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.footage.sources import Frame, open_source


def frames_of(*inputs: Path | str) -> list[Frame]:
    source = open_source([str(path) for path in inputs])
    found = list(source.frames(lambda: False))
    assert source.count == len(found)
    return found


def names_of(*inputs: Path | str) -> list[str]:
    return [frame.name for frame in frames_of(*inputs)]


def write(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((4, 6, 3), value, np.uint8))
    return path


def test_a_folder_gives_its_pictures_as_people_count(pictures: Path) -> None:
    assert names_of(pictures) == [f"frame_{index}" for index in range(12)]


def test_frames_are_read_when_asked_for_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 6, 3), (0, 0, 255), np.uint8))
    (frame,) = frames_of(tmp_path)
    assert frame.file is not None
    assert frame.file[0] == (tmp_path / "red.png").stat().st_size
    np.testing.assert_array_equal(frame.read(), np.full((4, 6, 3), (255, 0, 0), np.uint8))
    (tmp_path / "red.png").write_bytes(b"gone")
    with pytest.raises(ImageError, match=r"red\.png"):
        frame.read()


def test_a_data_set_stands_for_its_images(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "b.png")
    assert names_of(tmp_path) == ["a"]


def test_files_that_differ_by_suffix_or_folder_keep_it(tmp_path: Path) -> None:
    for name in ("front/0.png", "front/0.jpg", "front/1.png", "rear/1.png"):
        write(tmp_path / name)
    assert names_of(tmp_path / "front") == ["0.jpg", "0.png", "1"]
    both = names_of(tmp_path / "front", tmp_path / "rear")
    assert both == ["front/0.jpg", "front/0.png", "front/1", "rear/1"]
    assert names_of(tmp_path / "front" / "1.png", tmp_path / "rear") == ["front/1", "rear/1"]


def test_a_picture_named_twice_is_taken_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    assert names_of(path, tmp_path) == ["a"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere: no such file or folder"):
        open_source([str(tmp_path / "nowhere")])
    with pytest.raises(ImageError, match=r"no picture in this folder$"):
        open_source([str(tmp_path)])
    write(tmp_path / "deep" / "deeper" / "a.png")
    with pytest.raises(ImageError, match=r"no picture in this folder; name one of its .*: deeper"):
        open_source([str(tmp_path / "deep")])


def test_a_video_or_camera_beside_pictures_is_refused(tmp_path: Path, pictures: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"whatever")
    for other in (str(film), "0", "http://127.0.0.1:9/x"):
        with pytest.raises(ParameterError, match="segmented alone"):
            open_source([str(pictures), other])


def test_a_picture_whose_name_is_a_number_is_no_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "7" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert names_of("7") == ["a"]
