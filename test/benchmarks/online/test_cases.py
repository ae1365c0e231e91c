"""Sizes as text, and the cases of the profiles."""

from __future__ import annotations

import pytest

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
