# SPDX-License-Identifier: Apache-2.0
"""Options of the mixing that cannot work, or would mean something else, are refused by key."""

from __future__ import annotations

import math

import pytest

from anomaly_seg_ros.errors import ParameterError
from training.data.mixing.mixer import MixOptions
from training.engine.config import to_dataclass

SHARE = "expected a share from 0 to 1"
COUNTS = "expected two whole numbers from 0 on"
ORDER = "is larger than .*the smaller one first"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("into", "crop", "'crop', expected one of frame, view"),
        ("probability", 90, f"{SHARE}, got 90"),
        ("scene_texture", -0.1, SHARE),
        ("soft_edges", math.nan, "must be a number like 0.7, got nan"),
        ("shadow", "often", "must be a number"),
        ("objects", [4, 1], ORDER),
        ("objects", [-1, 2], COUNTS),
        ("objects", [1], "must have 2 values"),
        ("decoys", [0.5, 2], "must be a whole number"),
        ("decoys", [3, 2], ORDER),
        ("edge_sigma", [1, 0.5], ORDER),
        ("edge_sigma", [-1, 0.5], "expected two numbers from 0 on"),
        ("shadow_strength", [0.5, 1.5], "expected two numbers from 0 to 1"),
        ("shadow_strength", [0.5, 0.2], ORDER),
        ("placement.on_ground", 95, SHARE),
        ("placement.by_distance", 2, SHARE),
        ("placement.max_share", 80, SHARE),
        ("placement.object_height", [0, 2], "expected two numbers above 0"),
        ("placement.object_height", [2, 1], ORDER),
        ("placement.free_height", [0.1, math.inf], "must be a number like 0.02, got inf"),
        ("placement.free_height", ["a", "b"], "must be a number"),
        ("placement.camera_height", 0, "expected a number above 0, got 0"),
        ("placement.min_rows", 0, "expected a number above 0, got 0"),
        ("paint.probability", 5, SHARE),
        ("paint.dark", -1, SHARE),
        ("paint.outline", 2, SHARE),
        ("paint.patches", [3, 1], ORDER),
        ("paint.metres", [0, 1], "expected two numbers above 0"),
        ("paint.opacity", [0.2, 70], "expected two numbers from 0 to 1"),
    ],
)
def test_bad_options(key: str, value: object, message: str) -> None:
    values: dict = {key: value}
    if "." in key:
        part, name = key.split(".")
        values = {part: {name: value}}
    with pytest.raises(ParameterError, match=rf"^mixing\.{key}:? .*{message}"):
        to_dataclass(MixOptions, values, "mixing")


def test_limits_are_allowed() -> None:
    values = {
        "probability": 1,
        "shadow": 0,
        "objects": [0, 0],
        "decoys": [2, 2],
        "edge_sigma": [0, 0],
        "shadow_strength": [0, 1],
        "placement": {"on_ground": 1, "object_height": [1.3, 1.3], "max_share": 1, "min_rows": 1},
        "paint": {"probability": 1.0, "patches": [0, 0], "opacity": [0, 1], "metres": [3, 3]},
    }
    options = to_dataclass(MixOptions, values, "mixing")
    assert options.objects == (0, 0)
    assert options.placement.object_height == (1.3, 1.3)
