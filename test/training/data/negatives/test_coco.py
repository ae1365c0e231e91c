# SPDX-License-Identifier: Apache-2.0
"""Which COCO objects become negatives, their pixels, and what a damaged COCO says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_images import with_orientation
from torch.utils.data import DataLoader

from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.io.images import read_image
from training.data.negatives import CocoObjects, JoinedObjects, Quality, indexed

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Edit = Callable[[Callable[[dict], None]], None]


def categories(source: CocoObjects) -> list[str]:
    return [source[i].category for i in range(len(source))]


def test_only_unknown_objects_are_negatives(tiny_coco: Path) -> None:
    # Not the person, the train, the stop sign and the plant. The table meets the cup, which it
    # encloses: the cup is in front, the table is hidden by it only inside its own outline.
    assert categories(CocoObjects(tiny_coco)) == ["dog", "dining table", "cup"]


def test_known_objects_come_with_their_target_class(tiny_coco: Path) -> None:
    assert categories(CocoObjects(tiny_coco, known="only")) == ["person", "train", "traffic sign"]


def test_overrides_change_the_table(tiny_coco: Path) -> None:
    overrides = {"train": "unknown", "dog": "unclear"}
    assert "train" in categories(CocoObjects(tiny_coco, overrides=overrides))
    assert "dog" not in categories(CocoObjects(tiny_coco, overrides=overrides))
    with pytest.raises(ParameterError, match="override 'trian': coco has no such class"):
        CocoObjects(tiny_coco, overrides={"trian": "train"})


def test_pixels_and_mask_are_the_objects_box(tiny_coco: Path) -> None:
    found = CocoObjects(tiny_coco)[0]
    whole = read_image(tiny_coco / "train2017" / "one.png")
    assert found.source == "coco one #100"
    assert found.mask.shape == (30, 20)
    assert found.mask.dtype == bool
    assert found.mask.all()
    np.testing.assert_array_equal(found.image, whole[10:40, 10:30])


def test_description_shows_the_table_and_the_drops(tiny_coco: Path) -> None:
    text = CocoObjects(tiny_coco, quality=Quality(min_area=650)).describe()
    assert "stop sign -> traffic sign" in text
    assert "potted plant" in text
    assert "1 unknown objects in 1 images" in text  # the table; dog 600 and cup 400 pixels
    assert "3 known class" in text
    assert "2 too small" in text


def test_crowds_are_dropped(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content["annotations"][0].update(iscrowd=1))
    # Crowds have run-length-coded masks, here a rectangle in column order.
    counts = [10 * 60 + 10, *([30, 30] * 19), 30, (80 - 30) * 60 + 20]
    edit_annotations(
        lambda content: content["annotations"][0].update(
            segmentation={"size": [60, 80], "counts": counts}
        )
    )
    assert "dog" not in categories(CocoObjects(tiny_coco))
    kept = CocoObjects(tiny_coco, quality=Quality(crowds=True))
    assert categories(kept)[0] == "dog"
    assert kept[0].mask.shape == (30, 20)


def test_works_in_loader_workers(tiny_coco: Path) -> None:
    source = CocoObjects(tiny_coco)
    loaded = list(DataLoader(source, batch_size=None, num_workers=2))
    assert len(loaded) == len(source)
    for i, found in enumerate(loaded):
        assert found.source == source[i].source
        np.testing.assert_array_equal(found.image, source[i].image)


def test_a_pickle_leaves_the_cache_behind(tiny_coco: Path) -> None:
    source = CocoObjects(tiny_coco)
    first = source[0]
    assert source[0] is first
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._kept.kept
    np.testing.assert_array_equal(copy[0].image, first.image)


def test_the_cache_keeps_to_its_size(tiny_coco: Path) -> None:
    sizes = [
        x.image.nbytes + x.mask.nbytes for x in map(CocoObjects(tiny_coco).__getitem__, range(3))
    ]
    source = CocoObjects(tiny_coco, cache_mib=(sizes[1] + sizes[2]) / 2**20)
    for i in (0, 1, 2):
        source[i]
    assert list(source._kept.kept) == [1, 2]
    assert source._kept.used == sizes[1] + sizes[2]


def test_joined_sources_keep_their_order(tiny_coco: Path) -> None:
    one, two = CocoObjects(tiny_coco), CocoObjects(tiny_coco, known="only")
    joined = JoinedObjects([one, two])
    assert len(joined) == 6
    expected = categories(one) + categories(two)
    assert [joined[i].category for i in range(6)] == expected
    text = joined.describe()
    assert text == f"50.0% of the draws: {one.describe()}\n50.0% of the draws: {two.describe()}"
    with pytest.raises(IndexError):
        joined[6]


def test_nothing_left(tiny_coco: Path) -> None:
    overrides = dict.fromkeys(("dog", "cup", "dining table"), "unclear")
    with pytest.raises(DatasetError, match=r"no usable object left \(.*4 unclear class"):
        CocoObjects(tiny_coco, overrides=overrides)
    with pytest.raises(DatasetError, match=r"no usable object left \(.*3 too small"):
        CocoObjects(tiny_coco, quality=Quality(min_area=10**6))


def test_missing_files(tiny_coco: Path) -> None:
    with pytest.raises(DatasetError, match=r"instances_val2017.json: no such file; expected ROOT"):
        CocoObjects(tiny_coco, "val2017")
    (tiny_coco / "train2017" / "two.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 images with objects are missing.*two\.png"):
        CocoObjects(tiny_coco)


def test_missing_image_folder(tiny_coco: Path) -> None:
    (tiny_coco / "train2017").rename(tiny_coco / "elsewhere")
    with pytest.raises(DatasetError, match=r"train2017: no such folder"):
        CocoObjects(tiny_coco)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"images": [{"file_name": "o', "not JSON .*cut short"),
        ("\\u00e9", "not JSON"),
        ("[" * 100_000, "not JSON .nested too deeply"),
        ("[]", "not in COCO's format"),
        ('{"annotations": [1], "images": {"a": 1}, "categories": [1]}', "not in COCO's format"),
        ('{"annotations": [1], "images": [1], "categories": [1]}', "images: 1 has no file_name"),
        ('{"annotations": [], "images": [], "categories": []}', "no images"),
    ],
)
def test_damaged_annotation_files(tiny_coco: Path, content: str, message: str) -> None:
    (tiny_coco / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(DatasetError, match=f"instances_train2017.json: {message}"):
        CocoObjects(tiny_coco)


@pytest.mark.parametrize("size", [0, -60, None, "60", 60.5, 10**6, float("inf")])
def test_sizes_that_are_none(tiny_coco: Path, edit_annotations: Edit, size: object) -> None:
    edit_annotations(lambda content: content["images"][0].update(height=size, width=10**4))
    with pytest.raises(DatasetError, match=r"train2017\.json: images: 1: "):
        CocoObjects(tiny_coco)


def test_no_annotations(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content.update(annotations=[]))
    with pytest.raises(DatasetError, match=r"train2017\.json: no annotations"):
        CocoObjects(tiny_coco)


@pytest.mark.parametrize(
    ("part", "key"), [("images", "height"), ("images", "file_name"), ("categories", "name")]
)
def test_an_entry_without_a_key(
    tiny_coco: Path, edit_annotations: Edit, part: str, key: str
) -> None:
    edit_annotations(lambda content: content[part][0].pop(key))
    with pytest.raises(DatasetError, match=rf"train2017\.json: {part}: 1 has no {key}"):
        CocoObjects(tiny_coco)


def test_numbers_and_texts_as_ids(tiny_coco: Path, edit_annotations: Edit) -> None:
    def rename(content: dict) -> None:
        dog, _, _, _, cup, *_ = content["annotations"]
        dog["id"] = "dog"
        content["images"][0]["id"] = "one"
        for annotation in content["annotations"][:3]:
            annotation["image_id"] = "one"
        cup["id"] = "99"

    edit_annotations(rename)
    source = CocoObjects(tiny_coco)
    # Numbers first.
    assert [source[i].source for i in range(3)] == [
        "coco two #103",
        "coco two #99",
        "coco one #dog",
    ]


def test_numbers_are_in_the_order_of_their_values(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content["annotations"][3].update(id=1000))
    source = CocoObjects(tiny_coco)
    assert [source[i].source for i in range(3)] == [
        "coco one #100",
        "coco two #104",
        "coco two #1000",
    ]


def test_objects_of_somebodys_own_data_with_names_of_the_classes(
    tiny_coco: Path, edit_annotations: Edit
) -> None:
    edit_annotations(lambda content: content["categories"][1].update(name="Rider"))
    assert categories(CocoObjects(tiny_coco)) == ["dining table", "cup"]
    assert categories(CocoObjects(tiny_coco, known="only"))[0] == "rider"
    pasted = CocoObjects(tiny_coco, overrides={"Rider": "unknown"})
    assert categories(pasted)[0] == "Rider"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable image"),
        (b"version https://git-lfs.github.com/spec/v1", "not a readable image"),
        (cv2.imencode(".png", np.zeros((61, 80, 3), np.uint8))[1].tobytes(), "80x61 pixels, but"),
        (cv2.imencode(".jpg", np.zeros((80, 60, 3), np.uint8))[1].tobytes(), "60x80 pixels, but"),
    ],
    ids=["empty", "pointer", "another size", "turned without EXIF"],
)
def test_headers_are_looked_at_before_the_training(
    tiny_coco: Path, content: bytes, message: str
) -> None:
    for _ in ("without an index", "with the one of the first time"):
        (tiny_coco / "train2017" / "one.png").write_bytes(content)
        with pytest.raises(ImageError, match=rf"one\.png: {message}"):
            CocoObjects(tiny_coco)


def test_of_many_images_some_headers_are_looked_at(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are compared when they are used, before they could do harm."""
    monkeypatch.setattr(indexed, "_HEADERS", 1)
    wrong = cv2.imencode(".png", np.zeros((61, 80, 3), np.uint8))[1].tobytes()
    (tiny_coco / "train2017" / "two.png").write_bytes(wrong)
    source = CocoObjects(tiny_coco)
    assert source[0].category == "dog"
    with pytest.raises(ImageError, match=r"two\.png: 80x61 pixels, but its annotation is for"):
        source[1]
    (tiny_coco / "train2017" / "one.png").write_bytes(wrong)
    with pytest.raises(ImageError, match=r"one\.png: 80x61 pixels"):
        CocoObjects(tiny_coco)


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_ignored_as_annotations_do(
    tiny_coco: Path, edit_annotations: Edit, orientation: int
) -> None:
    edit_annotations(lambda content: content["images"][0].update(file_name="one.jpg"))
    pixels = cv2.imread(str(tiny_coco / "train2017" / "one.png"))
    path = tiny_coco / "train2017" / "one.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", pixels)[1].tobytes(), orientation))
    found = CocoObjects(tiny_coco)[0]
    np.testing.assert_array_equal(found.image, read_image(path, upright=False)[10:40, 10:30])


