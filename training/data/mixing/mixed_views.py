"""The training stream with pasted objects: a view of a mixed frame."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from anomaly_seg_ros.labels import IGNORE_INDEX, OUTLIER_ID
from training.data.augment import ViewOptions, random_view
from training.data.batches import MixedBatch
from training.data.corpora import Corpus
from training.data.mixing.mixer import Mixer, outlier_mask
from training.data.sampling import ViewDataset


class MixedViewDataset(ViewDataset):
    """Random views over several corpora, with objects pasted into the frames first.

    Objects are pasted into the stored frame and go through the same resampling, light and blur as
    everything around them. Like its base, sample ``i`` is a function of ``(seed, i)`` alone.

    Args:
        corpora: In-memory sources; each is drawn in proportion to its weight.
        options: Geometry and light of the views.
        mixer: Pastes the objects.
        num_classes: K.
        seed: Of the whole stream.
        class_uniform: Share of the samples that show a class drawn uniformly.
        focus_outlier: Share of the samples that are cropped around an outlier.
        jpeg: Share of the views that are compressed again, at a quality of 40 to 95.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        options: ViewOptions,
        mixer: Mixer,
        num_classes: int = 19,
        seed: int = 0,
        class_uniform: float = 0.25,
        focus_outlier: float = 0.5,
        jpeg: float = 0.25,
    ) -> None:
        super().__init__(corpora, options, num_classes, seed, class_uniform)
        self.mixer = mixer
        self.focus_outlier = focus_outlier
        self.jpeg = jpeg

    def __getitem__(self, index: int) -> MixedBatch:
        """Returns one sample, without the batch dimension."""
        rng = np.random.default_rng([self.seed, index])
        corpus, position, focus = self.draw(rng)
        image, label = corpus.images[position], corpus.labels[position]
        image, label = self.mixer(image, label, rng, corpus.squeeze(position))
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
