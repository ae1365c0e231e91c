# SPDX-License-Identifier: Apache-2.0
"""Encoder, generator and masked noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from training.data.style.network import (
    MASK_RATIO,
    STRIDE,
    STYLE_CHANNELS,
    BandGains,
    Encoder,
    ModulatedConv,
    PatchDiscriminator,
    StyleTransfer,
    gaussian_blur,
    mask_with_noise,
    to_bytes,
    to_unit,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_bytes_survive_the_scaling() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(to_unit(grey)), grey)
    assert to_bytes(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]


def test_modulated_convolution_is_stylegans_with_weights_per_sample() -> None:
    layer = ModulatedConv(5, 7).double()
    torch.nn.init.normal_(layer.scale.weight)
    x, style = torch.randn(3, 5, 9, 8).double(), torch.randn(3, STYLE_CHANNELS).double()
    found = layer(x, style)
    for i in range(3):
        # Karras et al. 2020, eq. 1 and 3, with an explicit weight for this sample.
        weight = layer.conv.weight * (1 + layer.scale(style[i]))[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt()
        wanted = F.conv2d(x[i : i + 1], weight, layer.bias(style[i]), padding=1)
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=1e-5, atol=1e-5)


def test_it_starts_as_the_identity() -> None:
    images = torch.rand(2, 3, 32, 24) * 2 - 1
    result = StyleTransfer()(images, images.flip(0))
    torch.testing.assert_close(result, images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.6, 1.1, 2.0])
def test_gaussian_blur_against_scipy(sigma: float) -> None:
    images = torch.rand(1, 2, 20, 17)
    radius = int(3 * sigma + 0.5)
    wanted = ndimage.gaussian_filter(
        images[0].double().numpy(), (0, sigma, sigma), mode="mirror", truncate=radius / sigma
    )
    np.testing.assert_allclose(gaussian_blur(images, sigma)[0].numpy(), wanted, atol=1e-6)


def test_images_smaller_than_the_blur() -> None:
    assert gaussian_blur(torch.rand(1, 3, 2, 1), 2.0).shape == (1, 3, 2, 1)


def test_band_gains_sharpen_and_soften() -> None:
    bands = BandGains()
    images, style = torch.rand(1, 3, 24, 24), torch.zeros(1, STYLE_CHANNELS)
    results = []
    for bias in (-20.0, 0.0, 20.0):
        bands.gains[-1].bias.data.fill_(bias)
        results.append(bands(images, style, style))
    soft, same, sharp = results
    torch.testing.assert_close(same, images, rtol=0, atol=1e-6)
    # Gains of 0 leave only what lies below all bands, gains of 2 double these.
    torch.testing.assert_close(soft, gaussian_blur(images, 2.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(sharp - same, same - soft, rtol=0, atol=1e-5)


def test_style_is_global_and_content_is_local() -> None:
    encoder = Encoder()
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    whole = encoder(images)
    assert torch.equal(whole.style, encoder.style(images))
    assert whole.content.shape == (1, 12, 32, 32)
    # Statistics of all places: the same picture twice side by side has almost the same style ...
    twice = encoder.style(torch.cat([images, images], 3))
    torch.testing.assert_close(twice, whole.style, rtol=0.05, atol=0.02)
    # ... but where a corner changes, only the content near it does.
    changed = images.clone()
    changed[..., :8, :8] *= -1
    difference = (encoder(changed).content - whole.content).abs().sum(1)[0]
    assert difference[:4, :4].min() > 0
    assert difference[-4:, -4:].max() == 0


def test_pixels_without_weight_do_not_count_for_the_style() -> None:
    encoder = Encoder()
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    ones = torch.ones(1, 1, 64, 64)
    torch.testing.assert_close(encoder(images, ones).style, encoder.style(images))
    weights = torch.zeros(1, 1, 64, 64)
    weights[..., :16] = 1
    changed = images.clone()
    changed[..., 60:] = 1.0
    assert torch.equal(encoder(images, weights).style, encoder(changed, weights).style)
    assert not torch.equal(encoder(images, ones).style, encoder(changed, ones).style)


def test_every_parameter_is_trained() -> None:
    network = StyleTransfer()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    # Zero-initialised layers stop the gradient of those before them; give them something.
    for parameter in network.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    network(images, images.flip(0)).square().sum().backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_masked_noise_hides_whole_patches_of_the_chosen_images() -> None:
    content = torch.full((2, 3, 80, 82), 5.0) + 0.1 * torch.randn(2, 3, 80, 82)
    masked = mask_with_noise(content, torch.tensor([True, False]))
    assert torch.equal(masked[1], content[1])
    hidden = (masked[0] != content[0]).all(0)
    assert hidden.float().mean() == pytest.approx(MASK_RATIO, abs=0.06)
    patches = hidden[:, :80].reshape(20, 4, 20, 4).float().mean((1, 3))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    noise = masked[0][:, hidden]
    assert noise.mean().item() == pytest.approx(5.0, abs=0.02)
    assert noise.std().item() == pytest.approx(content.std().item(), rel=0.1)


def test_masked_noise_passes_no_gradient_to_what_it_hides() -> None:
    content = torch.randn(1, 2, 16, 16, requires_grad=True)
    masked = mask_with_noise(content, torch.tensor([True]))
    masked.sum().backward()
    kept = (masked == content).all(1)
    assert kept.any()
    assert not kept.all()
    assert torch.equal(content.grad.abs().sum(1) > 0, kept)


def test_the_discriminator_judges_patches() -> None:
    images = torch.randn(1, 3, 128, 128)
    discriminator = PatchDiscriminator().eval()
    changed = images.clone()
    changed[..., :16, :16] = 0
    difference = (discriminator(images)[-1] - discriminator(changed)[-1]).abs()[0, 0]
    assert difference[0, 0] > 0
    assert difference[12:, 12:].max() == 0


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(RuntimeError):
        StyleTransfer()(torch.zeros(1, 3, STRIDE + 1, STRIDE), torch.zeros(1, 3, STRIDE, STRIDE))
