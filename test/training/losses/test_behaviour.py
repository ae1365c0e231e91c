# SPDX-License-Identifier: Apache-2.0
"""What holds for every loss: gradients, empty sets, precision, extreme logits, clear errors."""

from __future__ import annotations

import pytest
import torch
from tiny_losses import CLASSES, case

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.losses import LOSSES, LossTerms, build_loss, loss_options

EVERY = pytest.mark.parametrize("name", LOSSES)
# Margins within the range of the test's logits.
OPTIONS = {
    "top_k_ovr": {"k": 3},
    "energy_margin": {"m_in": -6.0, "m_out": -4.0},
    "hybrid_ovr": {"void_pixels": "ignored"},
    "pebal": {"m_in": -6.5, "m_out": -4.0},
}


def evaluate(
    name: str, output: NetworkOutput, labels: torch.Tensor, mask: torch.Tensor
) -> LossTerms:
    return build_loss(name, OPTIONS.get(name))(output, labels, mask)


@EVERY
def test_gradcheck(name: str) -> None:
    given = case(name)
    logits, ood_logits = (x.requires_grad_() for x in (given.logits, given.ood_logits))
    assert torch.autograd.gradcheck(
        lambda x, y: evaluate(name, NetworkOutput(x, x, y), given.labels, given.ood_mask).total,
        (logits, ood_logits),
        fast_mode=True,
    )


@EVERY
def test_terms_are_detached_and_the_total_is_not(name: str) -> None:
    given = case(name)
    given.logits.requires_grad_()
    result = evaluate(name, given.output, given.labels, given.ood_mask)
    assert result.total.requires_grad
    assert result.total.ndim == 0
    assert not any(term.requires_grad for term in result.terms.values())


@EVERY
@pytest.mark.parametrize("empty", ["outliers", "labels", "both"])
def test_empty_sets_are_zero_with_a_gradient(name: str, empty: str) -> None:
    given = case(name, torch.float32)
    logits, ood_logits = (x.requires_grad_() for x in (given.logits, given.ood_logits))
    labels, mask = given.labels, given.ood_mask
    if empty != "labels":
        mask = torch.zeros_like(mask)
    if empty != "outliers":
        labels = torch.full_like(labels, 255)
    result = evaluate(name, NetworkOutput(logits, logits, ood_logits), labels, mask)
    result.total.backward()
    assert torch.isfinite(result.total)
    assert torch.isfinite(logits.grad).all()
    if empty == "both":
        rest = {key: value for key, value in result.terms.items() if key != "smoothness"}
        assert all(value == 0 for value in rest.values())
        if name != "pebal":  # whose smoothness is over all pixels
            assert result.total == 0
            assert not logits.grad.any()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    given = case(name, dtype)
    exact = NetworkOutput(given.logits, given.logits.float(), given.ood_logits.float())
    with torch.autocast("cpu", torch.bfloat16):
        half = evaluate(name, given.output, given.labels, given.ood_mask)
    full = evaluate(name, exact, given.labels, given.ood_mask)
    assert half.total.dtype == torch.float32
    assert half.total == full.total


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_extreme_logits_stay_finite(name: str, scale: float, dtype: torch.dtype) -> None:
    given = case(name)
    logits = (scale * given.logits.sign()).to(dtype).requires_grad_()
    ood_logits = (scale * given.ood_logits.sign()).to(dtype).requires_grad_()
    output = NetworkOutput(logits, logits, ood_logits)
    result = evaluate(name, output, given.labels, given.ood_mask)
    result.total.backward()
    assert torch.isfinite(result.total)
    assert torch.isfinite(logits.grad).all()


def test_pebal_where_the_energy_crosses_zero() -> None:
    """The reward is 0 there, and the gambler's hedge would be infinite."""
    given = case("pebal", torch.float32)
    logits = torch.full_like(given.logits, -float(torch.tensor(float(CLASSES)).log()))
    logits.requires_grad_()
    result = evaluate("pebal", NetworkOutput(logits, logits, None), given.labels, given.ood_mask)
    result.total.backward()
    assert torch.isfinite(result.total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "pebal"])
def test_ignored_pixels_have_no_gradient(name: str) -> None:
    given = case(name, stride=1)
    logits, ood_logits = (x.requires_grad_() for x in (given.logits, given.ood_logits))
    output = NetworkOutput(logits, logits, ood_logits)
    evaluate(name, output, given.labels, given.ood_mask).total.backward()
    ignored = (given.ood_mask == 255) | ((given.labels == 255) & (given.ood_mask == 0))
    assert ignored.any()
    touched = logits.grad.abs().sum(1) > 0
    if ood_logits.grad is not None:
        touched |= ood_logits.grad.abs().sum(1) > 0
    assert not touched[ignored].any()
    assert touched[(given.labels < CLASSES) & ~ignored].all()


