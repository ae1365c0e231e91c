# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.bags import BagReader
from anomaly_seg_ros.cli.dataset_to_bag import main

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def pairs(tmp_path):
    """A folder of three images with anomaly masks."""
    for i in range(3):
        for folder, array in (
            ("images", np.full((4, 6, 3), 50 * i, np.uint8)),
            ("labels", np.full((4, 6), i % 2, np.uint8)),
        ):
            path = tmp_path / "set" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), array)
    return tmp_path / "set"


def test_a_folder_becomes_a_bag(pairs, tmp_path, capsys):
    out = tmp_path / "deep" / "bag"
    code = main(["--root", str(pairs), "--out", str(out), "--frame-rate", "5", "--limit", "2"])
    printed = capsys.readouterr()
    assert code == 0
    assert f"{out}: 2 frames of 'folder'" in printed.out
    assert "(mcap)" in printed.out
    assert "folder" in printed.err  # the progress bar
    with BagReader(out) as reader:
        frames = list(reader.frames())
        assert reader.dataset == "folder"
        assert reader.frame_rate == 5
    assert [frame.name for frame in frames] == ["0", "1"]
    assert frames[1].stamp_ns - frames[0].stamp_ns == 200_000_000
    assert (frames[1].anomaly_mask == 1).all()


def test_options_reach_the_data_set(pairs, tmp_path):
    out = tmp_path / "bag"
    arguments = ["--root", str(pairs), "--out", str(out), "--option", "labels=classes"]
    assert main([*arguments, "--storage", "sqlite3", "--compressed"]) == 0
    with BagReader(out) as reader:
        assert reader.image_topic == "/camera/image_raw/compressed"
        assert (next(reader.frames()).labels == 0).all()
    assert (out / "bag.db3").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "{set}/missing"], "no such folder"),
        (["--root", "{set}", "--split", "val"], "no split 'val' (found: none)"),
        (["--root", "{set}", "--option", "size=2"], "size: data set 'folder' has no such option"),
        (["--root", "{set}", "--option", "size"], "--option size: expected NAME=VALUE"),
        (["--root", "{set}", "--option", "root=x"], "root: data set 'folder' has no such option"),
        (
            ["--root", "{set}", "--split", "a", "--option", "split=b"],
            "--option split=b: 'split' is given twice",
        ),
        (["--root", "{set}", "--jpeg-quality", "0"], "jpeg_quality: must be 1 to 100"),
        (["--root", "{set}", "--dataset", "cityscapes"], "data set 'cityscapes' expects"),
    ],
)
def test_errors_exit_with_one(pairs, tmp_path, capsys, arguments, message):
    filled = [x.format(set=pairs) for x in arguments]
    assert main([*filled, "--out", str(tmp_path / "bag")]) == 1
    printed = capsys.readouterr().err
    assert "dataset_to_bag: error: " in printed
    assert message in printed
    assert [x.name for x in tmp_path.iterdir()] == ["set"]


def test_a_damaged_image_leaves_nothing(pairs, tmp_path, capsys):
    image = pairs / "images" / "2.png"
    image.write_bytes(image.read_bytes()[:-20])
    assert main(["--root", str(pairs), "--out", str(tmp_path / "bag")]) == 1
    assert f"{image}: truncated PNG" in capsys.readouterr().err
    assert [x.name for x in tmp_path.iterdir()] == ["set"]


def test_existing_bag_needs_overwrite(pairs, tmp_path, capsys):
    arguments = ["--root", str(pairs), "--out", str(tmp_path / "bag")]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--limit", "1"]) == 0
    with BagReader(tmp_path / "bag") as reader:
        assert len(reader) == 1


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ctrl_c_leaves_nothing(pairs, tmp_path, storage):
    (pairs / "images" / "2.png").unlink()
    os.mkfifo(pairs / "images" / "2.png")  # reading it waits for ever
    command = [sys.executable, "-m", "anomaly_seg_ros.cli.dataset_to_bag", "--storage", storage]
    arguments = ["--root", str(pairs), "--out", str(tmp_path / "bag")]
    with subprocess.Popen(
        [*command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        # A shell's background jobs, CI among them, ignore SIGINT and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as tool:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".bag.*.partial/bag/bag.*")):
            assert time.monotonic() < deadline
            assert tool.poll() is None
            time.sleep(0.02)
        tool.send_signal(signal.SIGINT)
        errors = tool.communicate(timeout=60)[1]
    # CPython ends by the signal itself if the interrupt passed through an exec() (rosbags makes
    # its serialisers that way); a shell reports 130 for both.
    assert tool.returncode in (130, -signal.SIGINT)
    assert errors.endswith("dataset_to_bag: interrupted\n")
    assert [x.name for x in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("wrong", [["--limit", "0"], ["--frame-rate", "inf"], ["--dataset", "x"]])
def test_wrong_usage_exits_with_two(pairs, tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(pairs), "--out", str(tmp_path / "bag"), *wrong])
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_help_shows_the_trees(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "ROOT/gtCoarse/SPLIT" in capsys.readouterr().out
