# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: its cells show what the styles return, at the place that is marked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.contact_sheet import _CELL, contact_sheet, main
from training.data.corpora import Corpus
from training.data.negatives import NegativeObject

PINK = (250, 20, 200)


class OneObject:
    """An object of 40x30 pixels of one colour."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> NegativeObject:
        mask = np.ones((40, 30), bool)
        return NegativeObject(np.full((40, 30, 3), (10, 200, 30), np.uint8), mask, "x", "x #1")

    def describe(self) -> str:
        return "one object"


def paint_pink(
    image: np.ndarray, mask: np.ndarray, exemplar: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    assert exemplar.shape == (128, 256, 3)
    return np.full_like(image, PINK)


@pytest.fixture
def frame() -> Corpus:
    labels = np.full((128, 256), 255, np.uint8)
    labels[60:] = 0
    return Corpus.of_arrays("frame", [np.full((128, 256, 3), 90, np.uint8)], [labels])


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def test_cells_show_the_object_before_and_after(frame: Corpus) -> None:
    styles = {"none": None, "pink": paint_pink}
    sheet = contact_sheet(OneObject(), [frame], (0, 1), styles, rows=1, seed=1)
    first, before, after = (
        sheet[28:, 6 + k * (_CELL + 6) : 6 + k * (_CELL + 6) + _CELL] for k in range(3)
    )
    assert count(first, PINK) == count(before, PINK) == 0
    assert count(first, (10, 200, 30)) == count(after, (10, 200, 30)) == 0
    # The same place and size before and after; cut out above, pasted below.
    assert count(before, (10, 200, 30)) == count(after, PINK)
    for half in (slice(None, _CELL), slice(_CELL, None)):
        assert count(after[half], PINK) > 400
    outline = first[..., 1].astype(int) - first[..., 0] > 50  # cyan on grey, shrunk to the cell
    assert outline[:_CELL].sum() > 10
    assert not outline[_CELL:].any()


def test_the_seed_decides(frame: Corpus) -> None:
    styles = {"pink": paint_pink}
    one, again, other = (
        contact_sheet(OneObject(), [frame], (0, 1), styles, rows=1, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()


def test_a_missing_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 1
    assert "contact_sheet: error:" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "x.png"), "--objects", "0"]
    assert main(arguments) == 1
    assert "--objects: expected 1 or more, got 0" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_on_real_data(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    arguments = ["--data", str(shared_data), "--out", str(out), "--objects", "2"]
    data = (
        "data={taxonomy: cityscapes, train: {x: {root: cityscapes}}, "
        "objects: {y: {root: coco, train_split: val2017}}}"
    )
    assert main([*arguments, "--styles", "none", "fourier", "--set", data]) == 0
    assert cv2.imread(str(out)).shape == (28 + 6 + 2 * (2 * _CELL + 6), 6 + 3 * (_CELL + 6), 3)
