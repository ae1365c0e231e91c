"""An endless, stateless stream of training samples.

Sample ``i`` is a pure function of ``(seed, i)``. So the stream is the same for any number of
workers and ranks, and a resumed run continues with exactly the sample it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from anomaly_seg_ros.labels import IGNORE_INDEX, UNKNOWN_ID
from training.data.augment import ViewOptions, random_view
from training.data.corpora import Corpus


class ViewDataset(Dataset):
    """Random views over several corpora.

    Args:
        corpora: In-memory sources; each is drawn in proportion to its weight.
        options: Geometry and light of the views.
        num_classes: K.
        seed: Of the whole stream.
        class_uniform: Share of the samples that first draw a class uniformly and then an image
            showing it (Zhu et al. 2019, "class uniform sampling"): rare classes are otherwise
            hardly seen.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        options: ViewOptions,
        num_classes: int = 19,
        seed: int = 0,
        class_uniform: float = 0.5,
    ) -> None:
        self.corpora = corpora
        self.options = options
        self.num_classes = num_classes
        self.seed = seed
        self.class_uniform = class_uniform
        weights = np.array([c.weight for c in corpora], np.float64)
        self._shares = weights / weights.sum()
        self._by_class = [c.by_class(num_classes) for c in corpora]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns (3, h, w) uint8 RGB and (h, w) int64 trainIds."""
        rng = np.random.default_rng([self.seed, index])
        corpus, position, focus = self.draw(rng)
        image, label = random_view(
            corpus.images[position],
            corpus.labels[position],
            self.options,
            rng,
            corpus.aspect,
            focus,
        )
        label[label == UNKNOWN_ID] = IGNORE_INDEX
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label).long()

    def describe(self, index: int) -> str:
        """Which frame sample ``index`` shows, for errors."""
        corpus, position, _ = self.draw(np.random.default_rng([self.seed, index]))
        return f"{corpus.name} image {position}"

    def draw(self, rng: np.random.Generator) -> tuple[Corpus, int, int | None]:
        """Draws a frame: its corpus, its position there, and the class to look at, if any."""
        which = rng.choice(len(self.corpora), p=self._shares)
        corpus = self.corpora[which]
        focus = None
        position = int(rng.integers(len(corpus.images)))
        if rng.random() < self.class_uniform:
            shown = [c for c, found in enumerate(self._by_class[which]) if found.size]
            focus = int(shown[rng.integers(len(shown))])
            found = self._by_class[which][focus]
            position = int(found[rng.integers(found.size)])
        return corpus, position, focus


class StepSampler(Sampler[int]):
    """Indices of this rank's share of every batch, from a given step on.

    Args:
        batch_size: Samples of one rank in a step.
        start: First step.
        stop: One past the last step.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, batch_size: int, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.steps = range(start, stop)
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self.steps) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)
