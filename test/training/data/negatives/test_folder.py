# SPDX-License-Identifier: Apache-2.0
"""Any folder of images with instance masks as a source of objects."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_images import with_orientation

from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.io.images import read_image
from training.data.negatives import FolderObjects, Quality

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    mask = np.zeros((60, 80), np.uint8)
    mask[5:25, 5:30] = 3
    mask[35:55, 40:70] = 7
    mask[0:12, 60:80] = 9  # touches the border
    binary = np.zeros((40, 50), np.uint8)
    binary[10:30, 10:40] = 255
    for name, values in (("a", mask), ("b", binary)):
        pixels = rng.integers(0, 256, (*values.shape, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), pixels)
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), values)
    return tmp_path


def test_every_value_is_an_object(root: Path) -> None:
    source = FolderObjects(root)
    found = [source[i] for i in range(len(source))]
    assert [x.source for x in found] == ["folder a #3", "folder a #7", "folder b #255"]
    assert [x.mask.shape for x in found] == [(20, 25), (20, 30), (20, 30)]
    assert {x.category for x in found} == {"object"}
    whole = read_image(root / "images" / "a.png")
    np.testing.assert_array_equal(found[1].image, whole[35:55, 40:70])
    assert "1 cut off by the border" in source.describe()


def test_known_things_by_override(root: Path) -> None:
    source = FolderObjects(root, "lorry", "only", overrides={"lorry": "truck"})
    assert source[0].category == "truck"
    with pytest.raises(DatasetError, match=r"no usable object left \(4 known class\)"):
        FolderObjects(root, "lorry", overrides={"lorry": "truck"})
    with pytest.raises(ParameterError, match="override 'lory'"):
        FolderObjects(root, "lorry", overrides={"lory": "truck"})


def test_a_category_that_is_a_class_is_known(root: Path) -> None:
    assert FolderObjects(root, "rider", "only")[0].category == "rider"
    with pytest.raises(DatasetError, match=r"no usable object left \(4 known class\)"):
        FolderObjects(root, "rider")
    assert FolderObjects(root, "rider", overrides={"rider": "unknown"})[0].category == "rider"


def test_an_image_and_mask_of_different_size(root: Path) -> None:
    cv2.imwrite(str(root / "masks" / "b.png"), np.full((40, 51), 255, np.uint8))
    with pytest.raises(ImageError, match=r"b\.png: 51x40 pixels, but .*b\.png has 50x40"):
        FolderObjects(root)


def test_255_beside_other_objects_has_to_be_explained(root: Path) -> None:
    path = root / "masks" / "a.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[mask == 7] = 255
    cv2.imwrite(str(path), mask)
    with pytest.raises(DatasetError, match=r"masks/a\.png: holds 255 .*mask_255: ignore"):
        FolderObjects(root)
    kept = FolderObjects(root, mask_255="ignore")
    assert [x.source for x in kept] == ["folder a #3"]
    taken = FolderObjects(root, mask_255="anomaly")
    assert [x.source for x in taken] == ["folder a #3", "folder a #255", "folder b #255"]
    with pytest.raises(ParameterError, match="mask_255: expected one of ignore, anomaly"):
        FolderObjects(root, mask_255="object")


def test_pictures_with_an_orientation(root: Path) -> None:
    """Masks are made for the stored pixels, but for those of the upright size."""
    pixels = cv2.imread(str(root / "images" / "a.png"))
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (root / "images" / "a.png").unlink()
    path = root / "images" / "a.jpg"
    path.write_bytes(with_orientation(data, 6))
    found = FolderObjects(root)[0]
    np.testing.assert_array_equal(found.image, read_image(path, upright=False)[5:25, 5:30])
    mask = cv2.imread(str(root / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(root / "masks" / "a.png"), np.rot90(mask))
    found = FolderObjects(root)[0]
    assert found.mask.shape == (25, 20)
    np.testing.assert_array_equal(found.image, read_image(path)[50:75, 5:25])


def test_unreadable_files(root: Path) -> None:
    path = root / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageError, match=r"images/b\.png: truncated PNG"):
        FolderObjects(root)


def test_a_folder_of_another_shape(root: Path) -> None:
    (root / "masks" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"has no label for b\.png"):
        FolderObjects(root)
    (root / "masks" / "a.png").unlink()
    (root / "masks").rmdir()
    with pytest.raises(DatasetError, match="no folder masks"):
        FolderObjects(root)
    with pytest.raises(DatasetError):
        FolderObjects(root / "absent")


def test_empty_masks(root: Path) -> None:
    for name, size in (("a", (60, 80)), ("b", (40, 50))):
        cv2.imwrite(str(root / "masks" / f"{name}.png"), np.zeros(size, np.uint8))
    with pytest.raises(DatasetError, match=r"no usable object left \(no object is marked\)"):
        FolderObjects(root, quality=Quality(min_area=1))


@pytest.mark.data
def test_single_objects(shared_data: Path) -> None:
    """Each picture is cropped to one object with a margin; most of them are complete."""
    folder = shared_data / "objects" / "val"
    if not folder.is_dir():
        pytest.skip(f"no single objects at {folder}")
    source = FolderObjects(folder)
    count = len(list((folder / "images").iterdir()))
    assert len(source) + sum(source.dropped.values()) == count
    assert len(source) > 0.75 * count
    for i in range(0, len(source), 7):
        found = source[i]
        assert found.image.shape == (*found.mask.shape, 3)
        assert found.mask[[0, -1]].any(1).all()
        assert found.mask[:, [0, -1]].any(0).all()
