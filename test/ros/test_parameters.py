# SPDX-License-Identifier: Apache-2.0
"""Table, YAML and what the model can do must agree."""

from __future__ import annotations

import argparse
import dataclasses
import re

import pytest
import yaml

from anomaly_seg_ros.cli.options import add_run_options, run_options
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.bag_run import node_parameters
from anomaly_seg_ros.evaluation.plan import RunOptions
from anomaly_seg_ros.inference.options import AUTO, TORCH, SegmenterOptions
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.parameters import (
    PARAMETERS,
    check_change,
    missing_calibration,
    read_defaults,
    resolve_settings,
    segmenter_options,
)
from anomaly_seg_ros.system.resources import config_path

YAML = config_path("detector.yaml")


def test_yaml_and_table_have_the_same_names_and_types():
    defaults = read_defaults()
    assert set(defaults) == set(PARAMETERS)
    for name, value in defaults.items():
        assert type(value) is PARAMETERS[name].kind, name


def test_every_default_is_commented_with_when_it_may_change():
    text = YAML.read_text(encoding="utf-8")
    comment = ""
    for line in text.split("ros__parameters:")[1].splitlines():
        if line.strip().startswith("#"):
            comment += line
        elif ":" in line:
            name = line.split(":")[0].strip()
            if name not in ("inference_width", "tile_width"):  # share the comment of the height
                assert f"({PARAMETERS[name].changes})" in comment, name
            comment = ""


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p.pop("threshold"), "threshold"),
        (lambda p: p.update(treshold=0.5), "treshold"),
        (lambda p: p.update(threshold=3.0), "'threshold' must be in"),
        (lambda p: p.update(threshold=True), "'threshold' must be of type float, not bool"),
        (lambda p: p.update(threshold="1"), "'threshold' must be of type float, not str"),
        (lambda p: p.update(qos_depth=2.5), "'qos_depth' must be of type int, not float"),
        (lambda p: p.update(qos_depth=True), "'qos_depth' must be of type int"),
        (lambda p: p.update(threshold=float("nan")), "'threshold' must be in"),
    ],
)
def test_a_wrong_yaml_is_refused_by_name(tmp_path, edit, words):
    parameters = read_defaults()
    edit(parameters)
    path = tmp_path / "detector.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    with pytest.raises(ParameterError, match=words):
        read_defaults(path)


@pytest.mark.parametrize("name", [n for n, spec in PARAMETERS.items() if spec.kind is float])
def test_whole_numbers_are_accepted_for_every_float(name):
    value = int(PARAMETERS[name].maximum)
    accepted = PARAMETERS[name].accept(name, value)
    assert (accepted, type(accepted)) == (value, float)
    with pytest.raises(ParameterError, match=f"'{name}' must be of type float, not bool"):
        PARAMETERS[name].accept(name, True)


@pytest.mark.parametrize("name", [n for n, spec in PARAMETERS.items() if spec.kind is int])
def test_whole_floats_are_accepted_for_every_integer(name):
    value = float(PARAMETERS[name].maximum)
    accepted = PARAMETERS[name].accept(name, value)
    assert (accepted, type(accepted)) == (value, int)
    for wrong in (0.5, float("nan"), float("inf"), True):
        with pytest.raises(ParameterError, match=f"'{name}' must be of type int, not "):
            PARAMETERS[name].accept(name, wrong)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_out_of_memory", False, "not bool (False); put it in quotes"),  # YAML's off
        ("model", 1, "not int (1); put it in quotes"),
        ("autostart", 1, "of type bool, not int (1)"),
        ("cameras", "front", "write a list, such as [front, rear]"),
    ],
)
def test_what_yaml_made_of_a_value_is_told(name, value, words):
    with pytest.raises(ParameterError, match=re.escape(words)):
        PARAMETERS[name].accept(name, value)


@pytest.mark.parametrize("content", ["", "a: [", "/**: 3", "other: {}"])
def test_an_unreadable_yaml_is_refused_by_name(tmp_path, content):
    path = tmp_path / "detector.yaml"
    path.write_text(content)
    with pytest.raises(ParameterError, match=r"detector\.yaml"):
        read_defaults(path)


def test_when_each_parameter_may_change():
    defaults = read_defaults()
    always = {"score_method", "threshold", "target_tpr", "overlay_alpha", "max_rate",
              "jpeg_quality", "on_out_of_memory", "frame_timeout", "late_after", "stuck_after",
              "recovery_attempts", "bit_depth", "temporal_smoothing", "camera_height",
              "camera_pitch", "camera_pitch_std", "depth_slop", "ood_score_encoding"}  # fmt: skip
    always |= {name for name in PARAMETERS if name.startswith(("object_", "points_"))}
    always -= {"points_frame"}
    model = {"model", "device", "precision", "backend", "cuda_graphs", "inference_mode",
             "inference_height", "inference_width", "tile_height", "tile_width", "tile_overlap",
             "num_threads", "cameras", "points_frame"}  # fmt: skip

    def changeable(state: str) -> set[str]:
        names = set()
        for name, value in defaults.items():
            try:
                check_change(name, value, state)
            except ParameterError as error:
                assert f"'{name}'" in str(error)  # noqa: PT017
            else:
                names.add(name)
        return names

    assert changeable("active") == always
    never = {"autostart"}
    assert changeable("inactive") == set(defaults) - model - never
    assert changeable("unconfigured") == set(defaults) - never


