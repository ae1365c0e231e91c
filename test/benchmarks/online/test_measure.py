# SPDX-License-Identifier: Apache-2.0
"""What a run measures."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.online import timings

# The first test waits for the run.
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]
STAGES = {"take", "decode", "resize", "upload", "network", "score", "fill", "publish"}


def test_every_contender_ran(report: dict[str, Any]) -> None:
    (case,) = report["cases"]
    assert list(case["contenders"]) == list(timings.CONTENDERS)
    for entry in case["contenders"].values():
        assert entry["ms"]["frames"] == len(entry["samples_ms"]) == 6
        assert min(entry["samples_ms"]) > 0
    assert case["frame_size"] == [96, 128]
    assert case["network_size"] == [64, 96]  # the tiny model's own


def test_the_node_s_stages_are_its_time(report: dict[str, Any]) -> None:
    (case,) = report["cases"]
    for name in ("node", "eager_node"):
        entry = case["contenders"][name]
        assert entry["stages"].keys() >= STAGES | {"transport"}
        work = sum(
            s["median"] for n, s in entry["stages"].items() if n not in ("take", "transport")
        )
        # Medians do not add up exactly, and the stages leave out the moments between them.
        assert work == pytest.approx(entry["sums"]["processing"]["median"], rel=0.5)
        assert entry["stages"]["network"]["median"] < entry["ms"]["median"]
        assert entry["stages"]["transport"]["frames"] == entry["ms"]["frames"]


def test_nodes_run_what_they_were_told(report: dict[str, Any]) -> None:
    (case,) = report["cases"]
    runs = {name: case["contenders"][name]["runs"] for name in ("node", "eager_node")}
    assert runs["node"]["precision"] == case["precision"]
    assert runs["node"]["backend"] == case["backend"]
    assert (runs["eager_node"]["backend"], runs["eager_node"]["precision"]) == ("torch", "fp32")


def test_load_is_more_than_the_node_can_take(report: dict[str, Any]) -> None:
    (case,) = report["cases"]
    for name in timings.NODES:
        load = case["contenders"][name]["load"]
        assert load["sent"] > 0
        assert 0 <= load["dropped"] < load["sent"]
        assert load["answered_per_s"] <= load["sent_per_s"]
        assert load["cpu_percent"] > 0
        assert case["contenders"][name]["peak_rss_mib"] > 20


def test_the_machine_is_described(report: dict[str, Any]) -> None:
    assert report["machine"]["cores"] >= 1
    assert "torch" in report["machine"]["versions"]
    assert report["floors"]["copy_ms"]["96x128"] > 0
