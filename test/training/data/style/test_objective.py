# SPDX-License-Identifier: Apache-2.0
"""The losses of the learned style transfer, and its discriminator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_seg_ros.models.efficientnet_lite import EfficientNetLite
from training.data.style.cameras import PairedCrops
from training.data.style.network import PatchDiscriminator, StyleTransfer, gaussian_blur
from training.data.style.objective import (
    TERMS,
    Opponent,
    PerceptualDistance,
    StyleObjective,
    hinge_loss,
)

CPU = torch.device("cpu")
WEIGHTS = {"mse": 5, "perceptual": 1, "adversarial": 0.1, "feature": 0.2, "noise": 0.1, "w": 0.1}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(count: int = 4) -> PairedCrops:
    crops = (torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8) for _ in range(4))
    return PairedCrops(*crops)


def perceptual() -> PerceptualDistance:
    return PerceptualDistance(EfficientNetLite("lite0"))


def test_perceptual_distance_against_numpy() -> None:
    distance = perceptual()
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert float(distance(x, x)) == 0
    wanted, a, b = [], x, y
    for layer in distance.layers:
        a, b = layer(a), layer(b)
        u, v = a.double().numpy(), b.double().numpy()
        u /= np.sqrt(np.einsum("nchw,nchw->nhw", u, u) + 1e-6)[:, None]
        v /= np.sqrt(np.einsum("nchw,nchw->nhw", v, v) + 1e-6)[:, None]
        wanted.append((np.linalg.norm(u - v, axis=1) ** 2).mean())
    assert float(distance(x, y)) == pytest.approx(np.mean(wanted), rel=1e-4)
    assert not any(p.requires_grad for p in distance.parameters())


def test_terms_and_their_sum() -> None:
    opponent = Opponent(1e-3, 2, CPU)
    objective = StyleObjective(WEIGHTS, perceptual(), opponent, 0.0)
    network = StyleTransfer()
    loss = objective(network, batch())
    assert set(loss.terms) == set(TERMS)
    total = sum(WEIGHTS[name] * float(value) for name, value in loss.terms.items())
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-5)
    loss.total.backward()
    assert all(p.grad is None for p in opponent.discriminator.parameters())
    opponent.after_step(network, batch())
    # The opponent rests in every second step.
    assert set(objective(network, batch()).terms) == {"mse", "perceptual"}


def test_terms_vanish_for_a_perfect_transfer() -> None:
    given = batch()
    given = given._replace(target=given.content)
    network = StyleTransfer()  # the identity
    objective = StyleObjective(WEIGHTS, perceptual(), Opponent(1e-3, 1, CPU), 0.0)
    terms = objective(network, given).terms
    for name in ("mse", "perceptual", "noise"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-6), name
    # Spectral normalisation refines its estimate between the two calls.
    assert float(terms["feature"]) == pytest.approx(0, abs=0.01)
    # The code of the output is that of its exemplar where the foreign crop is the exemplar.
    same = given._replace(foreign=given.exemplar)
    assert float(objective(network, same).terms["w"]) == pytest.approx(0, abs=1e-6)


def test_masks_hide_content_from_the_generator() -> None:
    network = StyleTransfer()
    torch.nn.init.normal_(network.generator.to_rgb.weight)
    opponent, distance, given = Opponent(1e-3, 1, CPU), perceptual(), batch()
    plain, again, masked = (
        float(StyleObjective(WEIGHTS, distance, opponent, p)(network, given).terms["mse"])
        for p in (0.0, 0.0, 1.0)
    )
    assert plain == again != masked


def test_hinge_loss() -> None:
    class Mean(PatchDiscriminator):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images.mean((1, 2, 3), keepdim=True)]

    def flat(value: float) -> torch.Tensor:
        return torch.full((2, 3, 4, 4), value)

    assert float(hinge_loss(Mean(), flat(2.0), flat(-2.0))) == 0
    assert float(hinge_loss(Mean(), flat(0.25), flat(0.5))) == pytest.approx(0.75 + 1.5)


def test_the_opponent_learns_and_resumes() -> None:
    network, opponent = StyleTransfer(), Opponent(2e-3, 2, CPU)
    # Targets are dark, all else is bright: easy to tell.
    bright = torch.randint(150, 256, (8, 3, 32, 32), dtype=torch.uint8)
    data = PairedCrops(bright, bright, bright // 4, bright)
    losses = [opponent.after_step(network, data) for _ in range(60)]
    assert [bool(x) for x in losses[:4]] == [True, False, True, False]
    values = [float(x["discriminator"]) for x in losses if x]
    assert values[-1] < 0.5 * values[0]
    assert not any(p.requires_grad for p in opponent.discriminator.parameters())
    copy = Opponent(2e-3, 2, CPU)
    copy.load_state_dict(opponent.state_dict())
    assert copy.due == opponent.due
    for _ in range(3):
        assert copy.after_step(network, data) == opponent.after_step(network, data)


@pytest.mark.slow
def test_sharpness_is_learned_from_the_exemplar() -> None:
    """Half of the exemplars are blurred: which crops are to be blurred only they tell."""
    network = StyleTransfer()
    opponent = Opponent(1e-3, 1000, CPU)
    opponent.steps = 1  # it rests
    weights = {**dict.fromkeys(TERMS, 0.0), "mse": 1.0}
    objective = StyleObjective(weights, perceptual(), opponent, 0.0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3, (0.5, 0.99))
    losses, untouched = [], []
    for _ in range(60):
        scenes = torch.nn.functional.interpolate(256 * torch.rand(8, 3, 16, 32), scale_factor=2)
        seen = scenes.clone()
        seen[::2] = gaussian_blur(scenes[::2], 1.5)
        scenes, seen = scenes.to(torch.uint8), seen.to(torch.uint8)
        data = PairedCrops(scenes[..., :32], seen[..., 32:], seen[..., :32], scenes[..., 32:])
        loss = objective(network, data)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.terms["mse"]))
        difference = data.content.float() - data.target.float()
        untouched.append(float(difference.square().mean()) / 127.5**2)
    # Blurring all or none would leave half of the error or all of it.
    assert np.mean(losses[-5:]) < 0.3 * np.mean(untouched[-5:])
