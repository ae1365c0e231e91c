# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.datasets import DATASETS, open_dataset
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.frames import DatasetFrames
from anomaly_seg_ros.evaluation.plan import (
    DataSpec,
    NamedPath,
    Plan,
    chosen_scores,
    parse_data,
    parse_named,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/val", DataSpec("auto", Path("data/val"), {}, "val")),
        ("folder:data/val/", DataSpec("folder", Path("data/val"), {}, "val")),
        ("bag:drive.mcap", DataSpec("bag", Path("drive.mcap"), {}, "drive.mcap")),
        (
            "mine=street_hazards:/x/sh?split=test&other=known",
            DataSpec("street_hazards", Path("/x/sh"), {"split": "test", "other": "known"}, "mine"),
        ),
        (
            "lost_and_found:laf?no_known=true",
            DataSpec("lost_and_found", Path("laf"), {"no_known": True}, "laf-no_known=true"),
        ),
        (
            "folder:a b?label_map=maps/x.yaml",
            DataSpec(
                "folder", Path("a b"), {"label_map": "maps/x.yaml"}, "a_b-label_map=maps_x.yaml"
            ),
        ),
    ],
)
def test_data(text: str, expected: DataSpec) -> None:
    assert parse_data(text) == expected


@pytest.mark.parametrize("name", ["odd=name", "what?x=1", "folder:odd"])
def test_a_folder_that_exists_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    spec = parse_data(name)
    assert (spec.adapter, spec.folder, spec.options) == ("auto", Path(name), {})


def test_models_are_called_by_their_stem() -> None:
    assert parse_named("erfnet") == NamedPath("erfnet", "erfnet")
    assert parse_named("runs/my best.pth") == NamedPath("my_best", "runs/my best.pth")
    assert parse_named("ours=runs/best.pth") == NamedPath("ours", "runs/best.pth")


def test_scores_keep_the_models_order() -> None:
    available = ("msp", "entropy", "energy")
    assert chosen_scores(("energy", "sml", "msp"), available) == ("msp", "energy")
    assert chosen_scores(("all",), available) == available


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", "anomaly_track"), ("obstacle_track", "obstacle_track"), ("none", None)],
)
def test_component_sizes_are_the_data_sets_unless_told(choice: str, expected: str | None) -> None:
    plan = Plan((), (), Path("out"), components=choice)
    assert plan.component_sizes("anomaly_track") == expected


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("fishyscapes", "obstacle_track"),
        ("lost_and_found", "obstacle_track"),
        ("road_anomaly", "anomaly_track"),
    ],
)
def test_data_sets_of_small_objects(adapter: str, expected: str) -> None:
    assert DATASETS[adapter].component_sizes == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fishyscapes_lostandfound", "obstacle_track"),
        ("smiyc_obstacle", "obstacle_track"),
        ("road_anomaly", "anomaly_track"),
    ],
)
def test_a_plain_folder_has_only_its_name(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / name / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    dataset = open_dataset("folder", tmp_path / name)
    assert DatasetFrames(dataset, name, {}, None).component_sizes == expected


def test_names_must_fit_into_paths() -> None:
    with pytest.raises(ParameterError, match=r"'a/b': names of models consist of"):
        Plan((NamedPath("a/b", "x"),), (), Path("out"))
