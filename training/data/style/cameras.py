# SPDX-License-Identifier: Apache-2.0
"""Training pairs of the learned style transfer: one road scene seen by two simulated cameras.

A style is what a camera and its processing do to a scene: light, colours, sharpness, grain,
compression. Rendering a crop with two simulated cameras gives a supervised pair: the content is
the crop seen by the first camera, the style comes from a *neighbouring* crop seen by the second,
and the target is the first crop seen by the second camera. Only in-distribution frames are needed.

Colours are aligned beforehand, as when the transfer is applied: the content gets the Lab moments
of the target. A crop of *another* frame with the moments of the exemplar represents a foreign
object, for which there is no target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from training.data.corpora import Corpus
from training.data.style.lab import LabMoments
from training.data.views import ViewDataset, ViewOptions, random_view

# Margin that is cropped after compression, so that JPEG's 8 x 8 blocks start anywhere.
_BLOCK = 8


@dataclass(frozen=True)
class CameraRange:
    """Range of the simulated cameras.

    Attributes:
        photometric: Strength of gain, offset and white balance.
        saturation: Smallest and largest factor.
        gamma: Exponents are in [1 / gamma, gamma].
        blur: Maximum sigma, in pixels.
        sharpen: Maximum amount of unsharp masking.
        shrink: Maximum factor, per axis, by which the image is shrunk and enlarged again.
        grain: Maximum standard deviation of the sensor noise, in grey levels.
        quality: Minimum JPEG quality; the maximum is 95.
        skip: Probability that a stage is left out.
    """

    photometric: float
    saturation: tuple[float, float]
    gamma: float
    blur: float
    sharpen: float
    shrink: float
    grain: float
    quality: int
    skip: float


# Road frames after the training's own augmentation.
ROAD_CAMERAS = CameraRange(0.25, (0.6, 1.3), 1.15, 1.2, 0.3, 1.8, 4.0, 40, 0.6)
# Arbitrary photographs: vivid, sharpened, in any light.
ANY_CAMERAS = CameraRange(0.4, (0.5, 1.9), 1.4, 1.2, 1.5, 1.8, 6.0, 40, 0.5)


@dataclass(frozen=True)
class SimulatedCamera:
    """One simulated camera; the identity by default.

    Attributes:
        colour: (3, 4) float32, affine map of RGB.
        gamma: Exponent of the intensity.
        blur: Sigma, in pixels.
        sharpen: Amount of unsharp masking.
        shrink: Factors (vertical, horizontal).
        grain: Standard deviation of the noise, in grey levels.
        quality: JPEG quality; 0 = not compressed.
        seed: Seed of the noise.
    """

    colour: np.ndarray | None = None
    gamma: float = 1.0
    blur: float = 0.0
    sharpen: float = 0.0
    shrink: tuple[float, float] = (1.0, 1.0)
    grain: float = 0.0
    quality: int = 0
    seed: int = 0

    @staticmethod
    def draw(span: CameraRange, rng: np.random.Generator) -> SimulatedCamera:
        """Draws a camera."""

        def happens() -> bool:
            return rng.random() >= span.skip

        soft = happens()
        return SimulatedCamera(
            colour=_draw_colour(span, rng) if happens() else None,
            gamma=span.gamma ** rng.uniform(-1, 1) if happens() else 1.0,
            blur=rng.uniform(0.3, span.blur) if soft else 0.0,
            sharpen=rng.uniform(0, span.sharpen) if not soft and happens() else 0.0,
            shrink=tuple(rng.uniform(1, span.shrink, 2)) if happens() else (1.0, 1.0),
            grain=rng.uniform(0, span.grain) if happens() else 0.0,
            quality=int(rng.integers(span.quality, 96)) if happens() else 0,
            seed=int(rng.integers(2**31)),
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Renders an (h, w, 3) uint8 RGB image as seen by this camera."""
        height, width = image.shape[:2]
        if self.colour is not None:
            image = cv2.transform(image, self.colour)
        if self.gamma != 1.0:
            table = 255 * (np.arange(256) / 255) ** self.gamma
            image = cv2.LUT(image, np.rint(table).astype(np.uint8))
        if self.shrink != (1.0, 1.0):
            size = (max(1, round(width / self.shrink[1])), max(1, round(height / self.shrink[0])))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        if self.sharpen:
            soft = cv2.GaussianBlur(image, (0, 0), 1.0)
            image = cv2.addWeighted(image, 1 + self.sharpen, soft, -self.sharpen, 0)
        if self.grain:
            noise = np.random.default_rng(self.seed).normal(0, self.grain, image.shape)
            image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
        if self.quality:
            image = _compress(image, self.quality)
        return image


