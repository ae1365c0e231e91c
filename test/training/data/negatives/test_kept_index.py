# SPDX-License-Identifier: Apache-2.0
"""The selection of an earlier run is used as long as nothing has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import DatasetError
from training.data import cache
from training.data.negatives import CocoObjects, Quality, coco

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Edit = Callable[[Callable[[dict], None]], None]


def kept() -> list[Path]:
    return list((cache.cache_folder() / "objects").glob("*"))


def categories(source: CocoObjects) -> list[str]:
    return [source[i].category for i in range(len(source))]


def same_objects(one: CocoObjects, other: CocoObjects) -> None:
    assert one.describe() == other.describe()
    for i in range(len(one)):
        assert one[i].source == other[i].source
        assert one[i].category == other[i].category
        np.testing.assert_array_equal(one[i].mask, other[i].mask)
        np.testing.assert_array_equal(one[i].image, other[i].image)


def test_the_index_of_an_earlier_run_is_used(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CocoObjects(tiny_coco)
    monkeypatch.setattr(coco, "CocoFile", None)  # the annotations are not read again
    same_objects(CocoObjects(tiny_coco), first)
    monkeypatch.chdir(tiny_coco.parent)
    same_objects(CocoObjects(tiny_coco.relative_to(tiny_coco.parent).resolve()), first)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"known": "only"}, ["person", "train", "traffic sign"]),
        ({"overrides": {"dog": "unclear"}}, ["dining table", "cup"]),
        ({"quality": Quality(min_area=500)}, ["dog", "dining table"]),
    ],
)
def test_an_index_of_other_options_is_made_anew(
    tiny_coco: Path, changes: dict, expected: list[str]
) -> None:
    CocoObjects(tiny_coco)
    assert categories(CocoObjects(tiny_coco, **changes)) == expected
    assert len(kept()) == 2


def test_an_index_of_other_annotations_is_made_anew(
    tiny_coco: Path, edit_annotations: Edit
) -> None:
    CocoObjects(tiny_coco)
    edit_annotations(lambda content: content["annotations"].pop(0))
    assert categories(CocoObjects(tiny_coco)) == ["dining table", "cup"]
    assert len(kept()) == 1


def test_annotations_of_the_same_size_and_another_time(tiny_coco: Path) -> None:
    CocoObjects(tiny_coco)
    path = tiny_coco / "annotations" / "instances_train2017.json"
    text = path.read_text()
    state = path.stat()
    path.write_text(text.replace('"dog"', '"bus"'))
    assert path.stat().st_size == state.st_size
    # Also an older time: a copy of a backup.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - 10**9))
    assert categories(CocoObjects(tiny_coco)) == ["dining table", "cup"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"text"])
def test_a_damaged_index_is_made_anew(tiny_coco: Path, content: bytes) -> None:
    first = CocoObjects(tiny_coco)
    (path,) = kept()
    whole = path.read_bytes()
    path.write_bytes(content)
    same_objects(CocoObjects(tiny_coco), first)
    assert len(path.read_bytes()) == len(whole)


def test_images_that_went_missing_since_the_index_was_made(tiny_coco: Path) -> None:
    CocoObjects(tiny_coco)
    (tiny_coco / "train2017" / "two.png").unlink()
    with pytest.raises(DatasetError, match="1 of 2 images with objects are missing"):
        CocoObjects(tiny_coco)


def test_without_a_place_for_the_index(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = CocoObjects(tiny_coco)
    (tiny_coco / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tiny_coco / "file"))
    same_objects(CocoObjects(tiny_coco), first)
    assert len(caplog.records) == 1
    assert "not cached" in caplog.text


def test_a_disk_that_fills_while_the_index_is_written(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: object, **arrays: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(CocoObjects(tiny_coco)) == 3
    assert kept() == []
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
