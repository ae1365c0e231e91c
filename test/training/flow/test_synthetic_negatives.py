# SPDX-License-Identifier: Apache-2.0
"""Joint training: who learns from what, and that a resume and several processes change nothing."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_flow
import torch
from scipy.spatial.distance import jensenshannon
from tiny_flow import OPTIONS, Segmenter, batch, flow, negatives
from torch import nn

from anomaly_seg_ros.errors import CheckpointError, ParameterError, TrainingError
from training.data.mixing.mixed_views import MixedBatch
from training.flow.rectangles import draw_rectangles
from training.flow.synthetic_negatives import (
    FlowNegatives,
    FlowOptions,
    flow_optimizer,
    jensen_shannon_to_uniform,
)
from training.losses.base import LossTerms


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def boundary_gradients(player: FlowNegatives, network: nn.Module) -> list[torch.Tensor]:
    """Of lambda * JSD alone, by plain autograd through a graph from the flow to the loss.

    The same random numbers as in pass B.
    """
    start = batch()
    h, w = start.images.shape[-2:]
    torch.manual_seed(7)
    r = draw_rectangles(len(start.images), (h, w), player.options.sides)
    samples = player.flow.sample(len(r.images), r.size)
    images = r.fill(start.images.float(), samples)
    logits = network(images / 255).logits
    logits = nn.functional.interpolate(logits, size=(h, w), mode="bilinear", align_corners=False)
    divergence = r.cut(jensen_shannon_to_uniform(logits)).mean()
    return list(
        torch.autograd.grad(
            player.options.boundary_weight * divergence,
            list(player.flow.parameters()),
            allow_unused=True,
        )
    )


def test_pass_a_pastes_rounded_samples() -> None:
    player = negatives()
    original = batch()
    torch.manual_seed(0)
    mixed = player.prepare(original)
    torch.manual_seed(0)
    again = player.prepare(original)
    assert isinstance(mixed, MixedBatch)
    assert mixed.images.dtype == torch.uint8
    assert all(torch.equal(a, b) for a, b in zip(mixed, again, strict=True))
    pasted = mixed.ood_mask == 1
    assert (pasted.flatten(1).sum(1) > 0).all()
    assert len(set(pasted.flatten(1).sum(1).tolist())) == 1  # one size a batch
    assert (mixed.labels[pasted] == 255).all()
    assert torch.equal(mixed.labels[~pasted], original.labels[~pasted])
    assert not mixed.images.requires_grad


def test_pass_b_gives_the_flow_likelihood_and_divergence_and_nothing_else() -> None:
    """Its gradient is that of one plain graph: bits of the replaced patch + lambda JSD."""
    player = negatives()
    network = Segmenter()
    expected = boundary_gradients(player, network)

    torch.manual_seed(7)
    start = batch()
    drawn = player._draw(start, 1.0, None)
    bits = player.flow.bits_per_dim(drawn.replaced).mean()
    likelihood = torch.autograd.grad(bits, list(player.flow.parameters()))

    torch.manual_seed(7)
    figures = player.after_step(network, start)
    assert float(figures["flow_bits_per_dim"]) == pytest.approx(float(bits.detach()), rel=1e-6)
    assert 0 < float(figures["flow_divergence"]) < 0.588665
    for name_parameter, jsd, mle in zip(
        player.flow.named_parameters(), expected, likelihood, strict=True
    ):
        name, parameter = name_parameter
        total = mle if jsd is None else mle + jsd
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-7, msg=name)


def test_the_divergence_reaches_every_parameter_that_draws() -> None:
    """Through a segmenter. Cross-unit noise is shaped by parameters that only the likelihood
    has: sampling drops those channels, so there is nothing that the divergence could tell them.
    """
    player = negatives()
    found = boundary_gradients(player, Segmenter())
    for (name, parameter), gradient in zip(player.flow.named_parameters(), found, strict=True):
        if ".noises." in name:
            assert gradient is None, name
        else:
            assert gradient is not None, name
            assert gradient.shape == parameter.shape
            assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pass_b_leaves_no_trace_in_the_segmenter(precision: str) -> None:
    player = negatives(precision=precision)
    network = Segmenter().train()
    network.head.weight.requires_grad_(False)
    before, flow_before = state_of(network), state_of(player.flow)
    player.after_step(network, batch())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()].count(False) == 1
    assert network.training
    changed = [not torch.equal(v, flow_before[k]) for k, v in player.flow.state_dict().items()]
    assert sum(changed) >= len(changed) - 1  # all but "initialised"


def test_real_outliers_are_never_called_likely() -> None:
    """Patches that show an outlier or its rim are left out of the likelihood."""
    start = batch()
    for value in (1, 255):
        everywhere = start._replace(ood_mask=torch.full_like(start.ood_mask, value))
        figures = negatives().after_step(Segmenter(), everywhere)
        assert float(figures["flow_bits_per_dim"]) == 0
    half = start.ood_mask.clone()
    half[0] = 1
    player, network = negatives(), Segmenter()
    torch.manual_seed(7)
    drawn = player._draw(start, 1.0, None)
    expected = player.flow.bits_per_dim(drawn.replaced).detach()[1:].mean()
    torch.manual_seed(7)
    figures = player.after_step(network, start._replace(ood_mask=half))
    torch.testing.assert_close(figures["flow_bits_per_dim"], expected)


def test_synthetic_beside_real_negatives() -> None:
    """With a probability, images without a sample keep their pasted objects."""
    player = negatives(probability=0.5)
    start = batch()
    start.ood_mask[:, :4, :4] = 1
    kept = sampled = 0
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = player.prepare(start)
        for i in range(len(start.images)):
            same = torch.equal(mixed.images[i], start.images[i])
            assert same == torch.equal(mixed.ood_mask[i], start.ood_mask[i])
            kept, sampled = kept + same, sampled + (not same)
    assert kept > 10
    assert sampled > 10


def loss_terms(output, labels, ood_mask) -> LossTerms:
    total = nn.functional.cross_entropy(
        nn.functional.interpolate(output.logits, size=labels.shape[-2:], mode="bilinear"),
        labels,
        ignore_index=255,
    )
    return LossTerms(total, {"cross_entropy": total.detach()})


def test_one_pass_uses_the_segmenters_own() -> None:
    """The segmenter's gradient is as without a listener; the flow's is pass B's on that sample."""
    player = negatives(passes=1)
    network = Segmenter().eval()
    torch.manual_seed(7)
    mixed = player.prepare(batch())
    noise_comes_next = torch.get_rng_state()
    assert mixed.images.dtype == torch.float32
    loss = player.listening(loss_terms)(network(mixed.images / 255), mixed.labels, mixed.ood_mask)
    loss.total.backward()
    heard = [p.grad.clone() for p in network.parameters()]
    assert all(p.grad is None for p in player.flow.parameters())  # no anomaly loss in the flow

    plain = Segmenter().eval()
    plain.load_state_dict(network.state_dict())
    images = mixed.images.detach()
    loss_terms(plain(images / 255), mixed.labels, mixed.ood_mask).total.backward()
    for mine, theirs in zip(heard, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad)

    torch.set_rng_state(noise_comes_next)
    figures = player.after_step(network, batch())
    two = negatives(passes=2)
    torch.manual_seed(7)
    others = two.after_step(network, batch())
    torch.testing.assert_close(figures["flow_divergence"], others["flow_divergence"])
    for mine, theirs in zip(player.flow.parameters(), two.flow.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_one_pass_without_a_listener_is_named() -> None:
    player = negatives(passes=1)
    player.prepare(batch())
    with pytest.raises(ParameterError, match="listening"):
        player.after_step(Segmenter(), batch())


def test_one_pass_with_no_image_chosen() -> None:
    player = negatives(passes=1, probability=1e-9)
    network = Segmenter()
    mixed = player.prepare(batch())
    loss = player.listening(loss_terms)(network(mixed.images / 255), mixed.labels, mixed.ood_mask)
    loss.total.backward()
    before = state_of(player.flow)
    assert float(player.after_step(network, batch())["flow_divergence"]) == 0
    assert all(torch.equal(v, before[k]) for k, v in player.flow.state_dict().items())


@pytest.mark.slow
def test_a_resumed_flow_continues_bit_for_bit(tmp_path: Path) -> None:
    def steps(player: FlowNegatives, first: int, last: int) -> None:
        network = Segmenter()
        for step in range(first, last):
            torch.manual_seed(step)
            player.prepare(batch())
            player.after_step(network, batch())

    whole = negatives(epoch_steps=2)
    steps(whole, 0, 6)
    first = negatives(epoch_steps=2)
    steps(first, 0, 3)
    torch.save(first.state_dict(), tmp_path / "player.pt")
    second = negatives(epoch_steps=2)
    second.load_state_dict(torch.load(tmp_path / "player.pt", weights_only=True))
    steps(second, 3, 6)
    for key, value in whole.flow.state_dict().items():
        assert torch.equal(value, second.flow.state_dict()[key]), key
    assert whole.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.99**2)
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_a_checkpoint_of_another_size_is_named() -> None:
    state = negatives().state_dict()
    state["name"] = "25-6"
    with pytest.raises(CheckpointError, match=r"25-6.*tiny"):
        negatives().load_state_dict(state)


