# SPDX-License-Identifier: Apache-2.0
"""Training pairs of the learned style transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.corpora import Corpus
from training.data.style.cameras import ANY_CAMERAS, CameraPairs, SimulatedCamera
from training.data.style.lab import to_lab


def corpus(seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (6, 20, 24, 3)).astype(np.uint8)
    images = [np.kron(x, np.ones((8, 8, 1), np.uint8)) for x in smooth]
    return Corpus.of_arrays("squares", images, [np.zeros((160, 192), np.uint8) for _ in images])


def image() -> np.ndarray:
    return corpus().load(0)[0][:72, :80]


def test_the_default_camera_changes_nothing() -> None:
    assert np.array_equal(SimulatedCamera()(image()), image())


def sharpness(x: np.ndarray) -> float:
    return float(np.abs(np.diff(x.astype(float), axis=1)).max(1).mean())


def test_each_stage_does_its_job() -> None:
    original = image()
    tint = np.array([[0.5, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32)
    tinted = SimulatedCamera(colour=tint)(original)
    assert np.abs(tinted[..., 0] - (0.5 * original[..., 0] + 10)).max() <= 0.5
    assert np.array_equal(tinted[..., 1:], original[..., 1:])
    brightened = SimulatedCamera(gamma=0.5)(original)
    assert np.abs(brightened - 255 * np.sqrt(original / 255)).max() <= 0.5
    assert sharpness(SimulatedCamera(blur=1.0)(original)) < 0.7 * sharpness(original)
    assert sharpness(SimulatedCamera(shrink=(1.0, 2.0))(original)) < 0.95 * sharpness(original)
    blurred = SimulatedCamera(blur=1.0)(original)
    assert sharpness(SimulatedCamera(sharpen=1.0)(blurred)) > 1.1 * sharpness(blurred)
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert SimulatedCamera(grain=5.0)(flat).std() == pytest.approx(5.0, rel=0.1)
    coded = SimulatedCamera(quality=40)(original)
    assert 0 < np.abs(coded.astype(int) - original).mean() < 20


def test_a_camera_is_repeatable_and_draws_differ() -> None:
    rng = np.random.default_rng(0)
    cameras = [SimulatedCamera.draw(ANY_CAMERAS, rng) for _ in range(8)]
    first = [c(image()) for c in cameras]
    assert all(np.array_equal(a, c(image())) for a, c in zip(first, cameras, strict=True))
    assert len({x.tobytes() for x in first}) > 4


def test_pairs_are_a_function_of_seed_and_index() -> None:
    one, two = CameraPairs([corpus()], 19, 32, seed=3), CameraPairs([corpus()], 19, 32, seed=3)
    for a, b in zip(one[5], two[5], strict=True):
        assert a.shape == (3, 32, 32)
        assert a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert not torch.equal(one[5][0], one[6][0])
    assert not torch.equal(one[5][0], CameraPairs([corpus()], 19, 32, seed=4)[5][0])


def test_with_one_camera_the_target_is_the_content() -> None:
    pairs = CameraPairs([corpus()], 19, 32, same_camera=1.0)
    for i in range(20):
        # Matching equal moments goes to Lab and back.
        assert (pairs[i].content.int() - pairs[i].target.int()).abs().max() <= 1


def moments(image: torch.Tensor) -> np.ndarray:
    values = to_lab(image.permute(1, 2, 0).numpy()).reshape(-1, 3)
    return np.stack([values.mean(0), values.std(0)])


def test_colours_are_aligned_with_what_each_crop_goes_with() -> None:
    pairs = CameraPairs([corpus()], 19, 32)
    errors = []
    for i in range(20):
        sample = pairs[i]
        for crop, partner in ((sample.content, sample.target), (sample.foreign, sample.exemplar)):
            errors.append(np.abs(moments(crop) - moments(partner)).max())
    # In Lab units; clipping at black and white costs some crops more.
    assert np.median(errors) < 1.5


def test_the_foreign_crop_is_of_another_view() -> None:
    samples = [CameraPairs([corpus()], 19, 32)[i] for i in range(20)]
    likeness = [
        np.corrcoef(x.foreign.numpy().ravel(), x.content.numpy().ravel())[0, 1] for x in samples
    ]
    assert np.nanmedian(np.abs(likeness)) < 0.5


def test_content_and_target_show_the_same_place() -> None:
    pairs = CameraPairs([corpus()], 19, 32, same_camera=0.0)
    agreement, with_exemplar = [], []
    for i in range(60):
        content, exemplar, target = (x.float().mean(0).flatten() for x in pairs[i][:3])
        agreement.append(float(torch.corrcoef(torch.stack([content, target]))[0, 1]))
        with_exemplar.append(float(torch.corrcoef(torch.stack([exemplar, target]))[0, 1]))
    assert np.nanmedian(agreement) > 0.9
    assert abs(np.nanmedian(with_exemplar)) < 0.3


def test_frames_smaller_than_a_view_are_scaled() -> None:
    small = Corpus.of_arrays(
        "small", [np.full((40, 40, 3), 90, np.uint8)], [np.zeros((40, 40), np.uint8)]
    )
    assert all(crop.shape == (3, 32, 32) for crop in CameraPairs([small], 19, 32)[0])
