# SPDX-License-Identifier: Apache-2.0
"""``import anomaly_seg_ros`` is the documented list of what there is, and waits for nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_seg_ros


def test_what_is_exported_is_documented_and_can_be_had():
    assert set(anomaly_seg_ros.__all__) == {
        *("SCORES", "Prediction", "Segmenter", "load_model", "open_dataset")
    }
    for name in anomaly_seg_ros.__all__:
        assert f"`{name}`" in anomaly_seg_ros.__doc__
        assert getattr(anomaly_seg_ros, name).__doc__
        assert name in dir(anomaly_seg_ros)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(anomaly_seg_ros.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == anomaly_seg_ros._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        anomaly_seg_ros.Segmentor  # noqa: B018


def test_the_import_brings_neither_torch_nor_numpy():
    heavy = "{'torch', 'numpy', 'cv2'} & set(sys.modules)"
    code = f"import sys, anomaly_seg_ros; print(sorted({heavy}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


TORCH_FREE = (
    *("compare", "dataset_to_bag", "demo", "evaluate", "evaluate_bag", "evaluate_folder"),
    "export_model",
    "segment",
)


@pytest.mark.parametrize("tool", TORCH_FREE)
def test_help_waits_for_no_torch(tool: str):
    code = (
        "import sys; from importlib import import_module\n"
        f"try: import_module('anomaly_seg_ros.cli.{tool}').main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'rclpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False False"
