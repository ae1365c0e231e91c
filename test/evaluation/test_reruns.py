# SPDX-License-Identifier: Apache-2.0
"""The same plan again: after its files changed, with another wish, or anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import SCORES, a_plan, only_run, without_seconds

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.evaluation.plan import NODE, Plan, parse_named
from anomaly_seg_ros.evaluation.results import FILE_NAME, Benchmark, write_benchmark
from anomaly_seg_ros.evaluation.run import run_plan
from anomaly_seg_ros.evaluation.scorers import DumpedScorer
from anomaly_seg_ros.inference.segmenter import Segmenter


def dumps_of(plan: Plan, kind: str = "npy") -> Plan:
    return dataclasses.replace(plan, dump=(kind, plan.out / "dumps"))


def written(plan: Plan) -> list[Path]:
    return sorted((plan.out / "dumps").rglob("*.npy"))


def test_scores_that_changed_are_evaluated_anew(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    writing = dumps_of(a_plan(tmp_path / "a", model, obstacles))
    run_plan(writing)
    folder = tmp_path / "a" / "dumps" / "tiny-msp"
    reading = a_plan(tmp_path / "b", None, obstacles, dumped=(parse_named(str(folder)),))
    before = only_run(reading).scores["dumped"].AP
    assert before == only_run(reading).scores["dumped"].AP
    write_truth(obstacles, folder)
    assert before < 99
    assert only_run(reading).scores["dumped"].AP == 100


def test_scores_that_change_in_the_middle_are_not_mixed(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = dumps_of(a_plan(tmp_path / "a", model, obstacles))
    run_plan(writing)
    folder = tmp_path / "a" / "dumps" / "tiny-msp"
    reading = a_plan(tmp_path / "b", None, obstacles, dumped=(parse_named(str(folder)),))
    stop_after(monkeypatch, 3, DumpedScorer, "__call__")
    with pytest.raises(KeyboardInterrupt):
        run_plan(reading)
    monkeypatch.undo()
    write_truth(obstacles, folder)
    assert only_run(reading).scores["dumped"].AP == 100


def test_a_label_map_that_changed_counts(tmp_path: Path, model: Path, obstacles: Path) -> None:
    label_map = tmp_path / "map.yaml"
    plan = a_plan(tmp_path / "out", model, f"folder:{obstacles}?label_map={label_map}")
    anomalies = []
    for known, anomaly in ((0, 1), (1, 0)):
        label_map.write_text(f"labels: {{{known}: known, {anomaly}: anomaly}}\nothers: ignore\n")
        anomalies.append(only_run(plan).pixels["anomaly"])
    assert anomalies[0] < anomalies[1]


def test_the_working_directory_does_not_count(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = only_run(a_plan(tmp_path, model, obstacles))
    monkeypatch.chdir(obstacles.parent)
    assert only_run(a_plan(tmp_path, model, obstacles.name)) == first


def test_a_bag_that_changed_is_evaluated_anew(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    samples = list(open_dataset("folder", obstacles))
    plan = a_plan(tmp_path / "out", model, tmp_path / "bag")
    found = []
    for part in (samples[:2], samples[2:4]):
        with BagWriter(tmp_path / "bag", overwrite=True) as writer:
            for sample in part:
                writer.write(sample)
        found.append(only_run(plan).scores["msp"].AP)
    assert found[0] != found[1]


def test_scores_asked_for_later_are_written(tmp_path: Path, model: Path, obstacles: Path) -> None:
    plan = a_plan(tmp_path, model, obstacles)
    run_plan(plan)
    before = without_seconds(tmp_path / FILE_NAME)
    run_plan(dumps_of(plan))
    assert len(written(plan)) == 5 * len(SCORES)
    assert without_seconds(tmp_path / FILE_NAME) == before


def test_scores_asked_for_in_the_middle_are_all_written(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = a_plan(tmp_path, model, obstacles)
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan)
    monkeypatch.undo()
    run_plan(dumps_of(plan))
    assert len(written(plan)) == 5 * len(SCORES)


def test_scores_that_were_being_written_are_not_written_twice(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dumps_of(a_plan(tmp_path, model, obstacles))
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan)
    monkeypatch.undo()
    first = {path: path.stat().st_mtime_ns for path in written(plan)}
    assert len(first) == 3 * len(SCORES)
    run_plan(plan)
    assert len(written(plan)) == 5 * len(SCORES)
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_later_scores_leave_the_figures_of_a_node(
    tmp_path: Path, model: Path, obstacles: Path, lost_and_found: Path
) -> None:
    plan = a_plan(tmp_path, model, obstacles, lost_and_found)
    with_node_figures(run_plan(plan), tmp_path)
    runs = run_plan(dumps_of(plan)).runs
    assert [(run.data, run.via) for run in runs] == [
        ("obstacles", "in-process"),
        ("obstacles", "node"),
        ("laf", "in-process"),
    ]


def test_anew_leaves_no_figures_of_a_node(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an end that comes early does not bring the old figures back."""
    plan = a_plan(tmp_path, model, obstacles)
    with_node_figures(run_plan(plan), tmp_path)
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        run_plan(dataclasses.replace(plan, fresh=True))
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan)
    monkeypatch.undo()
    assert [run.via for run in run_plan(plan).runs] == ["in-process"]


def with_node_figures(benchmark: Benchmark, out: Path) -> None:
    """Adds a run through a node to what is stored."""
    benchmark.put(dataclasses.replace(benchmark.runs[0], via=NODE))
    write_benchmark(benchmark, out)


def write_truth(data: Path, folder: Path) -> None:
    """Scores without a fault."""
    for sample in open_dataset("folder", data):
        truth = (sample.read_anomaly_mask() == 1).astype(np.float32)
        np.save(folder / data.name / f"{sample.name}.npy", truth)


def stop_after(
    monkeypatch: pytest.MonkeyPatch, frames: int, of: type = Segmenter, method: str = "predict"
) -> None:
    """Ctrl-C instead of the next frame."""
    predict, seen = getattr(of, method), []

    def interrupted(self: object, *arguments: object, **more: object) -> object:
        if len(seen) == frames:
            raise KeyboardInterrupt
        seen.append(None)
        return predict(self, *arguments, **more)

    monkeypatch.setattr(of, method, interrupted)
