# SPDX-License-Identifier: Apache-2.0
"""Training views: geometry and labels; the same stream for any workers and ranks, and resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from training.data.corpora import Corpus
from training.data.stream import StepSampler
from training.data.views import ViewDataset, ViewOptions, random_view

PLAIN = ViewOptions(crop=(64, 96), photometric=0.0, blur_probability=0.0)


def striped_frame(height: int = 128, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """An image whose colour tells its label: 0 left, 200 right."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    return np.repeat(label[..., None] * np.uint8(200), 3, axis=2), label


@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_stay_aligned(seed: int) -> None:
    image, label = striped_frame()
    view, target = random_view(image, label, PLAIN, np.random.default_rng(seed), aspect=2.0)
    assert view.shape == (64, 96, 3)
    assert target.shape == (64, 96)
    seen = target != 255
    agree = (view[..., 0] > 100) == (target == 1)
    assert agree[seen].mean() > 0.97  # interpolation blurs the one edge


def test_outside_of_the_frame_is_ignored() -> None:
    options = ViewOptions((300, 300), (100, 101), photometric=0, blur_probability=0)
    image, label = striped_frame()
    view, target = random_view(image, label, options, np.random.default_rng(0))
    outside = target == 255
    assert 0.8 < outside.mean() < 0.95  # about 1 - 100 * 100 / 300^2
    assert not view[outside].any() or view[outside].mean() < 5


def test_focus_class_is_in_the_view() -> None:
    image, label = striped_frame(512, 1024)
    label[:] = 0
    label[400:404, 900:904] = 7
    options = ViewOptions((64, 96), (512, 513), photometric=0, blur_probability=0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        _, target = random_view(image, label, options, rng, focus_class=7)
        assert (target == 7).any()


def test_a_view_is_a_function_of_its_seed() -> None:
    image, label = striped_frame()
    rng = np.random.default_rng
    first = random_view(image, label, ViewOptions((64, 96)), rng([1, 5]))
    again = random_view(image, label, ViewOptions((64, 96)), rng([1, 5]))
    other = random_view(image, label, ViewOptions((64, 96)), rng([1, 6]))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.fixture(scope="module")
def dataset() -> ViewDataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(6)]
    labels = [rng.integers(0, 5, (48, 64), np.uint8) for _ in range(6)]
    corpora = [
        Corpus.of_arrays("a", images[:4], labels[:4], 3.0),
        Corpus.of_arrays("b", images[4:], labels[4:], 1.0),
    ]
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
    corpora = [
        Corpus.of_arrays("a", images[:4], labels[:4]),
        Corpus.of_arrays("b", images[4:], labels[4:]),
    ]
    options = ViewOptions((16, 16), (40, 60), photometric=0.0, blur_probability=0.0)
    dataset = ViewDataset(corpora, options, num_classes=1)
    names = [f"{c.name} image {i}" for c in corpora for i in range(len(c))]
    for index in range(20):
        shown = round(float(dataset[index][0].float().median()) / 40)
        assert dataset.describe(index) == names[shown]
