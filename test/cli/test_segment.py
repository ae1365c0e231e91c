# SPDX-License-Identifier: Apache-2.0
"""The command: its exit codes and lines, and how it stops."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import save_tiny_model

from anomaly_seg_ros.cli import segment
from anomaly_seg_ros.footage.film import OverlayVideo

PLAIN = ("--device", "cpu", "--backend", "torch", "--precision", "fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for index in range(300):
        cv2.imwrite(str(folder / f"{index:04d}.png"), noise(index))
    return folder


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def run(*arguments: object) -> int:
    return segment.main([*map(str, arguments), *PLAIN])


def frames_of(out: Path) -> list[dict]:
    return json.loads((out / "objects.json").read_text())["frames"]


def test_one_line_says_what_came_of_it(
    tmp_path: Path, model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert run(pictures, "--limit", 3, "--out", out, "--model", model) == 0
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    assert line.startswith("3 pictures in ")
    assert line.endswith(f"; written to {out}")
    assert "3/3" in told.err  # the progress bar


def test_without_an_input_it_shows_the_clip(tmp_path: Path, model: Path) -> None:
    assert run("--limit", 2, "--out", tmp_path / "o", "--model", model) == 0
    assert [(frame["height"], frame["width"]) for frame in frames_of(tmp_path / "o")] == [
        (512, 1024),
        (512, 1024),
    ]


def test_an_unreadable_picture_among_many_is_exit_code_3(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(5):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.jpg"), noise(index))
    cut = tmp_path / "in" / "3.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    code = run(tmp_path / "in", "--out", tmp_path / "o", "--model", model)
    assert code == segment.PARTLY_READ == 3
    told = capsys.readouterr()
    assert f"unreadable: {cut}: truncated JPEG" in told.err
    assert "1 unreadable" in told.out
    assert [frame["name"] for frame in frames_of(tmp_path / "o")] == ["0", "1", "2", "4"]


@pytest.mark.parametrize("earlier", ["other files", "another run"])
def test_a_folder_in_use_is_one_error(
    tmp_path: Path, model: Path, pictures: Path, earlier: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    arguments = (pictures, "--limit", 2, "--out", out, "--model", model)
    if earlier == "other files":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        told = "holds other files (thesis.tex); name a new or empty folder"
    else:
        assert run(*arguments) == 0
        told = "begun with other settings (alpha: 0.45 before, 0.9 now); --fresh"
    assert run(*arguments, "--alpha", 0.9) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("segment: error: ")
    assert told in line
    if earlier == "another run":
        assert run(*arguments, "--alpha", 0.9, "--fresh") == 0


def test_a_disk_that_fills_up_is_one_error(
    tmp_path: Path, model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel refuses what goes beyond a limit, here in the film's encoder as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    arguments = ("--limit", 30, "--write", "video", "--min-area", 5000)
    try:
        code = run(pictures, *arguments, "--out", tmp_path / "o", "--model", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"segment: error: cannot write {tmp_path / 'o' / 'overlay.mp4'}: ")
    assert line.endswith(("File too large", f"ended with {-signal.SIGXFSZ}"))
    left = [str(path) for path in (tmp_path / "o").rglob("*")]
    assert not [path for path in left if "partial" in path]


def started(out: Path, *arguments: object) -> subprocess.Popen[str]:
    """Starts the command and waits until it has written something."""
    command = [sys.executable, "-m", "anomaly_seg_ros.cli.segment", *map(str, arguments)]
    process = subprocess.Popen(
        [*command, *PLAIN, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while not len(list((out / "masks").glob("*.png"))) > 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_pictures_that_are_stopped_go_on_at_the_next_call(
    tmp_path: Path, model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    process = started(out, pictures, "--model", model)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert not said
    assert "of 300 pictures" in told
    assert told.rstrip().endswith("segment: interrupted")
    assert not (out / "objects.json").exists()
    assert not (out / "overlay.mp4").exists()
    done = {path.stem for path in (out / "masks").iterdir()}
    assert len(done) == len(list((out / "scores").iterdir())) < 300
    moment = (out / "masks" / "0001.png").stat().st_mtime_ns
    assert run(pictures, "--out", out, "--model", model, "--limit", len(done) + 2) == 0
    assert f"{len(done)} done before" in capsys.readouterr().out
    assert (out / "masks" / "0001.png").stat().st_mtime_ns == moment
    assert len(frames_of(out)) == len(done) + 2


@pytest.mark.slow
def test_a_video_that_is_stopped_keeps_what_it_has(tmp_path: Path, model: Path) -> None:
    with OverlayVideo(tmp_path / "in.mp4", (60, 90), 10) as film:
        for index in range(400):
            film.write(noise(index % 7))
    out = tmp_path / "o"
    process = started(out, tmp_path / "in.mp4", "--model", model)
    os.killpg(process.pid, signal.SIGTERM)  # as a job scheduler does
    said, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    frames = frames_of(out)
    assert 2 < len(frames) < 400
    assert said.startswith(f"{len(frames)} frames in ")
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == len(frames)


@pytest.mark.parametrize("name", ["text.mp4", "nowhere.png", "97", "http://127.0.0.1:9/x"])
def test_an_input_that_is_none_is_one_line(tmp_path: Path, name: str) -> None:
    """Whatever OpenCV and ffmpeg would say about it themselves."""
    (tmp_path / "text.mp4").write_text("hello\n")
    given = str(tmp_path / name) if "." in name and "/" not in name else name
    command = [sys.executable, "-m", "anomaly_seg_ros.cli.segment", given]
    command += ["--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("segment: error: ")
    assert name in line
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_a_video_is_not_overwritten(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with OverlayVideo(tmp_path / "in.mp4", (60, 90), 10) as film:
        film.write(noise(0))
    arguments = (tmp_path / "in.mp4", "--out", tmp_path / "o", "--model", model)
    assert run(*arguments) == 0
    assert run(*arguments) == 1
    assert "holds an earlier run; --fresh discards it" in capsys.readouterr().err
    assert run(*arguments, "--fresh") == 0
