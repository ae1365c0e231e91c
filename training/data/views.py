# SPDX-License-Identifier: Apache-2.0
"""Random views of labelled images: scale, aspect, crop, flip, light, blur.

Sample ``i`` of a :class:`ViewDataset` is a pure function of ``(seed, i)``. So the stream is the
same for any number of workers and ranks, and a resumed run continues with exactly the sample that
it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import IGNORE_INDEX, UNKNOWN_ID
from training.data.corpora import Corpus
from training.engine.config import check_positive, check_range, check_share, to_dataclass


@dataclass(frozen=True)
class ViewOptions:
    """Settings of the random views.

    Attributes:
        crop: (height, width) of the view, in pixels.
        height_range: The whole frame is resized to a height in this range (log-uniform), so that
            the network learns every inference size from 256 to 1024 rows.
        max_enlargement: Limit of that height, as a multiple of the stored height; beyond it small
            frames are only blurred.
        aspect_jitter: The width is multiplied by a factor in [1 / jitter, jitter] (log-uniform).
        squeeze_probability: Probability that a frame stored squeezed stays squeezed.
        photometric: Strength of brightness, contrast, saturation and hue changes, 0 = off.
        blur_probability: Probability of a Gaussian blur.
        blur_sigma: Range of its sigma, in pixels of the view.
        flip: Probability that the view is mirrored left to right.

    Raises:
        ParameterError: A range is reversed or a value is out of range; the message names the key.
    """

    crop: tuple[int, int] = (256, 384)
    height_range: tuple[int, int] = (240, 1024)
    max_enlargement: float = 2.5
    aspect_jitter: float = 1.25
    squeeze_probability: float = 0.25
    photometric: float = 0.3
    blur_probability: float = 0.15
    blur_sigma: tuple[float, float] = (0.3, 1.2)
    flip: float = 0.5

    def __post_init__(self) -> None:
        for key in ("squeeze_probability", "blur_probability", "flip"):
            check_share(key, getattr(self, key))
        for key in ("height_range", "blur_sigma"):
            check_range(key, getattr(self, key), positive=True)
        for key in ("max_enlargement", "aspect_jitter"):
            check_positive(key, getattr(self, key))
        if not 0 <= self.photometric <= 1:
            raise ParameterError(f"photometric: expected 0 to 1, got {self.photometric}")


def view_options(config: Mapping[str, Any]) -> ViewOptions:
    """Reads the options of the views from an entry's configuration; absent keys are defaults."""
    names = [f.name for f in fields(ViewOptions)]
    return to_dataclass(ViewOptions, {name: config[name] for name in names if name in config})


