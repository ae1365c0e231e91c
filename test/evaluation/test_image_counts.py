# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.image_counts import ImageCounts, ImageCountsCollector
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

IMAGES = 6


def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    mask = rng.choice([0, 1, 255], (20, 30), p=[0.8, 0.1, 0.1]).astype(np.uint8)
    # Signs, ties and magnitudes from 1e-6 to 1e3.
    raw = rng.normal(size=mask.shape) * 10.0 ** rng.integers(-6, 3, mask.shape)
    raw[:4] = 0
    return raw.astype(np.float32), mask


def collected(indices: list[int]) -> tuple[ImageCountsCollector, PixelScores]:
    collector, pixels = ImageCountsCollector(), PixelScores()
    for index in indices:
        raw, mask = frame(index)
        collector.add(index, "msp", raw, mask)
        pixels.update(raw, mask, f"f{index}")
    return collector, pixels


def finished(collector: ImageCountsCollector, pixels: PixelScores) -> ImageCounts:
    names = {index: f"f{index}" for index in range(IMAGES)}
    return collector.finish(names, {"msp": pixels.frames})


def test_counts_are_histograms_of_each_image(tmp_path: Path) -> None:
    finished(*collected(list(range(IMAGES)))).save(tmp_path / "c.npz")
    counts = ImageCounts.load(tmp_path / "c.npz")
    assert counts.names == tuple(f"f{index}" for index in range(IMAGES))
    assert counts.scores == ("msp",)
    values = counts.bin_values("msp")
    assert (np.diff(values) > 0).all()
    tables = counts.counts("msp")
    assert all(table.dtype == np.int64 for table in tables)
    for index in range(IMAGES):
        raw, mask = frame(index)
        for table, kind in zip(tables, (1, 0), strict=True):
            pixels = raw[mask == kind]
            assert table[index].sum() == pixels.size
            # A bin's value is that of its middle: within 1/256 of every score in it.
            again = np.repeat(values, table[index])
            np.testing.assert_allclose(again, np.sort(pixels), rtol=1 / 200, atol=1e-38)


def test_merging_and_states_change_nothing(tmp_path: Path) -> None:
    whole = finished(*collected(list(range(IMAGES))))
    first, first_pixels = collected([4, 0, 2])
    second, second_pixels = collected([5, 3, 1])
    first.merge(ImageCountsCollector.from_state(second.state()))
    first_pixels.merge(second_pixels)
    whole.save(tmp_path / "whole.npz")
    finished(first, first_pixels).save(tmp_path / "merged.npz")
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "merged.npz").read_bytes()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for content in (b"", b"nothing"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"c\.npz"):
            ImageCounts.load(path)
    np.savez(path, **{"msp.bins": np.zeros(1)})
    with pytest.raises(OutputError, match=r"c\.npz"):
        ImageCounts.load(path)
    with pytest.raises(OutputError, match=r"gone\.npz"):
        ImageCounts.load(tmp_path / "gone.npz")
