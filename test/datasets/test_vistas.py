# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_images import palette_png

from anomaly_seg_ros.datasets import detect_dataset, open_dataset
from anomaly_seg_ros.datasets.vistas import VistasDataset
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.taxonomy import load_taxonomy

CITYSCAPES = load_taxonomy("cityscapes").classes

# The 66 classes of v1.2 in the order of its configuration file, each with its Cityscapes class as
# in the training code of the DenseHybrid authors (matejgrcic/Open-set-M2F); "" is ignored.
V12 = """
animal--bird
animal--ground-animal
construction--barrier--curb: sidewalk
construction--barrier--fence: fence
construction--barrier--guard-rail: fence
construction--barrier--other-barrier
construction--barrier--wall: wall
construction--flat--bike-lane: road
construction--flat--crosswalk-plain: road
construction--flat--curb-cut: sidewalk
construction--flat--parking: road
construction--flat--pedestrian-area: sidewalk
construction--flat--rail-track: road
construction--flat--road: road
construction--flat--service-lane: road
construction--flat--sidewalk: sidewalk
construction--structure--bridge: building
construction--structure--building: building
construction--structure--tunnel: building
human--person: person
human--rider--bicyclist: rider
human--rider--motorcyclist: rider
human--rider--other-rider: rider
marking--crosswalk-zebra: road
marking--general: road
nature--mountain
nature--sand: terrain
nature--sky: sky
nature--snow: terrain
nature--terrain: terrain
nature--vegetation: vegetation
nature--water
object--banner
object--bench
object--bike-rack
object--billboard
object--catch-basin
object--cctv-camera
object--fire-hydrant
object--junction-box
object--mailbox
object--manhole
object--phone-booth
object--pothole
object--street-light
object--support--pole: pole
object--support--traffic-sign-frame: traffic sign
object--support--utility-pole: pole
object--traffic-light: traffic light
object--traffic-sign--back
object--traffic-sign--front: traffic sign
object--trash-can
object--vehicle--bicycle: bicycle
object--vehicle--boat
object--vehicle--bus: bus
object--vehicle--car: car
object--vehicle--caravan
object--vehicle--motorcycle: motorcycle
object--vehicle--on-rails: train
object--vehicle--other-vehicle
object--vehicle--trailer
object--vehicle--truck: truck
object--vehicle--wheeled-slow
void--car-mount
void--ego-vehicle
void--unlabeled
"""
# Classes that only v2.0 has.
V20 = """
construction--barrier--ambiguous
construction--barrier--concrete-block
construction--barrier--road-median
construction--barrier--road-side
construction--barrier--separator
construction--barrier--temporary
construction--flat--driveway: road
construction--flat--parking-aisle: road
construction--flat--road-shoulder: road
construction--flat--traffic-island: sidewalk
construction--structure--garage: building
human--person--individual: person
human--person--person-group: person
marking--continuous--dashed: road
marking--continuous--solid: road
marking--continuous--zigzag: road
marking--discrete--ambiguous: road
marking--discrete--arrow--left: road
marking--discrete--arrow--other: road
marking--discrete--arrow--right: road
marking--discrete--arrow--split-left-or-straight: road
marking--discrete--arrow--split-right-or-straight: road
marking--discrete--arrow--straight: road
marking--discrete--crosswalk-zebra: road
marking--discrete--give-way-row: road
marking--discrete--give-way-single: road
marking--discrete--hatched--chevron: road
marking--discrete--hatched--diagonal: road
marking--discrete--other-marking: road
marking--discrete--stop-line: road
marking--discrete--symbol--bicycle: road
marking--discrete--symbol--other: road
marking--discrete--text: road
marking-only--continuous--dashed: road
marking-only--discrete--crosswalk-zebra: road
marking-only--discrete--other-marking: road
marking-only--discrete--text: road
object--parking-meter
object--sign--advertisement
object--sign--ambiguous
object--sign--back
object--sign--information
object--sign--other
object--sign--store
object--support--pole-group: pole
object--traffic-cone
object--traffic-light--cyclists: traffic light
object--traffic-light--general-horizontal: traffic light
object--traffic-light--general-single: traffic light
object--traffic-light--general-upright: traffic light
object--traffic-light--other: traffic light
object--traffic-light--pedestrians: traffic light
object--traffic-sign--ambiguous
object--traffic-sign--direction-back
object--traffic-sign--direction-front: traffic sign
object--traffic-sign--information-parking: traffic sign
object--traffic-sign--temporary-back
object--traffic-sign--temporary-front: traffic sign
object--vehicle--vehicle-group
object--water-valve
void--dynamic
void--ground
void--static
"""
# Those of v1.2 that 2.0 does not have.
SPLIT_UP = (
    "human--person",
    "marking--crosswalk-zebra",
    "marking--general",
    "object--billboard",
    "object--traffic-light",
)


def pairs(text: str) -> list[tuple[str, str]]:
    parts = (line.partition(": ") for line in text.strip().splitlines())
    return [(name, target) for name, _, target in parts]


MAPS = {
    "v1.2": pairs(V12),
    "v2.0": sorted(x for x in pairs(V12) + pairs(V20) if x[0] not in SPLIT_UP),
}


def config_of(version: str) -> dict:
    return {
        "labels": [
            {"name": name, "readable": name.title(), "color": [i, 2 * i % 256, 9]}
            for i, (name, _) in enumerate(MAPS[version])
        ]
    }


