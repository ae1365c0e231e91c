# SPDX-License-Identifier: Apache-2.0
"""Tiles: their layout, equality with one pass, and networks that do not fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_metadata
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.preprocessing import Framing
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.inference.tiling import row_bands, run_in_tiles, spans

RADIUS = 30  # pixels from an input to the furthest output that it changes; measured below


class LocalNetwork(SegmentationNetwork):
    """Strided, dilated and resampling layers, and no pooling over the image; logits at stride 4.

    Args:
        pooled: Adds the image's mean to every pixel, as DeepLab's image branch does.
    """

    num_classes = 19
    output_stride = 4
    size_multiple = 8
    pre_logits_channels = 8

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.classifier = nn.Conv2d(8, 19, 1)
        self.outlier_head = nn.Conv2d(8, 2, 1)
        self.pooled = pooled
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> NetworkOutput:
        self.seen.append(tuple(images.shape[-2:]))
        skip = self.down(self.stem(images).relu()).relu()
        deep = self.wide(self.deep(skip).relu())
        x = skip + F.interpolate(deep, skip.shape[-2:], mode="bilinear")
        if self.pooled:
            x = x + images.mean()
        return NetworkOutput(x, self.classifier(x), self.outlier_head(x))


def tiled(tile: tuple[int, int], overlap: int, multiple: int = 8) -> Framing:
    return Framing("tiled", None, False, tile, overlap, multiple, tile)


def in_tiles(
    network: Callable[[Tensor], NetworkOutput], image: Tensor, framing: Framing
) -> NetworkOutput:
    return run_in_tiles(
        lambda rows, columns: network(image[..., rows, columns]), image.shape[-2:], framing
    )


def noise(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)


@given(
    multiple=st.sampled_from([1, 8, 14, 32]),
    units=st.integers(1, 40),
    tile_units=st.integers(1, 12),
    data=st.data(),
)
def test_spans_cover_the_axis_once(multiple, units, tile_units, data):
    length, tile = units * multiple, tile_units * multiple
    overlap = data.draw(st.integers(0, tile - multiple))
    found = spans(length, tile, overlap, multiple)
    kept = [pixel for s in found for pixel in range(s.keep_start, s.keep_stop)]
    assert kept == list(range(length))
    for span in found:
        assert 0 <= span.start <= span.keep_start < span.keep_stop <= span.stop <= length
        assert span.stop - span.start == min(tile, length)
        assert span.start % multiple == 0
    for left, right in itertools.pairwise(found):
        assert left.stop - right.start >= overlap
        # The cut keeps half the overlap away from both tiles' borders.
        assert min(left.stop - left.keep_stop, right.keep_start - right.start) >= overlap // 2
    # None could be left out: fewer tiles would not reach the end.
    step = (tile - overlap) // multiple * multiple
    assert len(found) == 1 or tile + (len(found) - 2) * step < length


def test_the_last_tile_ends_with_the_frame():
    assert [(s.start, s.stop) for s in spans(1088, 768, 128, 32)] == [(0, 768), (320, 1088)]
    assert [(s.start, s.stop) for s in spans(1920, 768, 128, 32)] == [
        (0, 768), (576, 1344), (1152, 1920)
    ]  # fmt: skip


@torch.no_grad()
def test_radius_of_the_test_network():
    network, image = LocalNetwork(), noise(160, 160)
    other = image.clone()
    other[..., 80, 80] += 100.0
    changed = (network(image).logits - network(other).logits).abs().amax(1)[0] > 0
    cells = changed.nonzero()
    # Distance in pixels of the furthest edge of a changed cell.
    reach = max((4 * (cells.max() + 1) - 80).item(), (81 - 4 * cells.min()).item())
    assert 16 < reach <= RADIUS


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 200), (184, 136), (96, 96), (48, 160)])
def test_equals_one_pass_where_half_the_overlap_covers_the_radius(size):
    network, image = LocalNetwork(), noise(*size)
    whole = network(image)
    network.seen.clear()
    stitched = in_tiles(network, image, tiled((96, 80), 2 * RADIUS))
    torch.testing.assert_close(stitched.logits, whole.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(stitched.ood_logits, whole.ood_logits, rtol=0, atol=1e-5)
    assert len(network.seen) > 1 or size == (96, 96) or size[0] < 96
    assert all(h <= 96 and w <= 80 for h, w in network.seen)


@torch.no_grad()
def test_smaller_overlap_differs_at_the_seams_only():
    network, image = LocalNetwork(), noise(192, 192)
    layout = tiled((96, 96), 16)
    difference = in_tiles(network, image, layout).logits - network(image).logits
    difference = difference.abs().amax(1)[0]
    found = spans(192, 96, 16, 8)
    cuts = np.array([s.keep_stop for s in found[:-1]])
    # Nothing wrong reaches further from a cut than the radius less half the overlap.
    centres = 4 * np.arange(48) + 2
    away = np.abs(centres[:, None] - cuts).min(1) > RADIUS - 16 // 2 + 4
    interior = torch.from_numpy(away[:, None] & away[None])
    assert interior.sum() > 100
    assert difference[interior].max() < 1e-5
    assert difference.max() > 1e-3


@torch.no_grad()
def test_pooling_over_the_image_differs_everywhere():
    network, image = LocalNetwork(pooled=True), noise(160, 96)
    difference = in_tiles(network, image, tiled((96, 96), 64)).logits - network(image).logits
    assert difference.abs().amax(1).min() > 1e-5


@torch.no_grad()
def test_one_tile_is_one_pass():
    network, image = LocalNetwork(), noise(64, 72)
    stitched = in_tiles(network, image, tiled((64, 96), 32))
    assert torch.equal(stitched.logits, network(image).logits)


@torch.no_grad()
def test_networks_without_an_outlier_head():
    network = LocalNetwork()

    def without(part: Tensor) -> NetworkOutput:
        return network(part)._replace(ood_logits=None)

    assert in_tiles(without, noise(128, 96), tiled((96, 96), 32)).ood_logits is None


def test_logits_off_the_grid_are_refused():
    def odd(part: Tensor) -> NetworkOutput:
        logits = F.interpolate(part, (part.shape[-2] // 4 + 1, part.shape[-1] // 4 + 1))
        return NetworkOutput(part, logits)

    with pytest.raises(ParameterError, match="96 x 96 with 25 x 25"):
        in_tiles(odd, noise(128, 96), tiled((96, 96), 32))


@pytest.mark.parametrize("height", [1, 5, 16, 100])
def test_bands_change_nothing(height):
    logits = torch.randn(1, 19, 16, 24, generator=torch.Generator().manual_seed(0))
    output = NetworkOutput(torch.empty(0), logits, logits[:, :2])
    bands = list(row_bands(output, height))
    assert torch.equal(torch.cat([b.logits for b in bands], 2), logits)
    assert torch.equal(torch.cat([b.ood_logits for b in bands], 2), logits[:, :2])
    assert max(b.logits.shape[2] for b in bands) <= height


@pytest.mark.parametrize("size", [(128, 200), (133, 197)])
def test_predictions_equal_those_at_full_resolution(size):
    """Labels, confidence and scores, on frames that need padding and on frames that do not."""
    metadata, image = tiny_metadata(outlier_head=True), frame(*size)
    full = Segmenter(LocalNetwork(), metadata, device="cpu", inference_mode="full")
    parts = Segmenter(
        LocalNetwork(), metadata, device="cpu",
        inference_mode="tiled", tile_size=(96, 96), tile_overlap=2 * RADIUS,
    )  # fmt: skip
    names = full.available_scores
    assert "dense_hybrid" in names
    a, b = full.predict(image, names), parts.predict(image, names)
    assert a.labels.shape == b.labels.shape == size
    # Equal up to rounding, which may decide between two classes that tie.
    assert (a.labels == b.labels).mean() > 0.9999
    assert np.abs(a.confidence.astype(int) - b.confidence).max() <= 1
    for name in names:
        np.testing.assert_allclose(a.scores[name], b.scores[name], rtol=1e-4, atol=1e-5)


def test_tiles_over_a_resized_frame():
    """The stitched result is that of one pass at the same inference size."""
    metadata, image = tiny_metadata(outlier_head=True), frame(150, 333)
    one = Segmenter(LocalNetwork(), metadata, device="cpu", inference_size=(128, 256))
    parts = Segmenter(
        LocalNetwork(), metadata, device="cpu", inference_size=(128, 256),
        inference_mode="tiled", tile_size=(96, 96), tile_overlap=2 * RADIUS,
    )  # fmt: skip
    a, b = one.predict(image, ("energy",)), parts.predict(image, ("energy",))
    assert (a.labels == b.labels).mean() > 0.9999
    np.testing.assert_allclose(a.scores["energy"], b.scores["energy"], rtol=1e-4, atol=1e-5)
    assert set(parts._runner._network.network.seen) == {(96, 96)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile_size": (100, 96)}, "tile size 100 x 96.*multiples of 8.*96 x 96"),
        ({"tile_size": (96, 96), "tile_overlap": 89}, "tile overlap 89: expected 0 to 88"),
        ({"tile_overlap": -1}, "tile overlap -1"),
        ({"tile_size": (0, 96)}, "tile size 0 x 96"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ParameterError, match=words):
        Segmenter(LocalNetwork(), tiny_metadata(), device="cpu", inference_mode="tiled", **options)
