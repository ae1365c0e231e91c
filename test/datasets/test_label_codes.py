# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from tiny_images import palette_png

from anomaly_seg_ros.datasets.label_codes import ColourCode, PaletteCode, SegmentCode
from anomaly_seg_ros.errors import ImageError


def test_positions_of_random_colours(put):
    rng = np.random.default_rng(3)
    packed = rng.choice(1 << 24, 255, replace=False)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
    wanted = rng.integers(0, 255, (40, 30))
    path = put("a.png", colours[wanted])
    code = ColourCode(tuple(map(tuple, colours.tolist())))
    read = code.read(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, wanted)


def test_undefined_colours(put):
    path = put("a.png", np.array([[[1, 2, 3], [255, 255, 255], [1, 2, 4], [0, 0, 0]]], np.uint8))
    colours = ((1, 2, 3), (9, 9, 9))
    assert ColourCode(colours, strict=False).read(path).tolist() == [[0, 255, 255, 255]]
    with pytest.raises(ImageError, match=r"a\.png: holds the colour #ffffff, which is no label"):
        ColourCode(colours).read(path)


def test_lossy_files_are_refused(put):
    path = put("a.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="a JPEG cannot hold labels"):
        ColourCode(((0, 0, 0),)).read(path)
    with pytest.raises(ImageError, match="a JPEG cannot hold labels"):
        SegmentCode.of({1: 1}).read(path)


def test_palette_indices(tmp_path):
    indices = np.random.default_rng(4).integers(0, 124, (30, 20), np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(palette_png(indices, np.zeros((124, 3), np.uint8)))
    assert np.array_equal(PaletteCode().read(path), indices)


def test_random_segments(put):
    rng = np.random.default_rng(5)
    ids = rng.choice(1 << 24, 700, replace=False)  # more than a label file has values
    values = rng.integers(0, 81, 700)
    chosen = rng.integers(0, 700, (40, 30))
    pixels = ids[chosen]
    pixels[:3] = 0
    path = put("a.png", np.stack([pixels >> s & 255 for s in (0, 8, 16)], -1).astype(np.uint8))
    code = SegmentCode.of(dict(zip(ids.tolist(), values.tolist(), strict=True)))
    wanted = np.where(pixels == 0, 0, values[chosen])
    read = code.read(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, wanted)
