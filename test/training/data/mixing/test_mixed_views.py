# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.corpora import Corpus
from training.data.mixing.mixed_views import MixedBatch, MixedViewDataset
from training.data.mixing.mixer import Mixer, MixOptions
from training.data.mixing.placement import PlacementOptions
from training.data.negatives.objects import NegativeObject
from training.data.views import ViewOptions

CROP = (64, 96)


class Squares:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> NegativeObject:
        image = np.full((30, 30, 3), 80 * index, np.uint8)
        return NegativeObject(image, np.ones((30, 30), bool), "square", f"square {index}")


@pytest.fixture
def dataset() -> MixedViewDataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (90, 160, 3)).astype(np.uint8) for _ in range(4)]
    labels = [np.repeat(np.uint8([10, 0]), 45)[:, None].repeat(160, 1).copy() for _ in range(4)]
    mixer = Mixer(
        Squares(),
        MixOptions(
            probability=1.0,
            objects=(1, 2),
            scene_texture=0.3,
            placement=PlacementOptions(on_ground=0.0, free_height=(0.3, 0.5)),
        ),
        load_taxonomy(),
        textures=images,
    )
    views = ViewOptions(crop=CROP, height_range=(80, 100))
    return MixedViewDataset(
        [Corpus.of_arrays("street", images, labels)], views, mixer, 19, focus_outlier=1.0
    )


def test_sample_has_the_contract_of_a_mixed_batch(dataset: MixedViewDataset) -> None:
    sample = dataset[0]
    assert isinstance(sample, MixedBatch)
    assert sample.images.shape == (3, *CROP)
    assert sample.images.dtype == torch.uint8
    assert sample.labels.dtype == torch.int64
    assert sample.ood_mask.dtype == torch.uint8


def test_outlier_pixels_carry_no_class(dataset: MixedViewDataset) -> None:
    for index in range(10):
        sample = dataset[index]
        assert set(sample.ood_mask.unique().tolist()) <= {0, 1, 255}
        assert (sample.labels[sample.ood_mask != 0] == 255).all()
        assert set(sample.labels.unique().tolist()) <= {0, 10, 255}
        # The crop is centred on an outlier.
        assert (sample.ood_mask == 1).any()


def test_batches_do_not_depend_on_the_number_of_workers(dataset: MixedViewDataset) -> None:
    def batches(workers: int) -> list[MixedBatch]:
        loader = DataLoader(dataset, batch_size=2, sampler=range(6), num_workers=workers)
        return list(loader)

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert isinstance(shared, MixedBatch)
        for a, b in zip(alone, shared, strict=True):
            assert torch.equal(a, b)


def test_objects_pasted_into_the_view_have_one_size_at_every_scale(
    dataset: MixedViewDataset,
) -> None:
    """Frames are scaled up to three times; the objects are a quarter of the crop."""
    quarter = PlacementOptions(on_ground=0.0, free_height=(0.25, 0.25))
    plain = {"decoys": (0, 0), "soft_edges": 0.0, "shadow": 0.0, "scene_texture": 0.0}
    sides = {}
    for into in ("view", "frame"):
        options = MixOptions(
            into=into, probability=1.0, objects=(1, 1), placement=quarter, **plain
        )
        mixed = MixedViewDataset(
            dataset.corpora,
            ViewOptions(crop=CROP, height_range=(80, 240), aspect_jitter=1.0),
            Mixer(Squares(), options, load_taxonomy()),
            19,
            jpeg=0.0,
        )
        masks = [mixed[i].ood_mask.numpy() > 0 for i in range(8)]
        sides[into] = {int(mask.any(1).sum()) for mask in masks if mask.any()}
    assert sides["view"] == {16}
    assert len(sides["frame"]) > 1
