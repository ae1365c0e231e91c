# SPDX-License-Identifier: Apache-2.0
"""Counts, stage times and the rate limit of frames."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from detector_harness import street

from anomaly_seg_ros.ros.counters import FrameCounts, RateLimiter, StageTimes


def test_counts_by_name_and_hands_out_copies():
    counts = FrameCounts()
    counts.add("received", "dropped")
    counts.add("received")
    totals = counts.totals()
    counts.add("received")
    assert totals == {"received": 2, "dropped": 1}
    assert totals["bad"] == 0


def test_faults_are_first_once_per_kind():
    counts = FrameCounts()
    assert counts.add_fault("zero size", "first")
    assert not counts.add_fault("zero size", "second")
    assert counts.add_fault("truncated", "third")
    assert counts.faults() == {"zero size": (2, "second"), "truncated": (1, "third")}


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


@pytest.mark.parametrize(
    ("camera_hz", "limit_hz", "expected_hz"), [(30, 0, 30), (30, 10, 10), (30, 20, 20), (5, 10, 5)]
)
def test_rate_limiter_gives_the_whole_rate(camera_hz, limit_hz, expected_hz):
    now = [100.0]
    limiter = RateLimiter(clock=lambda: now[0])
    admitted = 0
    for frame in range(camera_hz * 10):
        now[0] = 100 + frame / camera_hz
        admitted += limiter.admits(limit_hz)
    assert admitted == pytest.approx(expected_hz * 10, abs=1)


def test_rate_limiter_catches_nothing_up_after_a_pause():
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    assert limiter.admits(1.0)
    now[0] = 100.0
    assert limiter.admits(1.0)
    now[0] = 100.5
    assert not limiter.admits(1.0)


def test_rate_limiter_follows_a_raised_rate():
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    assert limiter.admits(0.01)  # next in 100 s
    now[0] = 1.0
    assert not limiter.admits(10.0)
    now[0] = 1.2
    assert limiter.admits(10.0)