@pytest.fixture
def put_labels(tmp_path):
    """Writes label indices as a PNG with a palette."""

    def write(relative: str, indices: np.ndarray) -> None:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.arange(768, dtype=np.uint8).reshape(256, 3)
        path.write_bytes(palette_png(np.asarray(indices, np.uint8), colours))

    return write


@pytest.fixture
def put_release(put, put_labels, tmp_path):
    """Writes a release in its own layout, with two frames in each split."""

    def write(release: str) -> None:
        image = np.zeros((8, 16, 3), np.uint8)
        shape = {"v1.2": {"v1.2": ("config.json", "labels")}}.get(
            release, {x: (f"config_{x}.json", f"{x}/labels") for x in ("v1.2", "v2.0")}
        )
        for version, (config, folder) in shape.items():
            put(config, config_of(version))
            count = len(MAPS[version])
            for split in ("training", "validation"):
                for number in range(2):
                    indices = (np.arange(128) + number).reshape(8, 16) % count
                    put_labels(f"{split}/{folder}/{split}{number}.png", indices)
        for split in ("training", "validation", "testing"):
            (tmp_path / split / "labels").mkdir(parents=True, exist_ok=True)
            for number in range(2):
                put(f"{split}/images/{split}{number}.jpg", image)

    return write


def expected(version: str, number: int) -> np.ndarray:
    table = [CITYSCAPES.index(target) if target else 255 for _, target in MAPS[version]]
    indices = (np.arange(128) + number).reshape(8, 16) % len(table)
    return np.array(table)[indices]


def test_the_lists_are_complete():
    assert [len(classes) for classes in MAPS.values()] == [66, 124]
    for classes in MAPS.values():
        assert {target for _, target in classes} == {"", *CITYSCAPES}


@pytest.mark.parametrize(
    ("release", "asked", "version"),
    [
        ("v1.2", None, "v1.2"),
        ("v1.2", "v1.2", "v1.2"),
        ("v2.0", None, "v2.0"),
        ("v2.0", "v2.0", "v2.0"),
        ("v2.0", "v1.2", "v1.2"),
    ],
)
@pytest.mark.parametrize("split", [None, "training"])
def test_every_class_of_a_release(put_release, tmp_path, release, asked, version, split):
    put_release(release)
    assert detect_dataset(tmp_path) == "vistas"
    dataset = open_dataset("auto", tmp_path, split=split, version=asked)
    split = split or "validation"
    assert [sample.name for sample in dataset] == [f"{split}0", f"{split}1"]
    for number in (1, 0):
        loaded = dataset[number].load()
        assert np.array_equal(loaded.labels, expected(version, number))
        assert loaded.anomaly_mask is None


def test_the_test_split_has_no_labels(put_release, tmp_path):
    put_release("v1.2")
    loaded = VistasDataset(tmp_path, split="testing")[0].load()
    assert loaded.labels is None
    assert loaded.image.shape == (8, 16, 3)


def test_a_value_beyond_the_classes(put_release, put_labels, tmp_path):
    put_release("v1.2")
    put_labels("validation/labels/validation0.png", np.full((8, 16), 66))
    dataset = VistasDataset(tmp_path)
    with pytest.raises(ImageError, match=r"validation0\.png: holds the value 66, which is no lab"):
        dataset[0].load()
    dataset[1].load()
    (tmp_path / "validation/labels/validation1.png").unlink()
    with pytest.raises(ImageError, match=r"validation1\.png: no such file"):
        dataset[1].load()


def test_wrong_trees(put, put_release, tmp_path):
    with pytest.raises(DatasetError, match=r"no configuration file of Vistas(.|\n)*ROOT/config"):
        VistasDataset(tmp_path)
    put_release("v1.2")
    with pytest.raises(DatasetError, match=r"no v2\.0 of Vistas"):
        VistasDataset(tmp_path, version="v2.0")
    with pytest.raises(ParameterError, match=r"version: expected one of v2\.0, v1\.2, got v1"):
        VistasDataset(tmp_path, version="v1")
    found = r"no split 'val' \(found: testing, training, validation\)"
    with pytest.raises(DatasetError, match=found):
        VistasDataset(tmp_path, split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "key 'labels' must be a list"),
        ('{"labels": []}', "key 'labels' must be a list"),
        ('{"labels": [{"readable": "Bird"}]}', "class 0 of 'labels' has no name"),
        ('{"labels": ["animal--bird"]}', "class 0 of 'labels' has no name"),
        ('{"labels": [{"name": ["animal"]}]}', "class 0 of 'labels' has no name"),
        (json.dumps({"labels": [{"name": "void"}] * 255}), "at most 254 classes"),
    ],
)
def test_damaged_configurations(put_release, tmp_path, text, message):
    put_release("v1.2")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"config\.json: {message}|config\.json: .*{message}"):
        VistasDataset(tmp_path)


@pytest.mark.parametrize("name", ["object--drone", "plant", "object", "nature--sky2"])
def test_a_class_that_the_map_does_not_cover(put, put_release, tmp_path, name):
    put_release("v1.2")
    put("config.json", {"labels": [*config_of("v1.2")["labels"], {"name": name}]})
    with pytest.raises(
        DatasetError, match=rf"config\.json: the class '{name}' has no counterpart"
    ):
        VistasDataset(tmp_path)
