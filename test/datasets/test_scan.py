from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets.scan import stored_values
from anomaly_seg_ros.errors import ImageError


def test_values_of_files_in_order(put):
    rng = np.random.default_rng(1)
    images = [rng.choice([0, 1, 18, 254, 255], (9, 7)).astype(np.uint8) for _ in range(20)]
    images.append(np.arange(256, dtype=np.uint8).reshape(16, 16))
    paths = [put(f"{i}.png", image) for i, image in enumerate(images)]
    assert stored_values(paths) == [frozenset(image.ravel().tolist()) for image in images]
    assert stored_values([]) == []


def test_a_damaged_file_is_named(put):
    good, bad = put("a.png", np.zeros((4, 6), np.uint8)), put("b.png", np.zeros((4, 6), np.uint8))
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"b\.png: truncated PNG"):
        stored_values([good, bad])
