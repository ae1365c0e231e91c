# SPDX-License-Identifier: Apache-2.0
"""The networks of the learned style transfer: encoder, generator, discriminator.

Based on ISSA (Li et al., "Intra- & extra-source exemplar-based style synthesis", IJCV 2023), whose
StyleGAN2 generator and encoder weights were never released. As in ISSA, one feature pyramid gives
a global style code w and a spatial map ("noise"), patches of the map are replaced by noise in
training, and the generator uses w in modulated convolutions. This version is trained in an hour
on a CPU and runs in data workers, so it differs in four ways:

* 0.2 M parameters and no pre-trained GAN; encoder and generator are trained together.
* Colours are aligned beforehand (``LabMoments``). The networks learn the remaining properties of a
  camera: sharpness, local contrast, tone curve.
* The generator filters detail instead of synthesising it. The style codes amplify or damp
  frequency bands of the image, and the modulated convolutions add a smooth change at half the
  resolution. A first version synthesised every pixel from the map; as far as it was trained, its
  output was easier to tell from a scene than untouched objects (``benchmarks/style_gap.py``).
* One w for all layers instead of w+.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLE_CHANNELS = 48
CONTENT_CHANNELS = 12
# Stride of the coarsest level; inputs are padded to multiples of it.
STRIDE = 8
# ISSA's masked noise: a quarter of the 4 x 4 patches of the map.
MASK_PATCH = 4
MASK_RATIO = 0.25

_WIDTHS = (24, 48, 64)
# Sigmas of the Gaussians that separate the frequency bands, in pixels.
_BAND_SIGMAS = (0.6, 1.1, 2.0)
_SLOPE = 0.2


class Encoding(NamedTuple):
    """Style and content of images.

    Attributes:
        style: (N, STYLE_CHANNELS), the global look of the image, "w".
        content: (N, CONTENT_CHANNELS, H / 2, W / 2), the spatial map, "noise".
    """

    style: Tensor
    content: Tensor


def to_unit(images: Tensor) -> Tensor:
    """Converts (N, 3, H, W) uint8 RGB to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Converts (N, 3, H, W) floats in [-1, 1] to uint8 RGB; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _down(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, 1),
        nn.LeakyReLU(_SLOPE, inplace=True),
        nn.Conv2d(c_out, c_out, 3, 1, 1),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )


class Encoder(nn.Module):
    """Feature pyramid at 1/2, 1/4 and 1/8 of the resolution, with two heads.

    There is no normalisation, because the statistics of the features are the style.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = (12, *_WIDTHS)
        self.levels = nn.ModuleList(
            _down(channels[i], channels[i + 1], 1 if i == 0 else 2) for i in range(3)
        )
        self.style_head = nn.Sequential(
            nn.Linear(2 * sum(_WIDTHS), 96),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(96, STYLE_CHANNELS),
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, _WIDTHS[0], 1) for c in _WIDTHS)
        self.content_head = nn.Conv2d(_WIDTHS[0], CONTENT_CHANNELS, 3, padding=1)

    def forward(self, images: Tensor, weights: Tensor | None = None) -> Encoding:
        """Encodes style and content.

        Args:
            images: (N, 3, H, W) in [-1, 1]; H and W are multiples of :data:`STRIDE`.
            weights: (N, 1, H, W) weight of each pixel for the style, such as an object's mask;
                None weights all pixels equally.
        """
        features = self._pyramid(images)
        return Encoding(self._style(features, weights), self._content(features))

    def style(self, images: Tensor) -> Tensor:
        """Encodes only the style; see :meth:`forward`."""
        return self._style(self._pyramid(images), None)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        features = [F.pixel_unshuffle(images, 2)]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]

    def _style(self, features: list[Tensor], weights: Tensor | None) -> Tensor:
        """Maps mean and deviation of every channel to the style code."""
        statistics = []
        for level, x in enumerate(features):
            x = x.float()
            if weights is None:
                variance, mean = torch.var_mean(x, (2, 3), correction=0)
            else:
                shares = F.avg_pool2d(weights, 2 ** (level + 1))
                shares = shares / shares.sum((2, 3), keepdim=True)
                mean = (shares * x).sum((2, 3))
                variance = (shares * (x - mean[:, :, None, None]).square()).sum((2, 3))
            statistics += [mean, (variance + 1e-4).sqrt()]
        return self.style_head(torch.cat(statistics, 1))

    def _content(self, features: list[Tensor]) -> Tensor:
        top = self.lateral[2](features[2])
        for i in (1, 0):
            top = self.lateral[i](features[i]) + F.interpolate(
                top, scale_factor=2.0, mode="nearest"
            )
        return self.content_head(F.leaky_relu(top, _SLOPE))


def mask_with_noise(content: Tensor, masked: Tensor) -> Tensor:
    """Replaces patches of the content map by noise, so that w has to provide the information.

    Draws from torch's global CPU generator on any device.

    Args:
        content: (N, C, h, w).
        masked: (N,) bool, True for the images to mask.

    Returns:
        A map of the same shape. The noise is Gaussian with each channel's mean and deviation.
    """
    count, channels, height, width = content.shape
    rows, columns = -(-height // MASK_PATCH), -(-width // MASK_PATCH)
    patches = torch.rand(count, 1, rows, columns) < MASK_RATIO
    patches &= masked.cpu()[:, None, None, None]
    hidden = patches.repeat_interleave(MASK_PATCH, 2).repeat_interleave(MASK_PATCH, 3)
    hidden = hidden[..., :height, :width].to(content.device)
    noise = torch.randn(count, channels, height, width).to(content)
    deviation, mean = torch.std_mean(content.detach().float(), (0, 2, 3), keepdim=True)
    return torch.where(hidden, (mean + deviation * noise).to(content.dtype), content)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by the style (Karras et al. 2020, StyleGAN2).

    StyleGAN2's scaling of the weights per sample is equivalent to scaling the input and output
    channels of one shared convolution, which needs no grouped convolution.

    Args:
        c_in: Input channels.
        c_out: Output channels.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bias = nn.Linear(STYLE_CHANNELS, c_out)
        self.scale = nn.Linear(STYLE_CHANNELS, c_in)
        for affine in (self.bias, self.scale):
            nn.init.normal_(affine.weight, std=0.02)
            nn.init.zeros_(affine.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) and (N, STYLE_CHANNELS) to (N, c_out, h, w)."""
        scale = 1 + self.scale(style).float()
        y = self.conv(x * scale[:, :, None, None].to(x.dtype))
        power = scale.square() @ self.conv.weight.float().square().sum((2, 3)).T
        y = y * (power + 1e-6).rsqrt()[:, :, None, None].to(y.dtype)
        return y + self.bias(style)[:, :, None, None].to(y.dtype)


