# SPDX-License-Identifier: Apache-2.0
"""Maps and labels at the frame's size, beside torch's own interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anomaly_seg_ros.inference import upsampling
from anomaly_seg_ros.inference.upsampling import plane_argmax, upsampled, upsampled_argmax


def smooth_logits(classes: int, rows: int, columns: int, seed: int) -> Tensor:
    """(1, K, rows, columns): a few noisy regions, so that most neighbours have one class."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, rows // 4 + 2, columns // 4 + 2, generator=generator)
    noise = torch.randn(1, classes, rows, columns, generator=generator)
    return 5 * F.interpolate(coarse, (rows, columns), mode="bicubic") + 0.3 * noise


def interpolated(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """In float64: the reference has no rounding of its own to speak of."""
    return F.interpolate(logits.double(), size, mode="bilinear", align_corners=False)[0]


def assert_labels(found: Tensor, logits: Tensor, size: tuple[int, int]) -> None:
    """The label's logit is the largest but for rounding; elsewhere it is *the* argmax."""
    large = interpolated(logits, size)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, size)
    top = large.topk(min(2, len(large)), 0)
    clear = torch.ones(size, dtype=torch.bool)
    if len(large) > 1:
        clear = top.values[0] - top.values[1] > 1e-5
    assert torch.equal(found[clear].long(), top.indices[0][clear])
    chosen = large.gather(0, found[None].long())[0]
    assert (top.values[0] - chosen).max() <= 1e-5


@settings(deadline=None)
@given(
    classes=st.integers(1, 21),
    rows=st.integers(1, 17),
    columns=st.integers(1, 23),
    scale=st.sampled_from([1, 2, 3, 4, 6, 8, 16]),
    seed=st.integers(0, 2**31),
)
def test_argmax_is_that_of_interpolated_logits(classes, rows, columns, scale, seed):
    logits = smooth_logits(classes, rows, columns, seed)
    size = (rows * scale, columns * scale)
    assert_labels(upsampled_argmax(logits, size), logits, size)


@settings(deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    band=st.none() | st.integers(1, 12),
)
def test_argmax_at_any_size(rows, columns, height, width, band):
    """Also where there are fewer pixels than logits, and where the scales differ."""
    logits = smooth_logits(7, rows, columns, 100 * rows + columns)
    assert_labels(upsampled_argmax(logits, (height, width), band), logits, (height, width))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(64, 96), (48, 72), (40, 60)])
def test_half_precision_logits_are_interpolated_in_float32(dtype, size):
    """Otherwise many pixels between two classes would tie and get the lower number."""
    logits = smooth_logits(19, 16, 24, 0).to(dtype)
    assert_labels(upsampled_argmax(logits, size), logits.float(), size)


@pytest.mark.parametrize("height", [None, 1, 5, 16, 100])
@pytest.mark.parametrize("scale", [3, 4])
def test_bands_change_nothing(height, scale, monkeypatch):
    logits = smooth_logits(19, 16, 24, 1)
    size = (16 * scale, 24 * scale)
    whole = upsampled_argmax(logits, size, 16)
    monkeypatch.setattr(upsampling, "_BAND", 19 * scale * size[1] * 3)  # three rows of logits
    monkeypatch.setattr(upsampling, "_CHUNK", 40)
    assert torch.equal(upsampled_argmax(logits, size, height), whole)


def test_logits_of_any_memory_order():
    logits = smooth_logits(19, 16, 24, 2)
    for other in (logits.to(memory_format=torch.channels_last), logits.flip(3).flip(3)):
        assert torch.equal(upsampled_argmax(other, (64, 96)), upsampled_argmax(logits, (64, 96)))


def test_aligned_corners():
    logits = smooth_logits(19, 16, 24, 3)
    expected = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=True).argmax(1)[0]
    found = upsampled_argmax(logits, (64, 96), align_corners=True)
    assert torch.equal(found, expected.to(torch.uint8))
    assert not torch.equal(found, upsampled_argmax(logits, (64, 96)))


def test_plane_argmax_takes_the_first_of_equals():
    planes = np.random.default_rng(0).integers(0, 4, (256, 70_001)).astype(np.float32)
    np.testing.assert_array_equal(plane_argmax(planes), planes.argmax(0))
    assert plane_argmax(planes[::-1]).dtype == np.uint8


@settings(deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    align_corners=st.booleans(),
)
def test_maps_are_torchs(rows, columns, height, width, align_corners):
    score = smooth_logits(1, rows, columns, rows + 31 * columns)[0]
    expected = F.interpolate(
        score[None].double(), (height, width), mode="bilinear", align_corners=align_corners
    )[0, 0]
    found = upsampled(score, (height, width), align_corners)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
