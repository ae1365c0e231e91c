from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.figures import (
    FILE_NAME,
    Benchmark,
    BestF1,
    Calibration,
    Components,
    DistanceBin,
    OpenSet,
    PerImage,
    Run,
    ScoreResult,
    Segmentation,
    percent,
    read_benchmark,
    write_benchmark,
)


def full_run(model: str = "m", data: str = "d", via: str = "in-process") -> Run:
    """A run in which nothing is missing."""
    score = ScoreResult(
        12.5,
        90.0,
        None,
        {"at_least": 1.0, "above": 2.0, "nearest": 3.0, "interpolated": None},
        PerImage(1.0, 2.0, None, 4),
        Components(1.0, 2.0, 3.0, -0.5, "anomaly_track"),
        [DistanceBin(5.0, 10.0, None, 3.0, 0, 7)],
        Calibration(0.5, None, 2.0, 3.0, 4.0),
        BestF1(50.0, -0.5),
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
    path = write_benchmark(benchmark, tmp_path)
    assert path == tmp_path / FILE_NAME
    assert read_benchmark(path) == benchmark
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
