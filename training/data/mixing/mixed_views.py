# SPDX-License-Identifier: Apache-2.0
"""Training samples with pasted objects: random views of mixed frames."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from anomaly_seg_ros.labels import IGNORE_INDEX, OUTLIER_ID
from training.data.corpora import Corpus
from training.data.mixing.mixer import VIEW, Mixer, outlier_mask
from training.data.views import ViewDataset, ViewOptions, random_view
from training.engine.config import check_share


class MixedBatch(NamedTuple):
    """Road scenes with pasted outliers: a batch, or one sample without the dimension N.

    Attributes:
        images: (N, 3, H, W) uint8 RGB.
        labels: (N, H, W) int64 trainIds, 255 = ignore: void and every outlier pixel.
        ood_mask: (N, H, W) uint8: 0 inlier, 1 outlier, 255 ignore (the blended rim of an object).
    """

    images: Tensor
    labels: Tensor
    ood_mask: Tensor


class MixedViewDataset(ViewDataset):
    """Random views of several corpora, with objects pasted into the frames first.

    Objects are pasted into the stored frame, so they go through the same resampling, light and
    blur as their surroundings, unless the mixer's option ``into`` says otherwise. As in the base
    class, sample ``i`` depends on ``(seed, i)`` alone.

    Args:
        corpora: Sources, drawn in proportion to their weights.
        options: Geometry and light of the views.
        mixer: Mixer that pastes the objects.
        num_classes: Number of classes, K.
        seed: Seed of the whole stream.
        class_uniform: Share of the samples that show a uniformly drawn class.
        focus_outlier: Share of the samples that are cropped around an outlier, if objects are
            pasted into frames.
        jpeg: Share of the views that are compressed as JPEG, at a quality of 40 to 95.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        options: ViewOptions,
        mixer: Mixer,
        num_classes: int,
        seed: int = 0,
        class_uniform: float = 0.25,
        focus_outlier: float = 0.5,
        jpeg: float = 0.25,
    ) -> None:
        super().__init__(corpora, options, num_classes, seed, class_uniform)
        check_share("focus_outlier", focus_outlier)
        check_share("jpeg", jpeg)
        self.mixer = mixer
        self.focus_outlier = focus_outlier
        self.jpeg = jpeg

    def __getitem__(self, index: int) -> MixedBatch:
        """Returns one sample, without the batch dimension."""
        rng = np.random.default_rng([self.seed, index])
        corpus, position, focus = self.draw(rng)
        if self.mixer.options.into == VIEW:
            frame = random_view(*corpus.load(position), self.options, rng, corpus.aspect, focus)
            view, target = self.mixer(*frame, rng)
        else:
            image, label = self.mixer(*corpus.load(position), rng, corpus.squeeze(position))
            if rng.random() < self.focus_outlier:
                focus = OUTLIER_ID
            view, target = random_view(image, label, self.options, rng, corpus.aspect, focus)
        if rng.random() < self.jpeg:
            view = _recompressed(view, int(rng.integers(40, 96)))
        ood_mask = outlier_mask(target)
        target[ood_mask != 0] = IGNORE_INDEX
        return MixedBatch(
            torch.from_numpy(view).permute(2, 0, 1),
            torch.from_numpy(target).long(),
            torch.from_numpy(ood_mask),
        )


def _recompressed(view: np.ndarray, quality: int) -> np.ndarray:
    bgr = np.ascontiguousarray(view[..., ::-1])
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])
