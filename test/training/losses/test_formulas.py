# SPDX-License-Identifier: Apache-2.0
"""Every loss against its formula, pixel by pixel in float64 with NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import expit, logsumexp
from tiny_losses import CLASSES, Case, case
from torch import nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from training.losses import build_loss

Score = Callable[[np.ndarray], float]


def upsample(x: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Bilinear, one axis after the other."""
    for axis, target in ((2, size[0]), (3, size[1])):
        source = x.shape[axis]
        if align_corners:
            at = np.linspace(0, source - 1, target)
        else:
            at = (np.arange(target) + 0.5) * source / target - 0.5
        x = np.apply_along_axis(lambda v, at=at: np.interp(at, np.arange(len(v)), v), axis, x)
    return x


class Aligned(SegmentationNetwork):
    align_corners = True


class Reference:
    """A case as NumPy arrays on the grid of the labels."""

    def __init__(self, given: Case, align_corners: bool = False) -> None:
        self.labels = given.labels.numpy()
        self.mask = given.ood_mask.numpy()
        size = self.labels.shape[1:]
        self.coarse = given.logits.numpy()
        self.logits = upsample(self.coarse, size, align_corners)
        self.head = upsample(given.ood_logits.numpy(), size, align_corners)
        self.outlier = self.mask == 1
        self.labelled = (self.labels < 255) & (self.mask == 0)

    def mean(self, where: np.ndarray, value: Callable[[int, int, int], float]) -> float:
        return float(np.mean([value(*index) for index in np.argwhere(where)]))

    def cross_entropy(self, n: int, i: int, j: int) -> float:
        x = self.logits[n, :, i, j]
        return float(-np.log(np.exp(x)[self.labels[n, i, j]] / np.exp(x).sum()))

    def segmentation(self) -> float:
        return self.mean(self.labelled, self.cross_entropy)

    def lse(self, n: int, i: int, j: int) -> float:
        return float(logsumexp(self.logits[n, :CLASSES, i, j]))

    def uniform(self, n: int, i: int, j: int) -> float:
        x = self.logits[n, :, i, j]
        return float(-np.mean(np.log(np.exp(x) / np.exp(x).sum())))

    def head_loss(self, n: int, i: int, j: int) -> float:
        p_out = expit(self.head[n, 1, i, j] - self.head[n, 0, i, j])
        return float(-np.log(p_out if self.outlier[n, i, j] else 1 - p_out))

    def on_coarse_outliers(self, penalty: Score) -> float:
        """Mean over outlier cells of the 2x coarser grid: the mask at their centres."""
        mask = self.mask[:, 1::2, 1::2]
        cells = np.argwhere(mask == 1)
        return float(np.mean([penalty(self.coarse[n, :, i, j]) for n, i, j in cells]))


def top_k(k: int, slope: float) -> Score:
    return lambda x: float(np.mean([-np.log(expit(-slope * v)) for v in sorted(x)[-k:]]))