def _draw_colour(span: CameraRange, rng: np.random.Generator) -> np.ndarray:
    strength = span.photometric
    gain = math.exp(rng.uniform(-strength, strength))
    balance = np.exp(rng.uniform(-strength / 3, strength / 3, 3))
    low, high = span.saturation
    saturation = math.exp(rng.uniform(math.log(low), math.log(high)))
    grey = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * grey[None, :]
    offset = 127.5 * (1 - gain) + 127.5 * strength * rng.uniform(-1, 1)
    matrix = (gain * balance)[:, None] * mix
    return np.column_stack([matrix, np.full(3, offset)]).astype(np.float32)


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


class PairedCrops(NamedTuple):
    """A sample or a batch of crops, all (..., 3, size, size) uint8 RGB.

    Attributes:
        content: Crop seen by the first camera, with the target's colour moments.
        exemplar: Neighbouring crop seen by the second camera.
        target: The first crop seen by the second camera.
        foreign: Crop of another frame seen by a third camera, with the exemplar's moments.
    """

    content: Tensor
    exemplar: Tensor
    target: Tensor
    foreign: Tensor


class CameraPairs(ViewDataset):
    """Random :class:`PairedCrops`; sample ``i`` depends on ``(seed, i)`` alone.

    Args:
        corpora: In-distribution frames.
        num_classes: Number of classes, K.
        size: Side of the crops, in pixels.
        seed: Seed of the whole stream.
        stored: Share of the views that are cropped from the stored frame without resampling, into
            which objects are pasted in use; the others are scaled and unsqueezed.
        same_camera: Share of the samples whose target is the content crop itself.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        num_classes: int,
        size: int,
        seed: int = 0,
        stored: float = 0.5,
        same_camera: float = 0.15,
    ) -> None:
        shape = (size + _BLOCK, 2 * size + _BLOCK)
        options = ViewOptions(
            crop=shape, squeeze_probability=0.25, photometric=0.0, blur_probability=0.0
        )
        super().__init__(corpora, options, num_classes, seed, class_uniform=0.5)
        self.size = size
        self.stored = stored
        self.same_camera = same_camera
        self._moments = LabMoments()

    def __getitem__(self, index: int) -> PairedCrops:
        """Draws a sample."""
        rng = np.random.default_rng([self.seed, index])
        # Half of the styles are the frame's own, unchanged.
        draw = SimulatedCamera.draw
        second = SimulatedCamera() if rng.random() < 0.5 else draw(ROAD_CAMERAS, rng)
        first = second if rng.random() < self.same_camera else draw(ANY_CAMERAS, rng)
        seen, wanted = self._crops(self._view(rng), (first, second), rng)
        here, there = slice(0, self.size), slice(self.size, None)
        if rng.random() < 0.5:
            here, there = there, here
        exemplar, target = wanted[:, there], wanted[:, here]
        (other,) = self._crops(self._view(rng), (draw(ANY_CAMERAS, rng),), rng)
        crops = (
            self._align(seen[:, here], target, rng),
            exemplar,
            target,
            self._align(other[:, here], exemplar, rng),
        )
        return PairedCrops(*(torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in crops))

    def _crops(
        self, view: np.ndarray, cameras: tuple[SimulatedCamera, ...], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Renders the same part of a view with each camera, (size, 2 * size, 3)."""
        top, left = rng.integers(_BLOCK + 1, size=2)
        place = slice(top, top + self.size), slice(left, left + 2 * self.size)
        return [camera(view)[place] for camera in cameras]

    def _align(
        self, crop: np.ndarray, exemplar: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return self._moments(crop, np.ones(crop.shape[:2], bool), exemplar, rng)

    def _view(self, rng: np.random.Generator) -> np.ndarray:
        corpus, position, focus = self.draw(rng)
        image, label = corpus.load(position)
        height, width = self.options.crop
        if rng.random() >= self.stored or image.shape[0] < height or image.shape[1] < width:
            return random_view(image, label, self.options, rng, corpus.aspect, focus)[0]
        top = int(rng.integers(image.shape[0] - height + 1))
        left = int(rng.integers(image.shape[1] - width + 1))
        return np.ascontiguousarray(image[top : top + height, left : left + width])
