# SPDX-License-Identifier: Apache-2.0
"""Bags whose stamps, topics and ground truth need care, through the evaluation of one bag."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detector_harness import street
from foreign_bag import ForeignBag

from anomaly_seg_ros.bags.evaluation_input import BagOptions, notes_on, open_bag
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.cli import evaluate_bag as tool
from anomaly_seg_ros.evaluation.bag_run import evaluate_bag
from anomaly_seg_ros.evaluation.plan import IN_PROCESS, REAL_TIME, RunOptions
from anomaly_seg_ros.inference.options import SegmenterOptions

pytestmark = pytest.mark.timeout(300)
MASKS = "/ground_truth/anomaly_mask"
FRAMES = 6
CPU = SegmenterOptions(device="cpu")
STEP = 200_000_000
START = 10**18


def recorded(
    path: Path, stamps: list[int], masks: list[int] | None = None, topic: str = "/cam"
) -> Path:
    """Frames that differ, recorded every 200 ms, and a mask right behind each.

    Args:
        path: Where to write the bag.
        stamps: Stamps of the frames.
        masks: Stamps of the masks; those of the frames by default.
        topic: Topic of the frames.
    """
    bag = ForeignBag(path)
    for number, stamp in enumerate(stamps):
        image, mask = street(48, 64, seed=number), np.zeros((48, 64), np.uint8)
        image[30:40, 8 * number : 8 * number + 8] = (250, 30, 200)
        mask[30:40, 8 * number : 8 * number + 8] = 1
        bag.log_time = START + number * STEP
        bag.image(topic, stamp, image, "rgb8")
        bag.image(MASKS, (masks or stamps)[number], mask, "mono8")
    return bag.close()


def rising(count: int = FRAMES) -> list[int]:
    return [START + number * STEP for number in range(count)]


def in_process(bag: Path, model: Path, out: Path, **options: object):
    reading = BagOptions(**options)
    settings = RunOptions(model=str(model), segmenter=CPU, mode=IN_PROCESS, bag=reading)
    return evaluate_bag(bag, out, settings)


@pytest.mark.parametrize(
    "stamps",
    [
        [0] * FRAMES,
        [7 * 10**9] * FRAMES,
        [0, 0, *rising()[2:]],
        [x - 10**12 * (i >= 3) for i, x in enumerate(rising())],
        [rising()[i] for i in (0, 1, 1, 3, 4, 5)],
    ],
    ids=["zero", "the same", "zero at first", "back", "one twice"],
)
def test_stamps_change_no_figure(stamps: list[int], tiny_model: Path, tmp_path: Path) -> None:
    good = in_process(recorded(tmp_path / "good", rising()), tiny_model, tmp_path / "a")
    bag = recorded(tmp_path / "bag", stamps)
    result = in_process(bag, tiny_model, tmp_path / "b")
    assert result.scores == good.scores
    assert result.pixels == good.pixels
    written = json.loads((tmp_path / "b" / "metrics.json").read_text())["input"]
    assert written["stamps"] == "the times of recording"
    assert written["ground_truth"][MASKS]["matched"] == FRAMES
    told = [note for note in result.notes if "told apart by the times of recording" in note]
    assert len(told) == 1
    assert written["stamp_fault"] in told[0]
    assert told[0] in (tmp_path / "b" / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.ros
def test_every_frame_of_a_driver_without_stamps_has_its_answer(
    tiny_model: Path, tmp_path: Path
) -> None:
    bag = recorded(tmp_path / "bag", [0] * FRAMES)
    options = RunOptions(model=str(tiny_model), segmenter=CPU)
    result = evaluate_bag(bag, tmp_path / "out", options)
    replay = result.replay
    assert (replay.sent, result.frames, replay.lost) == (FRAMES, FRAMES, 0)
    # The answer is of the frame that was asked for, and its mask belongs to it.
    assert replay.node.max_abs_difference_to_in_process < 1e-6
    assert pytest.approx(result.scores["max_logit"].AP, abs=0.01) == replay.node.AP
    log = (tmp_path / "out" / "node.log").read_text()
    assert "stamp repeated" not in log


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.parametrize(
    "stamps",
    [
        pytest.param([0] * FRAMES, id="zero"),
        pytest.param(
            [x - 10**13 * (i >= 3) for i, x in enumerate(rising())],
            id="back",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_replay_in_real_time_loses_nothing_to_stamps(
    stamps: list[int], tiny_model: Path, tmp_path: Path
) -> None:
    bag = recorded(tmp_path / "bag", stamps)
    options = RunOptions(model=str(tiny_model), segmenter=CPU, mode=REAL_TIME)
    result = evaluate_bag(bag, tmp_path / "out", options)
    assert result.replay.sent == FRAMES
    assert result.frames + result.replay.lost == FRAMES
    assert len(result.notes) == len(set(result.notes))
    assert not [note for note in result.notes if "surplus" in note]
    log = (tmp_path / "out" / "node.log").read_text()
    assert "stamp repeated" not in log
    assert "stamp went back" not in log


def test_frames_are_played_at_the_pace_of_the_recording(tmp_path: Path) -> None:
    stamps = [x - 10**13 * (i >= 3) for i, x in enumerate(rising())]
    with BagReader(recorded(tmp_path / "bag", stamps)) as reader:
        assert [frame.play_ns for frame in reader.frames()] == [i * STEP for i in range(FRAMES)]


def test_a_clock_that_was_set_forward_is_not_waited_for(tmp_path: Path) -> None:
    stamps = [x + 3600 * 10**9 * (i >= 3) for i, x in enumerate(rising())]
    with open_bag(recorded(tmp_path / "bag", stamps), BagOptions()) as reader:
        assert [frame.play_ns for frame in reader.frames()] == [i * STEP for i in range(FRAMES)]
        assert [frame.stamp_ns for frame in reader.frames()] == stamps
        (note,) = notes_on(reader, BagOptions())
    assert note.startswith("/cam: its clock was set forward by 3600 s in between")
    with open_bag(recorded(tmp_path / "good", rising()), BagOptions()) as reader:
        assert notes_on(reader, BagOptions()) == []


def test_the_tool_tells_what_it_chose_and_left_out(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = [stamp + number % 2 for number, stamp in enumerate(rising())]
    bag = recorded(tmp_path / "bag", rising(), masks)
    arguments = [str(bag), "--model", str(tiny_model), "--device", "cpu", "--mode", IN_PROCESS]
    arguments += ["--out", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert f"3 of 6 messages of {MASKS} match no frame of /cam" in error
    assert "1 ns off" in error
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert tool.main([*arguments, "--allow-unmatched"]) == 0
    assert f"note: {MASKS}: 3 of 6 messages match no frame" in capsys.readouterr().out
    assert tool.main([*arguments, "--stamp-tolerance", "0.001", "--image-topic", "/cam"]) == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["input"]["image_topic"] == "/cam"
    assert written["input"]["ground_truth"][MASKS]["matched"] == FRAMES
    assert written["frames"]["scored"] == FRAMES


def test_masks_of_0_and_255_ask_for_the_option(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = ForeignBag(tmp_path / "bag")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20] = 255
    bag.image("/cam", 1, street(48, 64), "rgb8")
    bag.image(MASKS, 1, mask, "mono8")
    path = bag.close()
    arguments = [str(path), "--model", str(tiny_model), "--device", "cpu", "--mode", IN_PROCESS]
    arguments += ["--out", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    assert "--mask-255 anomaly or --mask-255 ignore" in capsys.readouterr().err
    for value, anomalies in (("anomaly", 640), ("ignore", 0)):
        assert tool.main([*arguments, "--mask-255", value]) == 0
        written = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert written["pixels"]["anomaly"] == anomalies
