# SPDX-License-Identifier: Apache-2.0
"""Sizes as text, the cases of the profiles, and their models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import ParameterError
from benchmarks.online import cases


def test_size_as_text_and_back() -> None:
    assert cases.parse_size("512x1024") == (512, 1024)
    assert cases.size_text((512, 1024)) == "512x1024"


@pytest.mark.parametrize("text", ["512", "512*1024", "0x1024", "x", "-1x5", "512x1024x3", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="expected height x width"):
        cases.parse_size(text)


def test_keys_tell_all_cases_apart() -> None:
    plan = cases.full(["torch", "openvino"], heavy=True)
    assert len({case.key for case in plan}) == len(plan)
    assert set(cases.QUICK) < set(cases.full(["torch", "openvino"], heavy=False)) < set(plan)


def test_every_combination_is_chosen() -> None:
    plan = cases.chosen(["a", "b"], ["torch"], "fp32", [None, (64, 96)], [(96, 128), (10, 20)])
    assert len(set(plan)) == 8
    assert {case.precision for case in plan} == {"fp32"}


def test_shipped_models_are_taken_as_they_are(tmp_path: Path) -> None:
    assert cases.model_file("default", tmp_path) == "default"
    assert not list(tmp_path.iterdir())


def test_a_random_model_is_one_with_dense_hybrid_s_head(tmp_path: Path) -> None:
    path = cases.model_file("random_erfnet", tmp_path)
    written = Path(path).stat().st_mtime_ns
    network, metadata = load_model(path)
    assert metadata.default_score == "dense_hybrid"
    assert metadata.architecture == "erfnet"
    with torch.no_grad():
        output = network.eval()(torch.randn(1, 3, 64, 128))
    assert output.logits.shape == (1, 19, 64, 128)
    assert output.ood_logits.shape == (1, 2, 64, 128)
    assert output.logits.std() > 0.05
    assert cases.model_file("random_erfnet", tmp_path) == path
    assert Path(path).stat().st_mtime_ns == written  # once is enough
