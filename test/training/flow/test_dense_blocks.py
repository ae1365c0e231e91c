# SPDX-License-Identifier: Apache-2.0
"""Every layer against autograd's Jacobian and against its own inverse, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.flow.dense_blocks import CouplingNet, CrossUnitNoise, FlowStep
from training.flow.invertible import (
    ActNorm,
    AffineCoupling,
    InvertibleConv1x1,
    bounded_log_scale,
    squeeze,
    unsqueeze,
)


def coupling(channels: int) -> AffineCoupling:
    return AffineCoupling(channels, lambda i, o: CouplingNet(i, o, 4, 2, 3))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "actnorm": lambda: ActNorm(5),
    "conv": lambda: InvertibleConv1x1(5),
    "coupling, odd": lambda: coupling(5),
    "coupling, even": lambda: coupling(4),
    "step": lambda: FlowStep(5, 4, 2, 3, checkpointing=False),
    "step, checkpointed": lambda: FlowStep(5, 4, 2, 3, checkpointing=True),
}


def perturbed(module: nn.Module, amount: float = 0.2) -> nn.Module:
    """Away from the start, where couplings are identities; in float64."""
    module.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += amount * noise
    return module


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_and_inverse(name: str) -> None:
    torch.manual_seed(0)
    layer = perturbed(LAYERS[name]())
    channels = 4 if name == "coupling, even" else 5
    x = torch.randn(2, channels, 3, 2, dtype=torch.float64)
    z, log_det = layer(x)
    assert log_det.shape in ((2,), (2, 3, 2))  # of an image, or of each pixel
    log_det = log_det.flatten(1).sum(1) if log_det.ndim > 1 else log_det
    for item in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: layer(one[None])[0].flatten(), x[item]
        )
        sign, expected = np.linalg.slogdet(jacobian.flatten(1).numpy())
        assert abs(sign) == 1
        assert float(log_det[item].detach()) == pytest.approx(expected, abs=1e-10)
    assert float((layer.inverse(z) - x).detach().abs().max()) < 1e-12


def test_coupling_leaves_its_condition_and_moves_the_rest() -> None:
    layer = perturbed(coupling(5))
    x = torch.randn(1, 5, 2, 2, dtype=torch.float64)
    z = layer(x)[0]
    assert torch.equal(z[:, 2:], x[:, :3])
    assert (z[:, :2] != x[:, 3:]).all()


def test_cross_unit_noise_is_a_change_of_variables() -> None:
    torch.manual_seed(0)
    layer = perturbed(CrossUnitNoise(3, 2))
    context = torch.randn(1, 3, 2, 3, dtype=torch.float64)
    noise = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    shaped, log_det = layer(context, noise)
    jacobian = torch.autograd.functional.jacobian(lambda n: layer(context, n)[0].flatten(), noise)
    expected = np.linalg.slogdet(jacobian.reshape(12, 12).numpy())[1]
    assert float(log_det.detach()) == pytest.approx(expected, abs=1e-12)
    other = layer(context + 1, noise)[0]
    assert not torch.allclose(shaped, other)  # it does depend on what came before


def test_networks_start_at_zero() -> None:
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    assert not CouplingNet(3, 4, 6, 2, 5)(x).any()
    shaped, log_det = CrossUnitNoise(3, 2)(x, noise)
    assert torch.equal(shaped, noise)
    assert not log_det.any()


def test_coupling_scale_is_the_formula() -> None:
    raw = torch.linspace(-20, 20, 41, dtype=torch.float64)
    expected = 2 * np.tanh(raw.numpy() / 2)
    np.testing.assert_allclose(bounded_log_scale(raw).numpy(), expected, rtol=1e-12)


def test_squeeze_keeps_neighbours_together() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    z = squeeze(x)
    assert z.shape == (2, 12, 2, 3)
    for c in range(3):
        pixels = x[1, c, 2:4, 4:6].flatten()
        assert torch.equal(z[1, 4 * c : 4 * c + 4, 1, 2], pixels)
    assert torch.equal(unsqueeze(z), x)


def test_actnorm_takes_mean_and_deviation_of_the_first_data() -> None:
    torch.manual_seed(0)
    layer = ActNorm(3)
    x = 7 + torch.tensor([0.1, 1.0, 30.0]).view(1, 3, 1, 1) * torch.randn(8, 3, 6, 6)
    layer.pending = True
    z: Tensor = layer(x)[0]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3))
    again = layer(2 * x)[0]
    assert float(again.detach().std()) > 1.5  # once only
    layer.pending = True
    assert torch.isfinite(layer(torch.full((2, 3, 4, 4), 5.0))[0]).all()  # constant channels
