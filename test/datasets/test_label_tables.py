from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets.label_tables import ColourCode
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
