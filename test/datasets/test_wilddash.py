# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset, open_dataset
from anomaly_seg_ros.datasets.wilddash import WildDashDataset
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.taxonomy import load_taxonomy

CITYSCAPES = load_taxonomy("cityscapes").classes

# Names of the 81 ids in order, each with the Cityscapes class that the unified label policy of
# ozendelait/wilddash_scripts gives it; "" are void classes of Cityscapes.
POLICY = """
unlabeled, egovehicle, overlay, outofroi, static, dynamic, ground, road: road,
sidewalk: sidewalk, parking, railtrack, building: building, wall: wall, fence: fence, guardrail,
bridge, tunnel, pole: pole, polegroup, trafficlight: traffic light, trafficsign: traffic sign,
vegetation: vegetation, terrain: terrain, sky: sky, person: person, rider: rider, car: car,
truck: truck, bus: bus, caravan, trailer, onrails: train, motorcycle: motorcycle,
bicycle: bicycle, pickup: truck, van: car, billboard, streetlight, roadmarking: road, junctionbox,
mailbox, manhole: road, phonebooth, pothole: road, bikerack, trafficsignframe: pole,
utilitypole: pole, motorcyclist: rider, bicyclist: rider, otherrider: rider, bird, groundanimal,
curb: sidewalk, trafficsignany, trafficsignback, trashcan, otherbarrier: wall, othervehicle,
autorickshaw: motorcycle, bench, mountain, tramtrack: road, wheeledslow, boat, bikelane: road,
bikelanesidewalk: sidewalk, banner, dashcammount, water, sand, pedestrianarea: road, firehydrant,
cctvcamera, snow, catchbasin: road, crosswalkplain: road, crosswalkzebra: road,
manholesidewalk: sidewalk, curbterrain: terrain, servicelane: road, curbcut: sidewalk
"""
TARGETS = [entry.partition(": ")[2].strip() for entry in POLICY.replace("\n", " ").split(",")]
TRAIN_IDS = np.array([CITYSCAPES.index(x) if x else 255 for x in TARGETS])

# Every id once, and one more pixel of the first.
IDS = (np.arange(88) % 81).reshape(8, 11)
IMAGE = np.zeros((8, 11, 3), np.uint8)


def segment_ids(labels: np.ndarray) -> np.ndarray:
    """Ids of three bytes that rise and fall; the label 0 is no segment."""
    return np.where(labels == 0, 0, 70000 * ((labels * 37) % 81) + labels)


