# SPDX-License-Identifier: Apache-2.0
"""Bags whose ground truth or topics could be taken for something else."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_bag import ForeignBag
from tiny_runs import a_plan, only_run

from anomaly_seg_ros.cli import evaluate
from anomaly_seg_ros.errors import BagError, DatasetError, ParameterError
from anomaly_seg_ros.evaluation.report import write_benchmark_report
from anomaly_seg_ros.evaluation.run import run_plan
from anomaly_seg_ros.evaluation.tables import format_text

STEP = 10**8
MASKS = "/ground_truth/anomaly_mask"


def recorded(
    path: Path,
    obstacles: Path,
    offset: int = 0,
    topics: tuple[str, ...] = ("/cam",),
    anomaly: int = 1,
    last: bool = False,
) -> Path:
    """The data set as another recorder would have it.

    Args:
        path: Where to write the bag.
        obstacles: The data set.
        offset: Offset of every second mask's stamp, in nanoseconds.
        topics: Topics of the images.
        anomaly: Value of anomalous pixels; if it is not 1 nothing is ignored.
        last: Record all masks behind all frames.
    """
    bag, masks = ForeignBag(path), []
    for number, image in enumerate(sorted((obstacles / "images").iterdir())):
        stamp = 10**18 + number * STEP
        for topic in topics:
            bag.image(topic, stamp, cv2.imread(str(image)), "bgr8")
        mask = cv2.imread(str(obstacles / "labels" / image.name), cv2.IMREAD_UNCHANGED)
        if anomaly != 1:
            mask = np.where(mask == 1, anomaly, 0).astype(np.uint8)
        masks.append((MASKS, stamp + offset * (number % 2), mask, "mono8"))
        if not last:
            bag.image(*masks.pop())
    for mask in masks:
        bag.image(*mask)
    return bag.close()


def test_masks_behind_all_frames_count(tmp_path: Path, model: Path, obstacles: Path) -> None:
    bag = recorded(tmp_path / "bag", obstacles, last=True)
    # Of the same name: it says which components count.
    late = only_run(a_plan(tmp_path / "a", model, f"obstacles={bag}"))
    assert late.scores == only_run(a_plan(tmp_path / "b", model, obstacles)).scores
    assert late.frames == 5
    assert late.input["ground_truth"][MASKS]["matched"] == 5
    assert not [note for note in late.notes if MASKS in note]


def test_half_matched_masks_are_refused_unless_asked_for(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    bag = recorded(tmp_path / "bag", obstacles, offset=1)
    with pytest.raises(BagError, match=r"2 of 5 messages of .* 1 ns off; .*stamp_tolerance"):
        run_plan(a_plan(tmp_path / "a", model, bag))
    benchmark = run_plan(a_plan(tmp_path / "b", model, f"{bag}?allow_unmatched=true"))
    (run,) = benchmark.runs
    told = f"{MASKS}: 2 of 5 messages match no frame (nearest 1 ns off) and are left out"
    assert told in run.notes
    assert run.input["ground_truth"][MASKS]["unmatched"] == 2
    assert told in format_text(benchmark)
    assert told in write_benchmark_report(benchmark, tmp_path / "b", []).read_text()
    written = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert written["runs"][0]["input"] == run.input
    near = only_run(a_plan(tmp_path / "c", model, f"obstacles={bag}?stamp_tolerance=1e-6"))
    assert near.scores == only_run(a_plan(tmp_path / "d", model, obstacles)).scores


def test_nothing_matched_is_nothing_to_evaluate_on(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    bag = ForeignBag(tmp_path / "bag")
    bag.image("/cam", 1, np.zeros((40, 60, 3), np.uint8), "bgr8")
    bag.image(MASKS, 2, np.ones((40, 60), np.uint8), "mono8")
    path = bag.close()
    with pytest.raises(DatasetError, match="no anomaly mask and no class labels"):
        run_plan(a_plan(tmp_path / "a", model, f"{path}?allow_unmatched=true"))


def test_a_topic_is_chosen_told_and_can_be_chosen(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    bag = recorded(tmp_path / "bag", obstacles, topics=("/b/image", "/a/image", "/det/overlay"))
    run = only_run(a_plan(tmp_path / "a", model, bag))
    assert run.input["image_topic"] == "/a/image"
    assert run.input["image_topic_alternatives"] == ["/b/image"]
    assert any("frames of /a/image, chosen over /b/image" in note for note in run.notes)
    other = only_run(a_plan(tmp_path / "b", model, f"x={bag}?image_topic=/b/image"))
    assert other.input["image_topic"] == "/b/image"
    assert other.scores == run.scores


def test_masks_of_0_and_255_need_a_word(tmp_path: Path, model: Path, obstacles: Path) -> None:
    bag = recorded(tmp_path / "bag", obstacles, anomaly=255)
    with pytest.raises(BagError, match=r"no 1.*mask_255=anomaly"):
        run_plan(a_plan(tmp_path / "a", model, bag))
    run = only_run(a_plan(tmp_path / "b", model, f"{bag}?mask_255=anomaly"))
    ones = recorded(tmp_path / "ones", obstacles)
    assert run.pixels["anomaly"] == only_run(a_plan(tmp_path / "c", model, ones)).pixels["anomaly"]
    assert only_run(a_plan(tmp_path / "d", model, f"{bag}?mask_255=ignore")).pixels["anomaly"] == 0


def test_wrong_values_and_options_are_one_line(
    tmp_path: Path, model: Path, obstacles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = recorded(tmp_path / "bag", obstacles, anomaly=2)
    arguments = ["--models", str(model), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert evaluate.main(["--data", str(bag), *arguments]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("evaluate: error")]
    assert len(lines) == 1
    assert f"topic {MASKS}, stamp 1000000000.000000000: holds the value 2" in lines[0]
    with pytest.raises(ParameterError, match="labels: a bag has the options image_topic, stamp_t"):
        run_plan(a_plan(tmp_path / "a", model, f"{bag}?labels=classes"))


def test_content_decides_what_a_bag_is(tmp_path: Path, model: Path, obstacles: Path) -> None:
    bag = recorded(tmp_path / "bag", obstacles)
    database = next(bag.glob("*.db3")).rename(tmp_path / "drive.mcap")
    run = only_run(a_plan(tmp_path / "a", model, database))
    assert (run.dataset, run.frames) == ("bag", 5)
    plain = database.rename(tmp_path / "drive 1#2")
    assert only_run(a_plan(tmp_path / "b", model, f"x={plain}")).scores == run.scores


def test_a_log_beside_a_bag_is_no_bag_of_its_own(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    database = next(recorded(tmp_path / "bag", obstacles).glob("*.db3"))
    database.with_name(f"{database.name}-wal").touch()
    run = only_run(a_plan(tmp_path / "a", model, f"x={tmp_path}/bag/*.db3*"))
    assert run.frames == 5