def test_top_k_pushes_the_largest_logits_only() -> None:
    given = case("top_k_ovr", stride=1)
    logits = given.logits.requires_grad_()
    loss = build_loss("top_k_ovr", {"k": 2})
    labels = torch.full_like(given.labels, 255)
    loss(NetworkOutput(logits, logits, None), labels, given.ood_mask).total.backward()
    gradient = logits.grad.permute(0, 2, 3, 1)[given.ood_mask == 1]
    ranks = logits.detach().permute(0, 2, 3, 1)[given.ood_mask == 1].argsort(-1).argsort(-1)
    assert (gradient[ranks >= CLASSES - 2] > 0).all()
    assert (gradient[ranks < CLASSES - 2] == 0).all()


def test_all_classes_by_none_or_by_number() -> None:
    given = case("top_k_ovr")
    totals = [
        build_loss("top_k_ovr", {"k": k})(given.output, given.labels, given.ood_mask).total
        for k in (None, CLASSES, CLASSES + 1)
    ]
    torch.testing.assert_close(totals[1:], totals[:1] * 2)


def test_the_second_logarithm_of_pebals_code_stops_the_gradient() -> None:
    given = case("pebal", stride=1)
    found = []
    for outlier_log in ("single", "double"):
        logits = given.logits.clone().requires_grad_()
        loss = build_loss("pebal", {"outlier_log": outlier_log, "energy_weight": 0.0})
        labels = torch.full_like(given.labels, 255)
        loss(NetworkOutput(logits, logits, None), labels, given.ood_mask).total.backward()
        found.append(logits.grad.abs().max().item())
    assert found[0] > 1e-3
    assert found[1] == 0


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.needs_outlier_head])
def test_a_missing_outlier_head_is_named(name: str) -> None:
    given = case(name)
    output = NetworkOutput(given.logits, given.logits, None)
    with pytest.raises(ParameterError, match="outlier_head=True"):
        evaluate(name, output, given.labels, given.ood_mask)


@EVERY
def test_options_are_documented_and_checked(name: str) -> None:
    documentation = "".join(cls.__doc__ for cls in LOSSES[name].__mro__ if cls.__doc__)
    for option in loss_options(name):
        assert option in documentation
    with pytest.raises(ParameterError, match="no option 'nonsense'"):
        build_loss(name, {"nonsense": 1})


@pytest.mark.parametrize(
    ("name", "options", "needle"),
    [
        ("magic", {}, "unknown loss 'magic'"),
        ("top_k_ovr", {"k": 0}, "'top_k_ovr': option 'k' is 0"),
        ("top_k_ovr", {"k": 2.5}, "option 'k' is 2.5"),
        ("top_k_ovr", {"slope": 0}, "'slope' is 0, expected a number above 0"),
        ("top_k_ovr", {"gamma": float("nan")}, "'gamma' is nan"),
        ("top_k_ovr", {"gamma": "much"}, "'gamma' is 'much'"),
        ("top_k_ovr", {"mask_to_grid": "mean"}, "expected nearest or area"),
        ("top_k_ovr", {"min_coverage": 2}, "'min_coverage' is 2"),
        ("dense_hybrid", {"weighting": "both"}, "expected code or paper"),
        ("dense_hybrid", {"void_pixels": "x"}, "'void_pixels' is 'x'"),
        ("energy_margin", {"m_in": 3.0}, "'m_in' is 3.0, expected at most m_out"),
        ("meta_ood", {"alpha": 1.5}, "'alpha' is 1.5"),
        ("cross_entropy", {"class_weights": [1.0, -1.0]}, "'class_weights' is -1.0"),
        ("cross_entropy", {"grid": "image"}, "'grid' is 'image'"),
    ],
)
def test_bad_options_are_one_clear_error(name: str, options: dict, needle: str) -> None:
    with pytest.raises(ParameterError, match=needle):
        build_loss(name, options)


def test_what_does_not_fit_the_network_is_named() -> None:
    given = case("top_k_ovr")
    with pytest.raises(ParameterError, match="2 class_weights for 5 classes"):
        build_loss("cross_entropy", {"class_weights": [1.0, 2.0]})(
            given.output, given.labels, given.ood_mask
        )
    with pytest.raises(ParameterError, match="do not belong together"):
        build_loss("cross_entropy")(given.output, given.labels[:1], given.ood_mask)