def test_cross_entropy() -> None:
    given = case("cross_entropy")
    total = build_loss("cross_entropy")(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(Reference(given).segmentation(), rel=1e-12)


@pytest.mark.parametrize("own", [None, False, True])
@pytest.mark.parametrize("network", [SegmentationNetwork(), Aligned()])
def test_the_upsampling_is_the_networks_unless_told(network: nn.Module, own: bool | None) -> None:
    given = case("cross_entropy")
    loss = build_loss("cross_entropy", {} if own is None else {"align_corners": own})
    total = loss.follow(network)(given.output, given.labels, given.ood_mask).total
    corners = isinstance(network, Aligned) if own is None else own
    expected = Reference(given, corners).segmentation()
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(Reference(given, not corners).segmentation(), rel=1e-6)


def test_cross_entropy_on_the_grid_of_the_logits() -> None:
    given = case("cross_entropy")
    loss = build_loss("cross_entropy", {"grid": "logits"})
    labels, mask = given.labels[:, 1::2, 1::2], given.ood_mask[:, 1::2, 1::2]
    reference = Reference(given._replace(labels=labels, ood_mask=mask))
    total = loss(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(reference.segmentation(), rel=1e-12)


def test_class_weights_equal_torch() -> None:
    given = case("cross_entropy", stride=1)
    weights = [0.5, 2.0, 1.0, 3.0, 0.1]
    loss = build_loss("cross_entropy", {"class_weights": weights})
    labels = given.labels.masked_fill(given.ood_mask != 0, 255)
    expected = torch.nn.functional.cross_entropy(
        given.logits, labels, torch.tensor(weights, dtype=torch.float64), ignore_index=255
    )
    total = loss(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)  # the weights are float32


@pytest.mark.parametrize("k", [1, 3, None])
def test_top_k_ovr(k: int | None) -> None:
    given = case("top_k_ovr")
    loss = build_loss("top_k_ovr", {"k": k, "slope": 1.5, "gamma": 0.3})
    terms = loss(given.output, given.labels, given.ood_mask)
    reference = Reference(given)
    ood = reference.on_coarse_outliers(top_k(k or CLASSES, 1.5))
    assert terms.terms["ood"].item() == pytest.approx(ood, rel=1e-12)
    assert terms.total.item() == pytest.approx(reference.segmentation() + 0.3 * ood, rel=1e-12)


def test_top_k_ovr_on_the_grid_of_the_labels() -> None:
    given = case("top_k_ovr")
    loss = build_loss("top_k_ovr", {"k": 2, "ood_grid": "label"})
    reference = Reference(given)
    penalty = top_k(2, 2.0)
    expected = reference.mean(
        reference.outlier, lambda n, i, j: penalty(reference.logits[n, :, i, j])
    )
    terms = loss(given.output, given.labels, given.ood_mask).terms
    assert terms["ood"].item() == pytest.approx(expected, rel=1e-12)


def test_free_energy_and_uniform() -> None:
    given = case("free_energy")
    reference = Reference(given)
    for name, penalty in (
        ("free_energy", lambda x: float(logsumexp(x))),
        ("uniform", lambda x: float(logsumexp(x) - x.mean())),
    ):
        expected = reference.segmentation() + 0.05 * reference.on_coarse_outliers(penalty)
        total = build_loss(name)(given.output, given.labels, given.ood_mask).total
        assert total.item() == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("void", ["ignored", "inlier"])
@pytest.mark.parametrize("weighting", ["code", "paper"])
def test_dense_hybrid(weighting: str, void: str, align_corners: bool) -> None:
    given = case("dense_hybrid")
    options = {"weighting": weighting, "void_pixels": void, "align_corners": align_corners}
    total = build_loss("dense_hybrid", options)(given.output, given.labels, given.ood_mask).total
    r = Reference(given, align_corners)
    inlier = r.labelled if void == "ignored" else r.mask == 0
    beta = 0.03
    likelihood = beta * r.mean(r.outlier, r.lse)
    if weighting == "code":
        head = 10 * beta * r.mean(inlier | r.outlier, r.head_loss)
    else:
        head = r.mean(inlier, r.head_loss) + beta * r.mean(r.outlier, r.head_loss)
    assert total.item() == pytest.approx(r.segmentation() + likelihood + head, rel=1e-12)


@pytest.mark.parametrize(("weighting", "factor"), [("code", 0.7 / 0.3), ("paper", 0.7)])
def test_dense_hybrid_head_weight(weighting: str, factor: float) -> None:
    """A free weight of the outlier head scales its terms and no others."""
    given = case("dense_hybrid")
    plain, free = (
        build_loss("dense_hybrid", {"weighting": weighting, **options})(
            given.output, given.labels, given.ood_mask
        )
        for options in ({}, {"head_weight": 0.7})
    )
    rest = plain.terms["segmentation"] + 0.03 * plain.terms["likelihood"]
    assert (free.total - rest).item() == pytest.approx(factor * (plain.total - rest).item())


def test_outlier_head() -> None:
    given = case("outlier_head")
    r = Reference(given)
    expected = r.segmentation() + 0.2 * r.mean(r.labelled | r.outlier, r.head_loss)
    total = build_loss("outlier_head")(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_outlier_head_on_a_frozen_network(weight: float) -> None:
    """The classes' share may be small, or none: then no class logit is even upsampled."""
    given = case("outlier_head")
    r = Reference(given)
    head = 0.2 * r.mean(r.labelled | r.outlier, r.head_loss)
    expected = head + (weight * r.segmentation() if weight else 0)
    logits = given.logits.clone().requires_grad_()
    output = NetworkOutput(logits, logits, given.ood_logits)
    loss = build_loss("outlier_head", {"segmentation_weight": weight})
    found = loss(output, given.labels, given.ood_mask)
    assert found.total.item() == pytest.approx(expected, rel=1e-12)
    assert set(found.terms) == {"head", *(["segmentation"] if weight else [])}
    assert found.total.requires_grad == bool(weight)


@pytest.mark.parametrize("void", ["ignored", "inlier"])
def test_hybrid_ovr(void: str) -> None:
    given = case("hybrid_ovr")
    r = Reference(given)
    inlier = r.labelled if void == "ignored" else r.mask == 0
    options = {"k": 2, "slope": 1.5, "gamma": 0.3, "head_weight": 0.7, "void_pixels": void}
    expected = (
        r.segmentation()
        + 0.3 * r.on_coarse_outliers(top_k(2, 1.5))
        + 0.7 * r.mean(inlier | r.outlier, r.head_loss)
    )
    total = build_loss("hybrid_ovr", options)(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0, 0.25]])
def test_k_plus_1(weights: list[float] | None) -> None:
    """Torch's weighted cross-entropy of K + 1 classes, pixel by pixel."""
    given = case("k_plus_1")
    r = Reference(given)
    logits = np.concatenate([r.logits, r.head[:, 1:] - r.head[:, :1]], 1)
    total = weight = 0.0
    for n, i, j in np.argwhere(r.labelled | r.outlier):
        target = CLASSES if r.outlier[n, i, j] else r.labels[n, i, j]
        w = [*(weights or [1.0] * CLASSES), 0.5][target]
        x = logits[n, :, i, j]
        total += w * (logsumexp(x) - x[target])
        weight += w
    loss = build_loss("k_plus_1", {"outlier_weight": 0.5, "class_weights": weights})
    found = loss(given.output, given.labels, given.ood_mask).total.item()
    assert found == pytest.approx(total / weight, rel=1e-12)


@pytest.mark.parametrize("average", ["pooled", "separate"])
def test_meta_ood(average: str) -> None:
    given = case("meta_ood")
    r = Reference(given)
    if average == "separate":
        expected = 0.1 * r.segmentation() + 0.9 * r.mean(r.outlier, r.uniform)
    else:  # one soft target a pixel, as in the public code
        values = []
        for n, i, j in np.argwhere(r.labelled | r.outlier):
            target = np.full(CLASSES, 0.9 / CLASSES)
            if r.labelled[n, i, j]:
                target = 0.1 * np.eye(CLASSES)[r.labels[n, i, j]]
            x = r.logits[n, :, i, j]
            values.append(-(target * np.log(np.exp(x) / np.exp(x).sum())).sum())
        expected = np.mean(values)
    loss = build_loss("meta_ood", {"average": average})
    total = loss(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected, rel=1e-12)


def test_energy_margin() -> None:
    given = case("energy_margin")
    r = Reference(given)
    # Margins inside the range of these logits, so that both hinges are open and closed.
    loss = build_loss("energy_margin", {"m_in": -6.0, "m_out": -4.0})
    above = r.mean(r.labelled, lambda *p: max(0.0, -r.lse(*p) + 6) ** 2)
    below = r.mean(r.outlier, lambda *p: max(0.0, -4 + r.lse(*p)) ** 2)
    assert above > 0
    assert below > 0
    expected = r.segmentation() + 0.1 * (above + below)
    total = loss(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("outlier_log", ["single", "double"])
def test_pebal(outlier_log: str) -> None:
    given = case("pebal")
    r = Reference(given)
    energy = -logsumexp(r.logits[:, :CLASSES], axis=1)
    # truncate 3 sigma: SciPy's kernel has 7 taps; its "mirror" is torch's "reflect".
    reward = np.stack([gaussian_filter(e**2, 1.0, truncate=3, mode="mirror") for e in energy])
    p = np.exp(r.logits) / np.exp(r.logits).sum(1, keepdims=True)

    def doubling(n: int, i: int, j: int) -> np.ndarray:
        return p[n, :CLASSES, i, j] + p[n, CLASSES, i, j] / reward[n, i, j]

    def outlier(n: int, i: int, j: int) -> float:
        value = np.log(doubling(n, i, j))
        if outlier_log == "double":
            value = np.log(np.maximum(value, 1e-7))
        return float(-value.mean())

    gambler = r.mean(r.labelled, lambda n, i, j: -np.log(doubling(n, i, j)[r.labels[n, i, j]]))
    gambler += 0.1 * r.mean(r.outlier, outlier)
    above = r.mean(r.labelled, lambda *q: max(0.0, energy[q] + 6.5) ** 2)
    below = r.mean(r.outlier, lambda *q: max(0.0, -4 - energy[q]) ** 2)
    assert below > 0
    sparsity = r.mean(r.outlier, lambda *q: abs(energy[q]))
    rough = (np.diff(energy, axis=1) ** 2).sum() + (np.diff(energy, axis=2) ** 2).sum()
    expected = gambler + 0.1 * (0.5 * (above + below) + 5e-4 * sparsity + 3e-6 * rough / 2)
    loss = build_loss("pebal", {"m_in": -6.5, "m_out": -4.0, "outlier_log": outlier_log})
    total = loss(given.output, given.labels, given.ood_mask).total
    assert total.item() == pytest.approx(expected, rel=1e-10)


def test_pebal_weighs_inliers_whole_without_outliers() -> None:
    given = case("pebal")
    nothing = torch.zeros_like(given.ood_mask)
    loss = build_loss("pebal")
    with_outliers = loss(given.output, given.labels, given.ood_mask)
    without = loss(given.output, given.labels, nothing)

    def rest(terms: dict[str, torch.Tensor]) -> float:
        energy = 0.1 * (0.5 * terms["energy_outlier"] + 5e-4 * terms["sparsity"])
        energy += 0.1 * 3e-6 * terms["smoothness"]
        return float(terms["gambler_inlier"] + 0.1 * terms["gambler_outlier"] + energy)

    for terms, share in ((with_outliers, 0.5), (without, 1.0)):
        part = float(terms.total) - rest(terms.terms)
        assert part == pytest.approx(0.1 * share * float(terms.terms["energy_inlier"]))
