# SPDX-License-Identifier: Apache-2.0
"""Names and hardware of statuses, as diagnostic_aggregator and rqt_robot_monitor take them."""

from __future__ import annotations

from collections import Counter

import pytest
import yaml

from anomaly_seg_ros.ros.counters import FrameCounts
from anomaly_seg_ros.ros.diagnostics import statuses
from anomaly_seg_ros.ros.parameters import WatchdogLimits
from anomaly_seg_ros.ros.reports import CameraReport, Report
from anomaly_seg_ros.system.resources import config_path

LIMITS = WatchdogLimits(frame_timeout=5.0, late_after=1.0, stuck_after=30.0)


def report(*cameras: str, node: str = "/detector", **known: object) -> Report:
    of_cameras = [
        CameraReport(name, f"/{name}/image", 0.0, None, FrameCounts(), Counter(), {})
        for name in cameras
    ]
    return Report(node, "inactive", True, "", of_cameras, LIMITS, **known)


@pytest.mark.parametrize("node", ["/detector", "/truck/left/detector"])
def test_a_name_is_the_full_node_and_its_part(node):
    names = [status.name for status in statuses(report("front", "rear", node=node))]
    parts = ["model", "input", "input front", "input rear", "latency", "transport"]
    assert names == [f"{node}: {part}" for part in parts]


def test_hardware_is_what_stands_behind_a_status(segmenter):
    before = {s.name: s.hardware_id for s in statuses(report("front"))}
    assert before == {
        "/detector: model": "none",
        "/detector: input": "/front/image",
        "/detector: latency": "none",
        "/detector: transport": "none",
    }
    after = {s.name: s.hardware_id for s in statuses(report("front", segmenter=segmenter))}
    assert after == before | {"/detector: model": "cpu", "/detector: latency": "cpu"}


def test_the_example_groups_every_status_below_one_entry():
    """By the rules of GenericAnalyzer: it takes names that begin so, and cuts that off.

    A slash that is left would open another branch of the tree.
    """
    content = yaml.safe_load(config_path("diagnostic_aggregator.yaml").read_text("utf-8"))
    analyzer = content["analyzers"]["ros__parameters"]["anomaly_segmentation"]
    (prefix,) = analyzer["find_and_remove_prefix"]
    names = [status.name for status in statuses(report("front", "rear"))]
    assert all(name.startswith(prefix) for name in names)
    leaves = [name.removeprefix(prefix) for name in names]
    assert len(set(leaves)) == len(leaves)
    assert not any("/" in leaf for leaf in leaves)
