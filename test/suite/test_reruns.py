"""The same plan again: after its files changed, with another wish, or anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import SCORES, a_plan, only_run, without_seconds

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.suite.figures import FILE_NAME, read_benchmark, write_benchmark
from anomaly_seg_ros.suite.plan import NODE, Plan, parse_named
from anomaly_seg_ros.suite.run import run_plan


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
    for sample in open_dataset("folder", obstacles):
        truth = (sample.read_anomaly_mask() == 1).astype(np.float32)
        np.save(folder / "obstacles" / f"{sample.name}.npy", truth)
    assert before < 99
    assert only_run(reading).scores["dumped"].AP == 100


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


def test_anew_leaves_no_figures_of_before(
    tmp_path: Path, model: Path, obstacles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a node neither; and an end that comes early does not bring them back."""
    plan = a_plan(tmp_path, model, obstacles)
    benchmark = run_plan(plan)
    benchmark.put(dataclasses.replace(benchmark.runs[0], via=NODE))
    write_benchmark(benchmark, tmp_path)
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        run_plan(dataclasses.replace(plan, fresh=True))
    monkeypatch.undo()
    assert read_benchmark(tmp_path / FILE_NAME).runs == []
    assert [run.via for run in run_plan(plan).runs] == ["in-process"]


def stop_after(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Ctrl-C instead of the next frame."""
    predict, seen = Segmenter.predict, []

    def interrupted(self: Segmenter, *arguments: object, **more: object) -> object:
        if len(seen) == frames:
            raise KeyboardInterrupt
        seen.append(None)
        return predict(self, *arguments, **more)

    monkeypatch.setattr(Segmenter, "predict", interrupted)