def test_a_file_that_was_annotated_upright(tiny_coco: Path, edit_annotations: Edit) -> None:
    """As tools do that show the picture turned: the size says so."""
    edit_annotations(
        lambda content: content["images"][0].update(file_name="one.jpg", height=80, width=60)
    )
    pixels = cv2.imread(str(tiny_coco / "train2017" / "one.png"))
    path = tiny_coco / "train2017" / "one.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", pixels)[1].tobytes(), 6))
    found = CocoObjects(tiny_coco)[0]
    np.testing.assert_array_equal(found.image, read_image(path)[10:40, 10:30])


def test_pixels_behind_a_long_header(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content["images"][0].update(file_name="one.jpg"))
    pixels = read_image(tiny_coco / "train2017" / "one.png")
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    profile = b"\xff\xe2\xff\xff" + b"\0" * 0xFFFD
    (tiny_coco / "train2017" / "one.jpg").write_bytes(data[:2] + 2 * profile + data[2:])
    assert CocoObjects(tiny_coco)[0].source == "coco one #100"


def test_unreadable_and_mismatched_images(tiny_coco: Path) -> None:
    source = CocoObjects(tiny_coco)
    path = tiny_coco / "train2017" / "one.png"
    cv2.imwrite(str(path), np.zeros((61, 80, 3), np.uint8))
    with pytest.raises(
        ImageError, match=r"one.png: 80x61 pixels, but its annotation is for 80x60"
    ):
        source[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"one.png: truncated PNG"):
        source[0]


def test_a_bad_kind(tiny_coco: Path) -> None:
    with pytest.raises(ParameterError, match="known: expected one of exclude, only, got 'both'"):
        CocoObjects(tiny_coco, known="both")


@pytest.mark.data
def test_real_coco(shared_data: Path) -> None:
    source = CocoObjects(shared_data / "coco", "val2017")
    seen = {source[i].category for i in range(len(source))}
    assert len(source) >= 50
    assert not seen & {"person", "train", "car", "stop sign"}
    for i in range(len(source)):
        found = source[i]
        assert found.image.shape == (*found.mask.shape, 3)
        assert found.mask.sum() >= 200
        # The box is tight.
        assert found.mask[[0, -1]].any(1).all()
        assert found.mask[:, [0, -1]].any(0).all()