@pytest.mark.slow
def test_the_flow_learns_to_confuse_the_segmenter() -> None:
    """With the divergence alone in view, it falls."""
    player = negatives(boundary_weight=100.0)
    network = Segmenter(confident=True)
    values = []
    for step in range(25):
        torch.manual_seed(step)
        values.append(float(player.after_step(network, batch())["flow_divergence"]))
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    player = negatives()
    network = Segmenter()
    nn.init.constant_(network.head.bias, math.nan)
    before = state_of(player.flow)
    with pytest.raises(TrainingError, match="flow_divergence nan"):
        player.after_step(network, batch())
    assert all(torch.equal(v, before[k]) for k, v in player.flow.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smallest": 0}, "smallest 0"),
        ({"smallest": 300}, "smallest 300"),
        ({"probability": 0.0}, "probability 0.0"),
        ({"passes": 3}, "passes 3"),
        ({"boundary_weight": -1.0}, "boundary_weight -1.0"),
        ({"epoch_decay": 1.5}, "epoch_decay 1.5"),
    ],
)
def test_bad_options_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        replace(OPTIONS, **changes)


def test_the_defaults_are_the_papers() -> None:
    """Section 4.2 and the public code: one of 26 sizes, lambda 0.03, 0.99 an epoch."""
    options = FlowOptions()
    assert list(options.sides) == list(range(16, 217, 8))
    assert (options.boundary_weight, options.probability, options.passes) == (0.03, 1.0, 2)
    assert (options.epoch_steps, options.epoch_decay) == (2975 // 16 + 1, 0.99)


def test_settings_that_do_not_fit_the_flow_are_named() -> None:
    model = flow()
    optimizer = flow_optimizer(model)
    with pytest.raises(ParameterError, match="multiples of 8"):
        FlowNegatives(model, optimizer, lambda x: x, FlowOptions(step=4))
    with pytest.raises(ParameterError, match="bf17"):
        FlowNegatives(model, optimizer, lambda x: x, precision="bf17")
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-5, (0.9, 0.999), 1e-7)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Each takes its images of the same draw; the averaged gradient is that of all of them."""
    script = Path(tiny_flow.__file__)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(script), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    two = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    one = copy.deepcopy(tiny_flow.train_share(0, 1))
    for key, value in one.items():
        assert torch.equal(two[0][key], two[1][key]), key
        torch.testing.assert_close(two[0][key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_certain_and_uniform_posteriors() -> None:
    one_hot = torch.full((1, 19, 1, 1), -1e4, dtype=torch.float64)
    one_hot[:, 3] = 1e4
    assert float(jensen_shannon_to_uniform(one_hot)) == pytest.approx(0.588665, abs=5e-7)
    assert float(jensen_shannon_to_uniform(one_hot.float())) == pytest.approx(0.588665, abs=1e-6)
    flat = torch.full((1, 19, 2, 2), 3.0, dtype=torch.float64)
    np.testing.assert_allclose(jensen_shannon_to_uniform(flat).numpy(), 0, atol=1e-15)


def test_against_scipy() -> None:
    logits = 4 * torch.randn(2, 7, 3, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    actual = jensen_shannon_to_uniform(logits)
    posterior = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = jensenshannon(posterior, np.full_like(posterior, 1 / 7), axis=1) ** 2
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9)
    assert actual.shape == (2, 3, 2)
    assert float(actual.max()) < math.log(2)


def test_gradient() -> None:
    logits = 3 * torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=torch.manual_seed(1))
    assert torch.autograd.gradcheck(jensen_shannon_to_uniform, logits.requires_grad_())