def test_descriptors_tell_ranges_choices_and_when_a_value_may_change():
    defaults = read_defaults()
    when = {
        "always": ("", False),
        "inactive": ("cannot change while active", False),
        "unconfigured": ("changes only while unconfigured", False),
        "read-only": ("", True),
    }
    for name, spec in PARAMETERS.items():
        descriptor = spec.descriptor()
        assert descriptor.description, name
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert bool(ranges) == (spec.kind in (int, float)), name
        for limits in ranges:
            assert (limits.from_value, limits.to_value) == (spec.minimum, spec.maximum)
            assert limits.from_value <= defaults[name] <= limits.to_value, name
        words, read_only = when[spec.changes]
        assert descriptor.read_only == read_only, name
        choices = f"one of: {', '.join(spec.choices)}" if spec.choices else ""
        told = "; ".join(filter(None, [choices, words]))
        assert descriptor.additional_constraints == told, name


def test_auto_is_the_models_own_score(segmenter):
    settings = resolve_settings(read_defaults(), segmenter)
    assert settings.score_method == segmenter.metadata.default_score
    assert settings.threshold == 0.5


def test_target_rate_takes_the_place_of_the_threshold(segmenter):
    values = read_defaults() | {"score_method": "msp", "target_tpr": 0.8, "threshold": 0.9}
    calibration = segmenter.metadata.calibration["msp"]
    assert resolve_settings(values, segmenter).threshold == calibration.threshold_for_tpr(0.8)


@pytest.mark.parametrize("missing", ["calibration of the score", "unknown objects"])
def test_what_the_model_lacks_is_named(tiny_model, missing):
    segmenter = Segmenter.load(tiny_model)
    calibration = segmenter.metadata.calibration
    if missing == "unknown objects":
        calibration["energy"] = dataclasses.replace(calibration["energy"], outlier_rates=None)
    else:
        del calibration["energy"]
    values = read_defaults() | {"score_method": "energy", "target_tpr": 0.9}
    with pytest.raises(ParameterError, match=r"'target_tpr': .* calibration on unknown objects"):
        resolve_settings(values, segmenter)
    warning = missing_calibration(values, segmenter)
    if missing == "unknown objects":
        assert not warning
    else:
        assert "'tiny' is not calibrated for 'energy'" in warning
        assert resolve_settings(values | {"target_tpr": 0.0}, segmenter).threshold == 0.5


def test_sizes_need_both_sides():
    defaults = read_defaults()
    assert segmenter_options(defaults).inference_size is None
    both = {"inference_height": 512, "inference_width": 1024, "tile_height": 0, "tile_width": 0}
    options = segmenter_options(defaults | both)
    assert (options.inference_size, options.tile_size) == ((512, 1024), None)
    with pytest.raises(ParameterError, match="inference_width"):
        segmenter_options(defaults | {"inference_height": 512})
    with pytest.raises(ParameterError, match="'tile_height' and 'tile_width'"):
        segmenter_options(defaults | {"tile_width": 0})


def test_the_node_and_the_segmenter_have_the_same_defaults():
    """Except for the backend: the tools' default gives the same digits on every machine."""
    node = segmenter_options(read_defaults())
    assert dataclasses.replace(node, backend=TORCH) == SegmenterOptions()
    assert node.backend == AUTO


def test_every_option_of_the_segmenter_is_a_parameter():
    values = {
        "device": "cuda:1", "precision": "bf16", "inference_height": 64, "inference_width": 96,
        "inference_mode": "tiled", "tile_height": 32, "tile_width": 40, "tile_overlap": 8,
        "backend": "openvino", "num_threads": 3, "cuda_graphs": True,
    }  # fmt: skip
    expected = SegmenterOptions(
        "cuda:1", "bf16", (64, 96), "tiled", (32, 40), 8, "openvino", 3, True
    )
    assert segmenter_options(read_defaults() | values) == expected
    # And the other way, for a node that an evaluation starts.
    assert node_parameters(expected) == values
    assert node_parameters(SegmenterOptions())["inference_height"] == 0


def test_evaluation_tools_have_the_same_options():
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    assert run_options(parser.parse_args([])) == RunOptions()
    given = parser.parse_args(
        ["--inference-mode", "tiled", "--tile-size", "64", "96", "--tile-overlap", "8"]
    )
    options = run_options(given)
    tiled = SegmenterOptions(inference_mode="tiled", tile_size=(64, 96), tile_overlap=8)
    assert options == RunOptions(segmenter=tiled)
    hash(options)  # tuples, not argparse's lists