def random_view(
    image: np.ndarray,
    label: np.ndarray,
    options: ViewOptions,
    rng: np.random.Generator,
    aspect: float = 0.0,
    focus_class: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one training view.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 trainIds.
        options: See :class:`ViewOptions`.
        rng: Source of all randomness.
        aspect: True width / height if the frame is stored squeezed, else 0.
        focus_class: Crop around a random pixel of this class, if there is one.

    Returns:
        Image (h, w, 3) uint8 and label (h, w) uint8 of size ``options.crop``; outside of the frame
        the image is 0 and the label is ignore.
    """
    height, width = _draw_size(image.shape[:2], options, rng, aspect)
    crop_h, crop_w = options.crop
    top, left = _draw_corner(label, (height, width), options.crop, rng, focus_class)
    # The affine map takes view pixels to stored pixels, so only the crop is resampled.
    sy, sx = image.shape[0] / height, image.shape[1] / width
    flip = rng.random() < options.flip
    x0, x_step = (left + crop_w - 1, -1) if flip else (left, 1)
    to_stored = np.array(
        [[sx * x_step, 0, sx * (x0 + 0.5) - 0.5], [0, sy, sy * (top + 0.5) - 0.5]], np.float64
    )
    view = _warp(_prefiltered(image, sy, sx), to_stored, (crop_h, crop_w), cv2.INTER_LINEAR, 0)
    target = _warp(label, to_stored, (crop_h, crop_w), cv2.INTER_NEAREST, IGNORE_INDEX)
    return _photometric(view, options, rng), target


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _draw_size(
    stored: tuple[int, int], options: ViewOptions, rng: np.random.Generator, aspect: float
) -> tuple[int, int]:
    ratio = stored[1] / stored[0]
    if aspect and rng.random() >= options.squeeze_probability:
        ratio = aspect
    low, high = options.height_range
    height = _log_uniform(rng, low, max(low, min(high, stored[0] * options.max_enlargement)))
    ratio *= _log_uniform(rng, 1 / options.aspect_jitter, options.aspect_jitter)
    return round(height), max(1, round(height * ratio))


def _draw_corner(
    label: np.ndarray,
    size: tuple[int, int],
    crop: tuple[int, int],
    rng: np.random.Generator,
    focus_class: int | None,
) -> tuple[int, int]:
    slack = [s - c for s, c in zip(size, crop, strict=True)]
    corner = [int(rng.integers(min(0, s), max(0, s) + 1)) for s in slack]
    if focus_class is not None:
        hits = np.flatnonzero(label == focus_class)
        if hits.size:
            pixel = np.unravel_index(hits[rng.integers(hits.size)], label.shape)
            for axis in (0, 1):
                centre = (pixel[axis] + 0.5) * size[axis] / label.shape[axis]
                wanted = int(centre - crop[axis] * rng.uniform(0.25, 0.75))
                corner[axis] = min(max(wanted, min(0, slack[axis])), max(0, slack[axis]))
    return corner[0], corner[1]


def _prefiltered(image: np.ndarray, sy: float, sx: float) -> np.ndarray:
    """Low-pass filters an image before shrinking, to avoid aliasing."""
    if max(sy, sx) < 1.5:
        return image
    kernel = (max(1, round(sx)), max(1, round(sy)))
    return cv2.blur(image, kernel)


def _warp(
    array: np.ndarray, to_source: np.ndarray, size: tuple[int, int], method: int, border: int
) -> np.ndarray:
    return cv2.warpAffine(
        array,
        to_source,
        size[::-1],
        flags=method | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(border,) * 3,
    )


def _photometric(view: np.ndarray, options: ViewOptions, rng: np.random.Generator) -> np.ndarray:
    strength = options.photometric
    if strength > 0:
        gain, saturation = rng.uniform(1 - strength, 1 + strength, size=2)
        bias = 255 * strength * rng.uniform(-0.5, 0.5)
        tint = rng.uniform(1 - strength / 4, 1 + strength / 4, size=3)
        # One affine map of the colours: saturation, then gain and tint per channel.
        grey = np.array([0.299, 0.587, 0.114])
        mix = saturation * np.eye(3) + (1 - saturation) * grey[None, :]
        matrix = (gain * tint)[:, None] * mix
        offset = 127.5 * (1 - gain) + bias
        view = cv2.transform(view, np.column_stack([matrix, np.full(3, offset)]))
    if rng.random() < options.blur_probability:
        view = cv2.GaussianBlur(view, (0, 0), rng.uniform(*options.blur_sigma))
    return view


class ViewDataset(Dataset):
    """Random views of several corpora.

    Args:
        corpora: Sources, drawn in proportion to their weights.
        options: Geometry and light of the views.
        num_classes: Number of classes, K.
        seed: Seed of the whole stream.
        class_uniform: Share of the samples that draw a class uniformly first, and then an image
            that shows it (Zhu et al. 2019, "class uniform sampling"). Otherwise rare classes are
            hardly seen.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        options: ViewOptions,
        num_classes: int,
        seed: int = 0,
        class_uniform: float = 0.5,
    ) -> None:
        self.corpora = corpora
        self.options = options
        self.num_classes = num_classes
        self.seed = seed
        check_share("class_uniform", class_uniform)
        self.class_uniform = class_uniform
        weights = np.array([c.weight for c in corpora], np.float64)
        self._shares = weights / weights.sum()
        self._by_class = [c.index.by_class(num_classes) for c in corpora]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns (3, h, w) uint8 RGB and (h, w) int64 trainIds."""
        rng = np.random.default_rng([self.seed, index])
        corpus, position, focus = self.draw(rng)
        image, label = random_view(*corpus.load(position), self.options, rng, corpus.aspect, focus)
        label[label == UNKNOWN_ID] = IGNORE_INDEX
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label).long()

    def describe(self, index: int) -> str:
        """Names the frame of sample ``index``, for error messages."""
        corpus, position, _ = self.draw(np.random.default_rng([self.seed, index]))
        return f"{corpus.name} {corpus.frames.name(position)}"

    def draw(self, rng: np.random.Generator) -> tuple[Corpus, int, int | None]:
        """Draws a frame: its corpus, its position, and the class to focus on, if any."""
        which = rng.choice(len(self.corpora), p=self._shares)
        corpus = self.corpora[which]
        focus = None
        position = int(rng.integers(len(corpus)))
        shown = [c for c, found in enumerate(self._by_class[which]) if found.size]
        if rng.random() < self.class_uniform and shown:
            focus = int(shown[rng.integers(len(shown))])
            found = self._by_class[which][focus]
            position = int(found[rng.integers(found.size)])
        return corpus, position, focus