def panoptic_png(ids: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB, as in panopticapi: id = red + 256 green + 65536 blue."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def panoptic_json() -> dict:
    """The annotation of two frames in COCO's panoptic format."""
    segments = [
        {"id": int(segment_ids(np.array(i))), "category_id": i, "iscrowd": 0, "area": 1}
        for i in range(1, 81)
    ]
    names = ("aa0001_100000", "zz0002_100000")
    return {
        "images": [{"id": n[:6], "file_name": f"{n}.jpg", "width": 11} for n in names],
        "annotations": [
            {"image_id": n[:6], "file_name": f"{n}.png", "segments_info": segments} for n in names
        ],
        "categories": [{"id": i, "name": str(i), "isthing": 0} for i in range(81)],
    }


@pytest.fixture
def release(put, tmp_path):
    """wd_public_v2p0 in small; returns the text of its panoptic.json, to change it."""
    for name in ("aa0001_100000", "zz0002_100000"):
        put(f"images/{name}.jpg", IMAGE)
        put(f"panoptic/{name}.png", panoptic_png(segment_ids(IDS)))
    put("panoptic.json", panoptic_json())
    return tmp_path


def test_the_policy_is_complete():
    assert len(TARGETS) == 81
    assert set(TARGETS) == {"", *CITYSCAPES}


def test_panoptic_labels(release):
    assert detect_dataset(release) == "wilddash"
    dataset = open_dataset("auto", release, split=None)
    assert [sample.name for sample in dataset] == ["aa0001_100000", "zz0002_100000"]
    for sample in dataset:
        loaded = sample.load()
        assert loaded.labels.dtype == np.uint8
        assert np.array_equal(loaded.labels, TRAIN_IDS[IDS])
        assert loaded.anomaly_mask is None


def test_label_images_of_the_earlier_release(put, release):
    for name in ("aa0001_100000", "zz0002_100000"):
        put(f"labels/{name}.png", IDS.astype(np.uint8) % 39)
    (release / "panoptic.json").write_text("not read")
    loaded = open_dataset("wilddash", release)[1].load()
    assert np.array_equal(loaded.labels, TRAIN_IDS[IDS % 39])
    put("labels/aa0001_100000.png", np.full((8, 11), 81, np.uint8))
    with pytest.raises(ImageError, match=r"labels/aa0001_100000\.png: holds the value 81, "):
        WildDashDataset(release)[0].load()


def test_pickups(release):
    for pickup in ("truck", "car"):
        labels = WildDashDataset(release, pickup=pickup)[0].read_labels()
        assert (labels[IDS == 34] == CITYSCAPES.index(pickup)).all()
        assert np.array_equal(labels[IDS != 34], TRAIN_IDS[IDS[IDS != 34]])
    with pytest.raises(ParameterError, match="pickup: expected one of truck, car, got van"):
        WildDashDataset(release, pickup="van")


def test_segments_that_are_not_listed(put, release):
    ids = segment_ids(IDS)
    ids[3, 4] = 131844
    put("panoptic/aa0001_100000.png", panoptic_png(ids))
    dataset = WildDashDataset(release)
    with pytest.raises(ImageError, match=r"aa0001_100000\.png: holds the segment 131844, wh"):
        dataset[0].load()
    dataset[1].load()


def test_wrong_trees(put, tmp_path):
    with pytest.raises(DatasetError, match=r"has no folder images(.|\n)*ROOT/panoptic\.json"):
        WildDashDataset(tmp_path)
    put("images/a.jpg", IMAGE)
    with pytest.raises(DatasetError, match=r"neither panoptic\.json nor a folder labels"):
        WildDashDataset(tmp_path)
    put("panoptic.json", {"images": [], "annotations": []})
    with pytest.raises(DatasetError, match="found no image"):
        WildDashDataset(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"images": [', '"images": {', "not valid JSON"),
        ('"images"', '"pictures"', "key 'images' must be a list of objects"),
        ('"annotations": [', '"annotations": [3, ', "key 'annotations' must be a list of obj"),
        ('"segments_info"', '"segments"', "key 'segments_info' must be a list of objects"),
        ('"image_id": "aa0001"', '"image_id": "bb"', "no image has the id 'bb'"),
        ('"image_id": "aa0001"', '"image_id": ["aa0001"]', "as 'image_id' in"),
        ('"file_name": "aa0001_100000.jpg"', '"file_name": 3', "3 as 'file_name' in"),
        ('"aa0001_100000.jpg"', '"../a.jpg"', "'../a.jpg' is no name of a file in .*images"),
        ('"aa0001_100000.png"', '"/a.png"', "'/a.png' is no name of a file in .*panoptic"),
        ('"category_id": 80', '"category_id": 81', "'category_id': 81.* is no segment of Wild"),
        ('"category_id": 80', '"category_id": true', "True as 'category_id' in"),
        ('"category_id": 80', '"category_id": -1', "'category_id': -1.* is no segment of Wild"),
        ('"id": 2590001', '"id": 16777216', "'id': 16777216.* is no segment of WildDash"),
    ],
)
def test_damaged_annotations(release, old, new, message):
    path = release / "panoptic.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=rf"panoptic\.json: .*{message}"):
        WildDashDataset(release)


def test_two_frames_of_one_name(release):
    content = panoptic_json()
    content["annotations"][1]["image_id"] = "aa0001"
    (release / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="are both 'aa0001_100000'"):
        WildDashDataset(release)
