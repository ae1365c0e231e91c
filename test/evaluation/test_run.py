# SPDX-License-Identifier: Apache-2.0
"""Whole runs: many at once, cut and resumed, from dumps and bags, over several processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import SCORES, a_plan, only_run, predictions, without_seconds

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import (
    AnomalySegError,
    DatasetError,
    ImageError,
    OutputError,
    ParameterError,
)
from anomaly_seg_ros.evaluation.accumulate import PixelPass
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.plan import parse_named
from anomaly_seg_ros.evaluation.results import FILE_NAME, Benchmark, read_benchmark
from anomaly_seg_ros.evaluation.run import run_plan
from anomaly_seg_ros.evaluation.snapshots import Ranks
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.metrics import exact_counts
from anomaly_seg_ros.metrics.count_pages import Segment
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

# Of the best image and the two worst.
PICTURES = 3


def test_many_models_and_data_sets_in_one_run(
    tmp_path: Path, model: Path, uncalibrated_model: Path, obstacles: Path, streets: Path
) -> None:
    plan = a_plan(tmp_path, model, obstacles, streets)
    plan = dataclasses.replace(plan, models=(*plan.models, parse_named(str(uncalibrated_model))))
    benchmark = run_plan(plan)
    assert [run.key[:2] for run in benchmark.runs] == [
        ("tiny", "obstacles"),
        ("tiny", "streets"),
        ("streets", "obstacles"),
        ("streets", "streets"),
    ]
    assert read_benchmark(tmp_path / FILE_NAME) == benchmark
    assert Benchmark.from_json(benchmark.to_json()) == benchmark


def test_one_forward_pass_for_all_scores(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    predict = Segmenter.predict

    def counting(self, image, scores, *rest, **more):
        seen.append(tuple(scores))
        return predict(self, image, scores, *rest, **more)

    monkeypatch.setattr(Segmenter, "predict", counting)
    plan = a_plan(tmp_path, model, obstacles, components="none")
    run_plan(plan)
    assert seen == [SCORES] * (5 + PICTURES)
    # What is finished is not run again.
    run_plan(plan)
    assert len(seen) == 5 + PICTURES
    run_plan(dataclasses.replace(plan, fresh=True))
    assert len(seen) == 2 * (5 + PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 2, 5, 6, 9])
def test_an_interrupted_run_goes_on(
    tmp_path: Path,
    model: Path,
    streets: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    # Five frames in each of the two passes: the fifth stop is between them.
    run_plan(a_plan(tmp_path / "whole", model, streets))
    seen = 0
    predict = Segmenter.predict

    def stopping(self, *arguments, **more):
        nonlocal seen
        if seen == stop_after:
            raise KeyboardInterrupt
        seen += 1
        return predict(self, *arguments, **more)

    plan = a_plan(tmp_path / "cut", model, streets)
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "predict", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan)
    assert not (tmp_path / "cut" / FILE_NAME).exists()
    calls = 0

    def counting(self, *arguments, **more):
        nonlocal calls
        calls += 1
        return predict(self, *arguments, **more)

    monkeypatch.setattr(Segmenter, "predict", counting)
    run_plan(plan)
    assert calls == 10 - stop_after + PICTURES
    whole, cut = (without_seconds(tmp_path / name / FILE_NAME) for name in ("whole", "cut"))
    assert cut == whole
    images = [tmp_path / name / "images" / "tiny__streets.npz" for name in ("whole", "cut")]
    assert images[0].read_bytes() == images[1].read_bytes()
    assert not list((tmp_path / "cut" / "states").glob("*/*-*"))


def test_a_frame_that_is_half_counted_is_not_saved(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = PixelPass.add

    def breaking(self, index, *rest):
        add(self, index, *rest)
        if index == 2:
            raise KeyboardInterrupt

    # A state after every frame: what was whole before the third one is kept.
    plan = a_plan(tmp_path / "cut", model, obstacles, save_every=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(PixelPass, "add", breaking)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan)
    (state,) = (tmp_path / "cut" / "states" / "tiny__obstacles").glob("pixels-*")
    assert len(json.loads((state / "progress.json").read_text())["done"]) == 2
    run_plan(plan)
    run_plan(a_plan(tmp_path / "whole", model, obstacles))
    whole, cut = (without_seconds(tmp_path / name / FILE_NAME) for name in ("whole", "cut"))
    assert cut == whole


def test_another_configuration_is_refused(tmp_path: Path, model: Path, obstacles: Path) -> None:
    run_plan(a_plan(tmp_path, model, obstacles))
    changed = a_plan(tmp_path, model, obstacles, scores=("msp",), limit=2)
    with pytest.raises(ParameterError, match=r"data.frames: 5 before, 2 now.*scores.*--fresh"):
        run_plan(changed)
    run = only_run(dataclasses.replace(changed, fresh=True))
    assert (run.frames, tuple(run.scores)) == (2, ("msp",))


def test_damaged_states_are_errors(tmp_path: Path, model: Path, obstacles: Path) -> None:
    plan = a_plan(tmp_path, model, obstacles)
    folder = tmp_path / "states" / "tiny__obstacles"
    run_plan(plan)
    (folder / "finished.json").unlink()
    state = folder / "pixels-0-1"
    state.mkdir()
    (state / "progress.json").write_text('{"done": [[0, "f0"]], "seconds": 1.0}')
    with pytest.raises(OutputError, match="pixels-0-1"):
        run_plan(plan)
    (folder / "configuration.json").write_text("{")
    with pytest.raises(OutputError, match=r"configuration\.json"):
        run_plan(plan)


def test_a_small_memory_limit_changes_no_digit(
    tmp_path: Path, model: Path, lost_and_found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan(a_plan(tmp_path / "a", model, lost_and_found))
    spilled: list[Path] = []

    def watched(path: Path, pages: object) -> Segment:
        spilled.append(path)
        return Segment(path, pages)

    monkeypatch.setattr(exact_counts, "Segment", watched)
    run_plan(a_plan(tmp_path / "b", model, lost_and_found, memory_limit=1))
    assert len(spilled) > 10
    assert all(path.is_relative_to(tmp_path / "b") for path in spilled[:2])
    a, b = (without_seconds(tmp_path / name / FILE_NAME) for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_written_scores_give_the_same_figures(
    tmp_path: Path, model: Path, obstacles: Path, kind: str
) -> None:
    dumps = tmp_path / "dumps"
    first = only_run(a_plan(tmp_path / "a", model, obstacles, dump=(kind, dumps)))
    folders = tuple(parse_named(f"{score}={dumps / f'tiny-{score}'}") for score in SCORES)
    runs = run_plan(a_plan(tmp_path / "b", None, obstacles, dumped=folders)).runs
    for score, run in zip(SCORES, runs, strict=True):
        assert (run.model, run.via) == (score, "dumped")
        found, expected = run.scores["dumped"], first.scores[score]
        if kind == "npy":
            assert (found.AP, found.FPR95, found.components, found.per_image) == (
                expected.AP,
                expected.FPR95,
                expected.components,
                expected.per_image,
            )
        else:  # half precision
            assert pytest.approx(expected.AP, abs=0.5) == found.AP
        assert found.calibration is None
        assert run.segmentation is None


def test_errors_of_dumped_scores_name_the_file(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    dumps = tmp_path / "dumps"
    run_plan(a_plan(tmp_path / "a", model, obstacles, dump=("npy", dumps)))
    plan = a_plan(tmp_path / "b", None, obstacles, dumped=(parse_named(str(dumps / "tiny-msp")),))
    file = dumps / "tiny-msp" / "obstacles" / "f3.npy"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DatasetError, match="no score for frame 'f3'"):
        run_plan(plan)
    np.save(file, np.zeros((4, 5), np.float32))
    with pytest.raises(ImageError, match=r"f3\.npy: scores are \(4, 5\), the image is \(40, 60\)"):
        run_plan(plan)
    np.save(file, np.full((40, 60), np.nan, np.float32))
    with pytest.raises(ImageError, match=r"'f3'.*not finite"):
        run_plan(plan)
    # Once it is put right, the run goes on.
    file.write_bytes(content)
    assert only_run(plan).frames == 5


def test_a_bag_gives_the_figures_of_its_data_set(
    tmp_path: Path, model: Path, obstacles: Path, lost_and_found: Path
) -> None:
    for adapter, root in (("folder", obstacles), ("lost_and_found", lost_and_found)):
        bag = tmp_path / f"{adapter}_bag"
        dataset = open_dataset(adapter, root)
        with BagWriter(bag, dataset=f"{adapter}: {root.name}") as writer:
            for sample in dataset:
                writer.write(sample)
        changes = {"components": "obstacle_track"}
        from_bag = only_run(a_plan(tmp_path / adapter / "a", model, bag, **changes))
        from_data = only_run(a_plan(tmp_path / adapter / "b", model, root, **changes))
        assert from_bag.dataset == "bag"
        assert from_bag.scores == from_data.scores
        assert from_bag.frames == len(dataset)


def test_many_bags_as_one(tmp_path: Path, model: Path, obstacles: Path, streets: Path) -> None:
    samples = list(open_dataset("folder", obstacles))
    for number, part in enumerate((samples[:2], samples[2:])):
        with BagWriter(tmp_path / f"drive{number}") as writer:
            for sample in part:
                writer.write(sample)
    pooled = only_run(a_plan(tmp_path / "a", model, f"fleet=bag:{tmp_path}/drive*"))
    whole = only_run(a_plan(tmp_path / "b", model, obstacles, components="anomaly_track"))
    assert (pooled.dataset, pooled.data, pooled.frames) == ("bag", "fleet", 5)
    assert pooled.scores == whole.scores
    counts = ImageCounts.load(tmp_path / "a" / "images" / "tiny__fleet.npz")
    assert counts.names[1:3] == ("drive0_f1", "drive1_f2")
    limited = only_run(
        a_plan(tmp_path / "c", model, f"fleet={tmp_path}/drive*", limit=3, scores=("msp",))
    )
    assert limited.frames == 3
    (tmp_path / "drive2").symlink_to(streets)
    with pytest.raises(DatasetError, match="cannot be pooled"):
        run_plan(a_plan(tmp_path / "d", model, f"{tmp_path}/drive*"))
    with pytest.raises(DatasetError, match="nothing fits"):
        run_plan(a_plan(tmp_path / "d", model, f"{tmp_path}/ride*"))


def test_parts_keep_dots_in_their_names(tmp_path: Path, model: Path, obstacles: Path) -> None:
    samples = list(open_dataset("folder", obstacles))
    for number, part in enumerate((samples[:2], samples[2:])):
        with BagWriter(tmp_path / "drives" / f"2026.11.0{number}") as writer:
            for sample in part:
                writer.write(sample)
    run_plan(a_plan(tmp_path / "a", model, f"fleet=bag:{tmp_path}/drives/*"))
    counts = ImageCounts.load(tmp_path / "a" / "images" / "tiny__fleet.npz")
    assert counts.names[1:3] == ("2026.11.00_f1", "2026.11.01_f2")


def test_parts_of_one_name_are_refused(tmp_path: Path, model: Path, obstacles: Path) -> None:
    (sample, *_) = open_dataset("folder", obstacles)
    with BagWriter(tmp_path / "drives" / "a") as writer:
        writer.write(sample)
    (tmp_path / "drives" / "a.mcap").symlink_to(tmp_path / "drives" / "a" / "a.mcap")
    with pytest.raises(DatasetError, match="fleet: two parts are called 'a'"):
        run_plan(a_plan(tmp_path / "out", model, f"fleet=bag:{tmp_path}/drives/*"))


def test_frames_in_no_fold_have_no_open_set_figures(
    tmp_path: Path, uncalibrated_model: Path, streets: Path
) -> None:
    """There are no other folds to find their threshold on; those of the folds stay as they are."""
    samples = list(open_dataset("street_hazards", streets))
    loose = dataclasses.replace(samples[0], name="loose", fold="")
    for name, part in (("drive0", samples), ("drive1", [loose])):
        with BagWriter(tmp_path / name, taxonomy="streethazards") as writer:
            for sample in part:
                writer.write(sample)
    alone = only_run(a_plan(tmp_path / "a", uncalibrated_model, tmp_path / "drive0"))
    both = only_run(a_plan(tmp_path / "b", uncalibrated_model, f"both=bag:{tmp_path}/drive*"))
    assert both.frames == alone.frames + 1
    assert both.open_set == alone.open_set != {}
    assert "open-set figures without the frames that are in no fold" in both.notes


def test_a_bag_says_whose_classes_its_labels_are(
    tmp_path: Path, model: Path, uncalibrated_model: Path, streets: Path
) -> None:
    with BagWriter(tmp_path / "bag", dataset="mine", taxonomy="streethazards") as writer:
        for sample in open_dataset("street_hazards", streets):
            writer.write(sample)
    theirs = only_run(a_plan(tmp_path / "a", uncalibrated_model, tmp_path / "bag"))
    ours = only_run(a_plan(tmp_path / "b", model, tmp_path / "bag"))
    assert theirs.segmentation is not None
    assert ours.segmentation is None
    assert any("classes are not the model's" in note for note in ours.notes)


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({}, "folder:{obstacles}?name=x", "name: data set 'folder' has no such option"),
        ({}, "folder:{obstacles}?root=x", "root: data set 'folder' has no such option"),
        ({"scores": ("energie",)}, "{obstacles}", "unknown score 'energie'"),
        ({"scores": ("dense_hybrid",)}, "{obstacles}", "has none of the scores dense_hybrid"),
        ({}, "pascal:{obstacles}", "unknown data set 'pascal'"),
        ({}, "{obstacles}/nothing", "no such folder"),
        ({}, "{obstacles}/images", "no anomaly mask and no class labels"),
        ({}, "{obstacles}?labels=masks", "labels: expected one of"),
        ({}, "{obstacles}?labels", "option 'labels' has no value"),
        ({"limit": 0}, "{obstacles}", "limit must be at least 1"),
        ({"dump": ("zarr", Path("x"))}, "{obstacles}", "dump 'zarr': expected one of npy, hdf5"),
    ],
)
def test_errors_say_what_is_wrong(
    tmp_path: Path, model: Path, obstacles: Path, changes: dict, data: str, message: str
) -> None:
    with pytest.raises(AnomalySegError, match=message):
        run_plan(a_plan(tmp_path, model, data.format(obstacles=obstacles), **changes))


def test_an_unknown_model_is_an_error(tmp_path: Path, obstacles: Path) -> None:
    with pytest.raises(AnomalySegError, match="no such file"):
        run_plan(a_plan(tmp_path, Path("resnet9000"), obstacles))


def test_two_of_one_name_are_refused(tmp_path: Path, model: Path, obstacles: Path) -> None:
    with pytest.raises(ParameterError, match="two data sets are called 'obstacles'"):
        a_plan(tmp_path, model, obstacles, obstacles)
    plan = a_plan(tmp_path, model, f"a={obstacles}", f"b=folder:{obstacles}")
    assert [spec.label for spec in plan.data] == ["a", "b"]


class OneOfTwo(Ranks):
    """The second of two processes, whose partner died at once."""

    def barrier(self) -> None:
        pass


def test_another_number_of_processes_takes_over(
    tmp_path: Path, model: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = a_plan(tmp_path / "cut", model, streets)
    with pytest.raises(FileNotFoundError, match="decisions"):
        run_plan(plan, OneOfTwo(1, 2))
    seen: list[int] = []
    add = PixelPass.add

    def watching(self, index, *rest):
        seen.append(index)
        add(self, index, *rest)

    monkeypatch.setattr(PixelPass, "add", watching)
    run_plan(plan)
    assert seen == [0, 2, 4]
    run_plan(a_plan(tmp_path / "whole", model, streets))
    whole, cut = (without_seconds(tmp_path / name / FILE_NAME) for name in ("whole", "cut"))
    assert cut == whole


def _torchrun(ranks: int, *arguments: str) -> None:
    command = [sys.executable, "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command += ["anomaly_seg_ros.cli.evaluate", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_give_the_digits_of_one(
    tmp_path: Path, model: Path, streets: Path, lost_and_found: Path
) -> None:
    arguments = ["--models", str(model), "--device", "cpu", "--threads", "1"]
    arguments += ["--scores", *SCORES]
    arguments += ["--data", str(streets), str(lost_and_found), "--out"]
    _torchrun(1, *arguments, str(tmp_path / "one"))
    _torchrun(2, *arguments, str(tmp_path / "two"))
    one, two = (without_seconds(tmp_path / name / FILE_NAME) for name in ("one", "two"))
    assert one == two
    for name in ("tiny__streets.npz", "tiny__laf.npz"):
        images = [tmp_path / out / "images" / name for out in ("one", "two")]
        assert images[0].read_bytes() == images[1].read_bytes()


@pytest.mark.slow
@pytest.mark.data
def test_on_real_frames(tmp_path: Path, shared_data: Path) -> None:
    plan = a_plan(
        tmp_path,
        None,
        shared_data / "anomaly" / "road_anomaly",
        models=(parse_named("default"),),
        scores=("dense_hybrid",),
        limit=2,
    )
    run = only_run(plan)
    found = run.scores["dense_hybrid"]
    assert run.frames == 2
    # Guessing has the share of anomalous pixels as AP, and 50 % AUROC.
    share = 100 * run.pixels["anomaly"] / sum(run.pixels.values())
    assert 1.5 * share < found.AP
    assert found.AUROC > 60
    assert found.components.sizes == "anomaly_track"
    assert found.calibration.target_FPR is not None


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_a_node_publishes_what_is_computed(tmp_path: Path, model: Path, obstacles: Path) -> None:
    pytest.importorskip("rclpy")
    plan = a_plan(tmp_path, model, obstacles, via="node")
    in_process, node = run_plan(plan).runs
    assert (node.model, node.data, node.via, node.frames) == ("tiny", "obstacles", "node", 5)
    (score,) = node.scores
    assert score == "max_logit"
    assert node.model_configuration["max_abs_difference_to_in_process"] < 1e-6
    assert in_process.via == "in-process"
    # On the unit scale float32 rounds some neighbours to one.
    unit = PixelScores()
    calibration = Segmenter.load(model, device="cpu").metadata.calibration[score]
    for sample, prediction in predictions(model, "folder", obstacles):
        unit.update(calibration.to_unit(prediction.scores[score]), sample.anomaly_mask)
    expected = unit.compute()
    for figure in ("AP", "AUROC", "FPR95"):
        found = getattr(node.scores[score], figure)
        assert found == pytest.approx(100 * getattr(expected, figure), abs=0.01)
    assert not (tmp_path / "node" / "tiny__obstacles" / "bag").exists()
    # It is not sent again.
    assert run_plan(plan).runs == [in_process, node]
