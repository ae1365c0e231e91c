# SPDX-License-Identifier: Apache-2.0
"""Wrong command lines in one line, and parameter files that are of no use."""

from __future__ import annotations

import pytest

from anomaly_seg_ros.ros.rclpy_errors import _node_names, _parameter_files, _pattern

VALUES = {"ros__parameters": {"max_rate": 1}}


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ({"/**": VALUES}, "/left/detector", True),
        ({"detector": VALUES}, "/detector", True),
        ({"/detector": VALUES}, "/detector", True),
        ({"detector": VALUES}, "/left/detector", False),
        ({"/left/detector": VALUES}, "/left/detector", True),
        ({"left": {"detector": VALUES}}, "/left/detector", True),
        ({"/*/detector": VALUES}, "/left/detector", True),
        ({"/*/detector": VALUES}, "/detector", False),
        ({"/**/detector": VALUES}, "/a/b/detector", True),
        ({"/**/detector": VALUES}, "/detector", True),
        ({"/*": VALUES}, "/detector", True),
        ({"detectr": VALUES}, "/detector", False),
        ({}, "/detector", False),
        (None, "/detector", False),
        ([1, 2], "/detector", False),
        ({"a": VALUES, 3: VALUES, "detector": VALUES}, "/detector", True),
    ],
)
def test_names_and_wildcards_are_matched_as_rcl_does(content, name, expected):
    assert any(_pattern(n).fullmatch(name) for n in _node_names(content)) is expected


def test_only_files_behind_ros_args_count():
    words = ["--params-file", "a", "--ros-args", "--params-file", "b", "-p", "x:=1",
             "--params-file", "c"]  # fmt: skip
    assert [str(path) for path in _parameter_files(words)] == ["b", "c"]
    assert _parameter_files(["--params-file", "a"]) == []
