# SPDX-License-Identifier: Apache-2.0
"""Videos whole, cut off, damaged, of changing size, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.footage.film import OverlayVideo
from anomaly_seg_ros.footage.sources import Frame, open_source
from anomaly_seg_ros.footage.video_file import VideoFile

Encode = Callable[..., Path]


def read(path: Path) -> tuple[VideoFile, list[Frame]]:
    video = open_source([str(path)])
    assert isinstance(video, VideoFile)
    return video, list(video.frames(lambda: False))


def test_frames_come_in_order_with_their_colours_and_times(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    with OverlayVideo(tmp_path / "a.mp4", (48, 64), 5) as film:
        for colour in colours:
            film.write(np.full((48, 64, 3), colour, np.uint8))
    video, frames = read(tmp_path / "a.mp4")
    assert (video.count, video.frame_rate, video.notes) == (4, 5, [])
    assert [frame.name for frame in frames] == ["000000", "000001", "000002", "000003"]
    assert [frame.time_s for frame in frames] == [0, 0.2, 0.4, 0.6]
    for frame, colour in zip(frames, colours, strict=True):
        np.testing.assert_allclose(frame.read().mean(axis=(0, 1)), colour, atol=12)


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts"])
def test_other_containers(encode: Encode, suffix: str) -> None:
    video, frames = read(encode(f"a.{suffix}"))
    assert len(frames) == 20
    assert not video.notes


def test_one_that_ends_early_says_after_how_many_frames(encode: Encode) -> None:
    path = encode("cut.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video, frames = read(path)
    assert 2 < len(frames) < 18
    (note,) = video.notes
    assert note.startswith(f"{path}: ends after {len(frames)} of 20 frames (")
    assert "\n" not in note


def test_damage_in_the_middle_is_noted(encode: Encode) -> None:
    path = encode("damaged.mp4")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path.write_bytes(content)
    video, frames = read(path)
    assert len(frames) > 10
    assert len(video.notes) == 1
    assert "damaged" in video.notes[0] or "ends after" in video.notes[0]


def test_frames_of_another_size_keep_their_shape_and_are_noted(
    encode: Encode, tmp_path: Path
) -> None:
    # Streams of a transport are joined by joining the files.
    wide, tall = encode("wide.ts", 10, 48, 96), encode("tall.ts", 10, 96, 48)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(wide.read_bytes() + tall.read_bytes())
    video, frames = read(joined)
    assert {frame.read().shape for frame in frames} == {(48, 96, 3)}
    last = frames[-1].read()
    assert last[:, :30].max() < 20, "no black bars"
    assert last[:, 40:56].mean() > 60
    (note,) = [note for note in video.notes if "size" in note]
    assert "changes from 96x48 to 48x96" in note


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100])
def test_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"text\.mp4: neither a picture nor a readable video"):
        open_source([str(path)])


def test_frames_that_cannot_be_decoded(encode: Encode) -> None:
    path = encode("empty.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"empty\.mp4: no frame can be decoded"):
        read(path)


def test_leaving_early_ends_the_decoder_and_notes_nothing(encode: Encode) -> None:
    video = VideoFile(encode("a.mp4"))
    with closing(video.frames(lambda: False)) as frames:
        assert next(frames).name == "000000"
    assert not video.notes


def test_a_name_with_a_colon_is_a_file(encode: Encode, tmp_path: Path) -> None:
    path = encode("a.mp4").rename(tmp_path / "12:30 -b.mp4")
    assert len(read(path)[1]) == 20