class BandGains(nn.Module):
    """Amplifies or damps the frequency bands of an image.

    Gaussians split each colour channel into three bands and a smooth remainder. The gains, in
    [0, 2], depend on both styles: how soft the image is and how soft it should become.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Sequential(
            nn.Linear(2 * STYLE_CHANNELS, 64),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(64, 3 * len(_BAND_SIGMAS)),
        )
        nn.init.zeros_(self.gains[-1].weight)
        nn.init.zeros_(self.gains[-1].bias)

    def forward(self, images: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
        """Filters images.

        Args:
            images: (N, 3, H, W).
            own: (N, STYLE_CHANNELS), styles of the images.
            wanted: (N, STYLE_CHANNELS), styles of the exemplars.

        Returns:
            (N, 3, H, W) float32.
        """
        changes = torch.tanh(self.gains(torch.cat([own, wanted], 1)).float())
        changes = changes.view(len(images), len(_BAND_SIGMAS), 3, 1, 1)
        result = sharper = images.float()
        for change, sigma in zip(changes.unbind(1), _BAND_SIGMAS, strict=True):
            smoother = gaussian_blur(images.float(), sigma)
            result = result + change * (sharper - smoother)
            sharper = smoother
        return result


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blurs (N, C, H, W) float32 images, with mirrored borders."""
    radius = min(int(3 * sigma + 0.5), min(images.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1, 1, 1)
    with torch.autocast(images.device.type, enabled=False):
        padded = F.pad(images, [radius] * 4, "reflect")
        rows = F.conv2d(padded, kernel, groups=images.shape[1])
        return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


class Generator(nn.Module):
    """Renders an image in a given style, with the help of its content map."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = 48, 24
        self.coarse = nn.ModuleList(
            [ModulatedConv(4 * CONTENT_CHANNELS, wide), ModulatedConv(wide, wide)]
        )
        self.fine = nn.ModuleList(
            [ModulatedConv(wide + CONTENT_CHANNELS, narrow), ModulatedConv(narrow, narrow)]
        )
        self.to_rgb = nn.Conv2d(narrow, 3, 1)
        nn.init.zeros_(self.to_rgb.weight)
        nn.init.zeros_(self.to_rgb.bias)
        self.bands = BandGains()

    def forward(self, images: Tensor, encoded: Encoding, style: Tensor) -> Tensor:
        """Renders.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            encoded: Encoding of the images.
            style: (N, STYLE_CHANNELS), the target style.

        Returns:
            (N, 3, H, W) float32, approximately in [-1, 1].
        """
        x = F.pixel_unshuffle(encoded.content, 2)
        for layer in self.coarse:
            x = F.leaky_relu(layer(x, style), _SLOPE)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = torch.cat([x, encoded.content], 1)
        for layer in self.fine:
            x = F.leaky_relu(layer(x, style), _SLOPE)
        change = self.to_rgb(x).float()
        change = F.interpolate(change, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.bands(images, encoded.style, style) + change


class StyleTransfer(nn.Module):
    """Encoder and generator; renders one image in the style of another."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.generator = Generator()

    def forward(self, images: Tensor, exemplars: Tensor, weights: Tensor | None = None) -> Tensor:
        """Transfers styles.

        Args:
            images: (N, 3, H, W) in [-1, 1] with aligned colours; H and W are multiples of
                :data:`STRIDE`.
            exemplars: (N, 3, h, w) in [-1, 1]; h and w are multiples of :data:`STRIDE`.
            weights: Weights of the images' pixels, see :meth:`Encoder.forward`.

        Returns:
            (N, 3, H, W) float32, approximately in [-1, 1].
        """
        encoded = self.encoder(images, weights)
        return self.generator(images, encoded, self.encoder.style(exemplars))


class PatchDiscriminator(nn.Module):
    """Tells real patches from generated ones (Isola et al. 2017), with spectral normalisation.

    Its receptive field of 30 pixels limits it to texture, not shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.spectral_norm(conv)
            for conv in (
                nn.Conv2d(3, 32, 4, 2, 1),
                nn.Conv2d(32, 64, 4, 2, 1),
                nn.Conv2d(64, 96, 3, 1, 1),
                nn.Conv2d(96, 1, 3, 1, 1),
            )
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the features of all layers; the last are the scores (N, 1, h, w)."""
        features = []
        x = images
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return [*features, self.layers[-1](x)]
