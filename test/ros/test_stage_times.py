"""Stage times: their figures, and what the node says of them."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from detector_harness import street

from anomaly_seg_ros.ros.counters import StageTimes

FIGURES = ("mean", "median", "p99", "max")


def test_figures_of_the_newest_frames():
    times = StageTimes(frames=200)
    values = np.random.default_rng(0).permutation(1000).astype(float)
    for value in values:
        times.add({"network": value})
    newest = values[-200:]
    summary = times.summary()["network"]
    assert summary.mean == pytest.approx(newest.mean())
    assert summary.median == statistics.median(newest)
    assert summary.p99 == statistics.quantiles(newest, n=100, method="inclusive")[98]
    assert summary.maximum == newest.max()


def test_frames_may_have_different_stages():
    times = StageTimes()
    assert times.summary() == {}
    times.add({"decode": 1.0, "score": 4.0})
    times.add({"decode": 3.0})
    summary = times.summary()
    assert list(summary) == ["decode", "score"]
    assert summary["decode"].median == 2.0
    assert summary["score"].maximum == 4.0


@pytest.mark.ros
def test_the_node_tells_every_stage_in_diagnostics(start_detector):
    detector = start_detector()
    detector.listen("labels", "ood_score")
    detector.wait_connected()
    for seconds in range(3):
        detector.segment(street(48, 80), float(seconds))
        detector.wait_for("labels", float(seconds))
    detector.wait_for_diagnostic("input", "processed", "3")
    values = {
        key: float(value)
        for key, value in detector.diagnostic("latency").items()
        if key.endswith("_ms")
    }
    stages = ("take", "decode", "fill", "publish", "inference", "processing", "pipeline")
    for stage in stages:
        mean, median, p99, highest = (values[f"{stage}_{figure}_ms"] for figure in FIGURES)
        assert 0 < median <= p99 <= highest, stage
        assert mean <= highest, stage
    network = ("resize", "upload", "network", "score")
    for whole, parts in (
        ("inference", network),
        ("processing", ("decode", "inference", "fill", "publish")),
    ):
        together = sum(values[f"{stage}_mean_ms"] for stage in parts)
        assert 0 < together <= values[f"{whole}_mean_ms"] + 0.01  # rounding
