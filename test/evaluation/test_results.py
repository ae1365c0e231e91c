"""metrics.json: the stable keys, percent, null for NaN, atomic writing; the text tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.results import (
    EvaluationResult,
    FrameCounts,
    LatencySummary,
    NodeFigures,
    ScoreFigures,
    SegmentationFigures,
    best_scores,
    format_table,
    read_metrics,
    write_metrics,
)
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import PixelScores


def measured() -> EvaluationResult:
    return EvaluationResult(
        model="default",
        dataset="lost_and_found",
        frames=FrameCounts(sent=17, scored=16, lost=1),
        scores={
            "msp": ScoreFigures(AP=3.21, AUROC=88.1, FPR95=40.0),
            "max_logit": ScoreFigures(AP=12.5, AUROC=91.25, FPR95=41.5),
        },
        pixels={"anomaly": 100, "in_distribution": 9000},
        segmentation=SegmentationFigures(60.0, 93.0, {"road": 97.0, "train": float("nan")}),
        node=NodeFigures("max_logit", 3.1e-8, AP=12.5),
        latency_ms=LatencySummary.from_samples([10.0, 20.0, 30.0, 40.0]),
        dropped={"node": 2},
        notes=["one frame had no mask"],
        configuration={"precision": "fp32", "inference_size": (512, 1024)},
    )


def test_stable_keys() -> None:
    document = json.loads(measured().to_json())
    assert document["model"] == "default"
    assert document["frames"] == {"sent": 17, "scored": 16, "lost": 1}
    assert document["scores"]["max_logit"] == {"AP": 12.5, "AUROC": 91.25, "FPR95": 41.5}
    assert "percent" in document["conventions"]["units"]
    assert ">= 0.95" in document["conventions"]["FPR95"]
    assert document["configuration"]["inference_size"] == [512, 1024]
    assert document["node"]["score"] == "max_logit"


def test_only_measured_sections_are_written() -> None:
    document = json.loads(EvaluationResult(model="m").to_json())
    assert not {"segmentation", "node", "latency_ms"} & set(document)
    assert document["frames"] == {"sent": 0, "scored": 0, "lost": 0}


def test_nan_and_infinity_become_null() -> None:
    result = EvaluationResult(
        model="m",
        scores={"msp": ScoreFigures()},
        segmentation=SegmentationFigures(IoU={"train": float("nan")}),
        configuration={"limit": float("inf"), "path": Path("/a"), "size": np.int64(3)},
    )
    text = result.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    document = json.loads(text)
    assert document["scores"]["msp"] == {"AP": None, "AUROC": None, "FPR95": None}
    assert document["segmentation"]["IoU"] == {"train": None}
    assert document["configuration"] == {"limit": None, "path": "/a", "size": 3}


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "made" / "metrics.json"
    write_metrics(measured(), path)
    restored = read_metrics(path)
    assert restored.to_json() == measured().to_json()
    assert isinstance(restored.scores["msp"], ScoreFigures)
    assert np.isnan(restored.segmentation.IoU["train"])
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_unknown_keys_are_ignored() -> None:
    document = json.loads(measured().to_json())
    document["future"] = 1
    document["scores"]["msp"]["future"] = 1
    assert EvaluationResult.from_json(json.dumps(document)).scores["msp"].AP == 3.21


@pytest.mark.parametrize("text", ["", "[1]", '{"scores": {}}', "{"])
def test_reading_something_else_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(OutputError, match=r"metrics\.json"):
        read_metrics(path)


def test_figures_come_from_the_metrics_in_percent() -> None:
    pixels = PixelScores()
    pixels.update(np.float32([[0, 1, 2, 3]]), np.uint8([[0, 1, 0, 1]]))
    metrics = pixels.compute()
    figures = ScoreFigures.from_metrics(metrics)
    got = (figures.AP, figures.AUROC, figures.FPR95)
    assert got == pytest.approx((100 * (1 + 2 / 3) / 2, 75, 50))

    matrix = ConfusionMatrix(3)
    matrix.update(np.uint8([[0, 0, 1, 255]]), np.uint8([[0, 1, 1, 1]]))
    closed = SegmentationFigures.from_confusion(matrix, ["road", "car", "bus"])
    assert closed.mIoU == pytest.approx(50)
    assert closed.pixel_accuracy == pytest.approx(200 / 3)
    assert closed.IoU["road"] == pytest.approx(50)
    assert np.isnan(closed.IoU["bus"])


def test_latency_summary() -> None:
    summary = LatencySummary.from_samples(np.arange(101))
    assert (summary.median, summary.p95, summary.p99, summary.max) == (50, 95, 99, 100)
    assert np.isnan(LatencySummary.from_samples([]).median)


def test_best_is_highest_but_lowest_for_fpr95() -> None:
    scores = {**measured().scores, "sml": ScoreFigures()}
    assert best_scores(scores) == {"AP": "max_logit", "AUROC": "max_logit", "FPR95": "msp"}
    assert best_scores({"sml": ScoreFigures()}) == {}


def test_text_table() -> None:
    text = format_table(measured())
    lines = text.splitlines()
    assert lines[0] == "default on lost_and_found: 17 frames sent, 16 scored, 1 lost"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("m")}
    assert rows == {"msp": ["3.21", "88.10", "40.00*"], "max_logit": ["12.50*", "91.25*", "41.50"]}
    assert lines[4].index("3.21") + 3 == lines[5].index("12.50") + 4, "decimals are in line"
    for part in ("mIoU 60.00 %", "3.1e-08", "median 25.0 ms", "node: 2", "note: one frame"):
        assert part in text


def test_markdown_table() -> None:
    text = format_table(measured(), markdown=True)
    assert "| `max_logit` | **12.50** | **91.25** | 41.50 |" in text
    assert "| --- | ---: | ---: | ---: |" in text


def test_a_dash_stands_for_what_is_not_defined() -> None:
    result = EvaluationResult(model="m", scores={"msp": ScoreFigures()})
    assert "nan" not in format_table(result)
    assert "| `msp` | – | – | – |" in format_table(result, markdown=True)


def test_unwritable_target_is_one_clear_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.json"):
        write_metrics(measured(), blocker / "metrics.json")
    folder = tmp_path / "metrics.json"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_metrics(measured(), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "metrics.json"]


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
