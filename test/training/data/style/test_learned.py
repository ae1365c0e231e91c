# SPDX-License-Identifier: Apache-2.0
"""The learned style alignment: shapes, limits, determinism, bad weights, and what it does."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_scenes import real_held_out_frames

from anomaly_seg_ros.errors import CheckpointError, ParameterError
from training.data.style import build_style
from training.data.style.cameras import SimulatedCamera
from training.data.style.lab import LabMoments
from training.data.style.learned import LearnedStyle, spread_object
from training.data.style.network import StyleTransfer


def untrained(**options: float) -> LearnedStyle:
    torch.manual_seed(0)
    network = StyleTransfer()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return LearnedStyle(network.eval(), **options)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < 0.2


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (10, 10), (17, 64), (131, 40), (300, 410)])
def test_any_size(size: tuple[int, int]) -> None:
    image, mask = scene(*size), disc(*size)
    mask[0, 0] = True
    before = image.copy()
    result = untrained()(image, mask, scene(90, 120, 1), np.random.default_rng(0))
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (12, 9), (160, 160), (500, 700)])
def test_any_exemplar(size: tuple[int, int]) -> None:
    image = scene(20, 30)
    result = untrained()(image, disc(20, 30), scene(*size, 1), np.random.default_rng(0))
    assert result.shape == image.shape


def test_repeatable_for_a_seed_and_after_pickling() -> None:
    style = untrained()
    arguments = scene(40, 30), disc(40, 30), scene(400, 500, 1)
    first = style(*arguments, np.random.default_rng(7))
    assert np.array_equal(first, style(*arguments, np.random.default_rng(7)))
    copy = pickle.loads(pickle.dumps(style))
    assert np.array_equal(first, copy(*arguments, np.random.default_rng(7)))
    # Another window of a large exemplar.
    assert not np.array_equal(first, style(*arguments, np.random.default_rng(8)))


def test_the_surroundings_of_the_object_do_not_matter() -> None:
    image, mask = scene(60, 50), disc(60, 50)
    other = np.where(mask[..., None], image, 0).astype(np.uint8)
    style, exemplar = untrained(), scene(90, 120, 1)
    results = [style(x, mask, exemplar, np.random.default_rng(0)) for x in (image, other)]
    assert np.array_equal(*results)


def test_strength_blends() -> None:
    image, mask, exemplar = scene(40, 30), disc(40, 30), scene(90, 120, 1)
    none, half, full = (
        untrained(strength=s)(image, mask, exemplar, np.random.default_rng(0)).astype(int)
        for s in (0.0, 0.5, 1.0)
    )
    assert np.array_equal(none, image)
    # Between the two but for clipping and rounding.
    assert np.abs(half - (none + full) / 2)[mask].max() <= 1


def test_an_empty_mask_changes_nothing() -> None:
    image = scene(20, 30)
    result = untrained()(image, np.zeros((20, 30), bool), image, np.random.default_rng(0))
    assert np.array_equal(result, image)
    assert result is not image


def test_a_large_object_keeps_its_detail() -> None:
    """Only the change is rendered small."""
    grain = np.random.default_rng(0).integers(0, 60, (200, 200, 1))
    image = (scene(200, 200) // 2 + grain).astype(np.uint8)
    mask = np.ones((200, 200), bool)
    style = LearnedStyle(StyleTransfer().eval(), max_side=64)  # the identity
    result = style(image, mask, image, np.random.default_rng(0)).astype(int)
    assert np.abs(result - image).mean() < 2


def test_spread_object_takes_the_nearest_pixel() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (15, 21, 3)).astype(np.uint8)
    mask = rng.random((15, 21)) < 0.1
    filled = spread_object(image, mask)
    assert np.array_equal(filled[mask], image[mask])
    places = np.argwhere(mask)
    for y, x in np.ndindex(mask.shape):
        distances = np.hypot(*(places - (y, x)).T)
        # OpenCV's distances on a 5 x 5 mask are off by up to 2 %.
        near = places[distances <= 1.05 * distances.min() + 1e-9]
        assert any(np.array_equal(filled[y, x], image[tuple(p)]) for p in near)


@pytest.mark.parametrize(
    "options", [{"strength": 1.5}, {"strength": -0.1}, {"max_side": 4}, {"exemplar_side": 0}]
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(ParameterError, match=next(iter(options))):
        untrained(**options)


def test_bad_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        LearnedStyle.load(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        LearnedStyle.load(damaged)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match="does not fit StyleTransfer"):
        build_style("learned", {"weights": str(other)})


def test_an_untrained_network_leaves_the_lab_moments() -> None:
    image, mask, exemplar = scene(40, 30), disc(40, 30), scene(90, 120, 1)
    style = LearnedStyle(StyleTransfer().eval())  # the identity
    result = style(image, mask, exemplar, np.random.default_rng(0))
    wanted = LabMoments()(image, mask, exemplar, np.random.default_rng(0))
    assert np.abs(result.astype(int) - wanted)[mask].max() <= 1


@pytest.mark.data
def test_held_out_crops_take_on_the_exemplars_camera(shared_data: Path) -> None:
    """Nearer to the same crop under the exemplar's camera than colour moments alone bring it."""
    style, moments = build_style("learned"), LabMoments()
    mask = np.ones((64, 64), bool)
    cameras = {"blurred": SimulatedCamera(blur=1.2), "coarse": SimulatedCamera(shrink=(1.8, 1.8))}
    for name, camera in cameras.items():
        errors = []
        for i, (frame, _) in enumerate(real_held_out_frames(shared_data, every=25)):
            seen = camera(frame)
            content, exemplar, wanted = (
                frame[96:160, 32:96],
                seen[80:176, 112:208],
                seen[96:160, 32:96],
            )
            before = moments(content, mask, wanted, np.random.default_rng(i))
            after = style(before, mask, exemplar, np.random.default_rng(i))
            # Colours are compared after alignment with the target, which the exemplar is not.
            after = moments(after, mask, wanted, np.random.default_rng(i))
            errors.append([np.square(x.astype(float) - wanted).mean() for x in (before, after)])
        before, after = np.mean(errors, 0)
        assert after < 0.95 * before, name
