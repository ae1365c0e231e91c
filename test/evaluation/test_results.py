# SPDX-License-Identifier: Apache-2.0
"""The result and its two files: stable keys, percent, null for what is undefined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_benchmark import replayed_run

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.results import (
    FILE_NAME,
    Benchmark,
    BestF1,
    Calibration,
    Components,
    DistanceBin,
    Latency,
    Objects,
    OpenSet,
    PerImage,
    Replay,
    Run,
    ScoreFigures,
    Segmentation,
    make_folder,
    metrics_json,
    read_benchmark,
    write_benchmark,
)
from anomaly_seg_ros.evaluation.summary import closed_set_figures, percent, pooled_figures
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import PixelScores


def full_run(model: str = "m", data: str = "d", via: str = "in-process") -> Run:
    """A run in which nothing is missing."""
    score = ScoreFigures(
        12.5,
        90.0,
        None,
        {"at_least": 1.0, "above": 2.0, "nearest": 3.0, "interpolated": None},
        PerImage(1.0, 2.0, None, 4),
        Components(1.0, 2.0, 3.0, -0.5, "anomaly_track"),
        [DistanceBin(5.0, 10.0, None, 3.0, 0, 7)],
        Calibration(0.5, None, 2.0, 3.0, 4.0),
        BestF1(50.0, -0.5),
        Objects(1.0, 2.0, 3.0, None, 5.0, 6.0, 0.5, 0.55, "anomaly_track"),
    )
    return Run(
        model,
        "folder",
        data,
        via,
        3,
        {"anomaly": 5, "in_distribution": 7},
        Segmentation(50.0, 60.0, {"road": None}),
        {"msp": OpenSet(1.0, 2.0, 1.0, None, 3.0, 4.0, 5.0, "folds", {"road": 1.0})},
        {"msp": score},
        ["a note"],
        1.5,
        {"device": "cpu"},
    )


def test_a_benchmark_survives_the_file(tmp_path: Path) -> None:
    benchmark = Benchmark([full_run(), full_run("n")])
    path = write_benchmark(benchmark, tmp_path / "made")
    assert path == tmp_path / "made" / FILE_NAME
    assert read_benchmark(path) == benchmark
    assert list(path.parent.iterdir()) == [path]
    document = json.loads(path.read_text())
    assert document["format"] == 1
    assert document["runs"][0]["scores"]["msp"]["FPR95"] is None
    assert document["conventions"]["distance_edges_m"] == [5.0 * n for n in range(1, 11)]


def test_a_run_replaces_the_one_of_the_same_key() -> None:
    benchmark = Benchmark([full_run("a"), full_run("b")])
    newer = full_run("a")
    newer.frames = 99
    benchmark.put(newer)
    benchmark.put(full_run("a", via="node"))
    assert [(run.model, run.via, run.frames) for run in benchmark.runs] == [
        ("a", "in-process", 99),
        ("a", "node", 3),
        ("b", "in-process", 3),
    ]


def test_keys_of_later_versions_are_ignored() -> None:
    document = json.loads(Benchmark([full_run()]).to_json())
    document["runs"][0]["scores"]["msp"]["new"] = 1
    document["runs"][0]["new"] = 1
    assert Benchmark.from_json(json.dumps(document)).runs == [full_run()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "no key 'runs'"),
        ('{"runs": [], "format": 2}', "format 2, this version reads 1"),
        ('{"runs": [{"model": "m"}], "format": 1}', "missing"),
        ('{"runs": [3], "format": 1}', "cannot read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text)
    with pytest.raises(OutputError, match=message):
        read_benchmark(path)


def test_percent() -> None:
    assert percent(0.25) == 25.0
    assert percent(float("nan")) is None


def bare_run() -> Run:
    return Run("m", "bag", "", "in-process", 0, {})


def test_stable_keys_of_metrics_json() -> None:
    document = json.loads(metrics_json(replayed_run()))
    assert list(document) == [
        *("model", "frames", "scores", "dataset", "pixels", "segmentation", "node", "latency_ms"),
        *("dropped", "notes", "input", "configuration", "conventions"),
    ]
    assert document["model"] == "default"
    assert document["frames"] == {"sent": 17, "scored": 16, "lost": 1}
    assert document["scores"]["max_logit"] == {"AP": 12.5, "AUROC": 91.25, "FPR95": 41.5}
    assert "percent" in document["conventions"]["units"]
    assert ">= 0.95" in document["conventions"]["FPR95"]
    assert document["configuration"]["inference_size"] == [512, 1024]
    assert document["node"]["score"] == "max_logit"


def test_only_measured_sections_are_in_metrics_json() -> None:
    document = json.loads(metrics_json(bare_run()))
    assert not {"segmentation", "node", "latency_ms"} & set(document)
    assert document["frames"] == {"sent": 0, "scored": 0, "lost": 0}


def test_what_is_not_defined_is_null() -> None:
    run = bare_run()
    run.scores = {"msp": ScoreFigures()}
    run.segmentation = Segmentation(IoU={"train": None})
    configuration = {"limit": float("inf"), "path": Path("/a"), "size": np.int64(3)}
    run.replay = Replay(configuration=configuration)
    document = json.loads(metrics_json(run), parse_constant=pytest.fail)
    assert document["scores"]["msp"] == {"AP": None, "AUROC": None, "FPR95": None}
    assert document["segmentation"]["IoU"] == {"train": None}
    assert document["configuration"] == {"limit": None, "path": "/a", "size": 3}


def test_figures_come_from_the_metrics_in_percent() -> None:
    pixels = PixelScores()
    pixels.update(np.float32([[0, 1, 2, 3]]), np.uint8([[0, 1, 0, 1]]))
    figures = pooled_figures(pixels.compute())
    got = (figures.AP, figures.AUROC, figures.FPR95)
    assert got == pytest.approx((100 * (1 + 2 / 3) / 2, 75, 50))

    matrix = ConfusionMatrix(3)
    assert closed_set_figures(matrix, ["road", "car", "bus"]) is None
    matrix.update(np.uint8([[0, 0, 1, 255]]), np.uint8([[0, 1, 1, 1]]))
    closed = closed_set_figures(matrix, ["road", "car", "bus"])
    assert closed.mIoU == pytest.approx(50)
    assert closed.pixel_accuracy == pytest.approx(200 / 3)
    assert closed.IoU == {"road": pytest.approx(50), "car": pytest.approx(50), "bus": None}


def test_latency() -> None:
    latency = Latency.from_samples(np.arange(101))
    assert (latency.median, latency.p95, latency.p99, latency.max) == (50, 95, 99, 100)


def test_unwritable_targets_are_one_clear_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*benchmark\.json"):
        write_benchmark(Benchmark(), blocker)
    with pytest.raises(OutputError, match=r"cannot write to .*file: File exists"):
        make_folder(blocker)
    folder = tmp_path / "benchmark.json"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_benchmark(Benchmark(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.json", "file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "metrics.json"
    target.write_text("old")

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(target, b"new content")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
