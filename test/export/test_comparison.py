# SPDX-License-Identifier: Apache-2.0
"""The comparison finds what is wrong with an exported network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anomaly_seg_ros.errors import ExportError
from anomaly_seg_ros.export.comparison import TOLERANCE, checked_sizes, compare, traced_size
from anomaly_seg_ros.export.deployment import Deployment

Outputs = dict[str, Tensor]


def _shift_one_value(outputs: Outputs, shift: float) -> Outputs:
    score = outputs["score"].clone()
    score[0, 3, 5] += shift
    return {**outputs, "score": score}


@pytest.mark.parametrize("multiple", [1, 3, 8, 32, 64])
def test_sizes_fit_and_differ_from_the_traced_one(multiple: int) -> None:
    sizes = checked_sizes(multiple)
    assert len(set(sizes)) == 2
    for size in (*sizes, traced_size(multiple)):
        assert all(side % multiple == 0 for side in size)
    assert traced_size(multiple) not in sizes


def test_the_network_equals_itself(deployment: Deployment) -> None:
    comparison = compare(deployment, deployment)
    assert comparison.worst == 0.0
    assert comparison.largest_logit > 0
    assert set(comparison.differences) == {"logits", "ood_logits", "score"}


def test_one_wrong_value_is_measured(deployment: Deployment) -> None:
    comparison = compare(lambda image: _shift_one_value(deployment(image), 0.5), deployment)
    assert comparison.differences["score"] == pytest.approx(0.5, rel=1e-4)
    assert comparison.differences["logits"] == 0.0
    with pytest.raises(ExportError, match=r"file\.onnx: score differs .* 0\.5"):
        comparison.require(TOLERANCE, "file.onnx")


def test_only_one_size_wrong_is_still_wrong(deployment: Deployment) -> None:
    """As when a size is baked in: right at the first one, wrong at the second, and NaN counts."""
    first, second = checked_sizes(32)

    def run(image: Tensor) -> Outputs:
        outputs = deployment(image)
        wrong = tuple(image.shape[-2:]) == first
        return _shift_one_value(outputs, float("nan")) if wrong else outputs

    comparison = compare(run, deployment, (first, second))
    with pytest.raises(ExportError, match="nan"):
        comparison.require(TOLERANCE, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {k: v for k, v in o.items() if k != "ood_logits"}, "outputs logits, score"),
        (lambda o: {**o, "score": o["score"][:, :-1]}, "score of a 96 x 160 image"),
        (lambda o: {**o, "logits": o["logits"].double()}, "float64"),
    ],
)
def test_another_kind_of_output_is_named(
    deployment: Deployment, change: Callable[[Outputs], Outputs], message: str
) -> None:
    with pytest.raises(ExportError, match=message), torch.no_grad():
        compare(lambda image: change(deployment(image)), deployment)
