"""The training stream is the same for any number of workers and ranks, and after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from training.data.augment import ViewOptions
from training.data.corpora import Corpus
from training.data.sampling import StepSampler, ViewDataset


@pytest.fixture(scope="module")
def dataset() -> ViewDataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(6)]
    labels = [rng.integers(0, 5, (48, 64), np.uint8) for _ in range(6)]
    corpora = [Corpus("a", images[:4], labels[:4], 3.0), Corpus("b", images[4:], labels[4:], 1.0)]
    return ViewDataset(corpora, ViewOptions((32, 32), (40, 60)), num_classes=5, seed=3)


def batches(dataset: ViewDataset, sampler: StepSampler, workers: int) -> list[torch.Tensor]:
    loader = DataLoader(dataset, sampler.batch_size, sampler=sampler, num_workers=workers)
    return [images for images, _ in loader]


def test_workers_do_not_matter(dataset: ViewDataset) -> None:
    one = batches(dataset, StepSampler(4, 0, 3), 0)
    two = batches(dataset, StepSampler(4, 0, 3), 2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_resumed_stream_continues(dataset: ViewDataset) -> None:
    whole = batches(dataset, StepSampler(4, 0, 5), 0)
    rest = batches(dataset, StepSampler(4, 3, 5), 0)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


def test_ranks_share_the_global_batch(dataset: ViewDataset) -> None:
    whole = batches(dataset, StepSampler(4, 0, 2), 0)
    parts = [batches(dataset, StepSampler(2, 0, 2, rank, 2), 0) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([part[step] for part in parts]))


def test_corpora_are_drawn_by_weight(dataset: ViewDataset) -> None:
    draws = np.random.default_rng(0).choice(2, 4000, p=dataset._shares)
    assert draws.mean() == pytest.approx(0.25, abs=0.03)


def test_a_sample_is_described_by_its_frame() -> None:
    """Frames of one grey each, so that a view shows which one it is of."""
    images = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)]
    labels = [np.zeros((48, 64), np.uint8) for _ in images]
    corpora = [Corpus("a", images[:4], labels[:4]), Corpus("b", images[4:], labels[4:])]
    options = ViewOptions((16, 16), (40, 60), photometric=0.0, blur_probability=0.0)
    dataset = ViewDataset(corpora, options, num_classes=1)
    names = [f"{c.name} image {i}" for c in corpora for i in range(len(c))]
    for index in range(20):
        shown = round(float(dataset[index][0].float().median()) / 40)
        assert dataset.describe(index) == names[shown]
