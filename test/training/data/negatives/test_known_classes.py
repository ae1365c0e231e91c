# SPDX-License-Identifier: Apache-2.0
"""The table of known classes: complete, fits the taxonomy, can be overridden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.negatives import KnownClasses, known_classes

CITYSCAPES = load_taxonomy()


def test_no_class_of_cityscapes_is_forgotten() -> None:
    known = KnownClasses.load(CITYSCAPES, "coco")
    # The eight of Meta-OOD (Chan et al. 2021) and the train that its list lacks.
    wanted = ["person", "bicycle", "car", "motorcycle", "bus", "truck", "train"]
    assert {name: known.target(name) for name in wanted} == {name: name for name in wanted}
    assert known.target("traffic light") == "traffic light"
    assert known.target("stop sign") == "traffic sign"
    assert known.target("potted plant") == "unclear"
    assert known.target("dog") == "unknown"


def test_ade20k_names_map_to_their_class() -> None:
    known = KnownClasses.load(CITYSCAPES, "ade20k")
    assert known.target("car, auto, automobile, machine, motorcar") == "car"
    assert known.target("road, route") == "road"
    assert known.target("armchair") == "unknown"


def test_overrides() -> None:
    known = KnownClasses.load(
        CITYSCAPES, "coco", {"bench": "unclear", "train": "unknown", "boat": "car"}
    )
    assert known.target("bench") == "unclear"
    assert known.target("train") == "unknown"
    assert known.target("boat") == "car"
    assert "boat -> car" in known.describe()
    with pytest.raises(ParameterError, match="known class 'bench' of coco: 'benches' is neither"):
        KnownClasses.load(CITYSCAPES, "coco", {"bench": "benches"})


@pytest.mark.parametrize("vocabulary", ["coco", "ade20k", "folder"])
def test_a_class_of_the_taxonomy_is_known_by_its_own_name(vocabulary: str) -> None:
    known = KnownClasses.load(CITYSCAPES, vocabulary)
    for name in CITYSCAPES.classes:
        assert known.target(name) == name
    assert known.target("Traffic Sign") == "traffic sign"
    assert known.target("riders") == "unknown"


def test_overrides_come_before_the_taxonomys_own_names() -> None:
    overrides = {"rider": "unknown", "Wall": "unclear", "sky": "terrain"}
    known = KnownClasses.load(CITYSCAPES, "coco", overrides)
    assert known.target("rider") == known.target("Rider") == "unknown"
    assert known.target("wall") == "unclear"
    assert known.target("sky") == "terrain"
    assert known.target("road") == "road"
    known.check_names(["Rider", "Wall", "Sky"], overrides)
    assert "sky -> terrain" in known.describe()
    assert "rider" not in known.describe()


def test_the_table_comes_before_the_taxonomys_own_names(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("cityscapes: {coco: {wall: unclear, pole: fence}}")
    known = KnownClasses.load(CITYSCAPES, "coco", table=path)
    assert known.target("wall") == "unclear"
    assert known.target("pole") == "fence"


def test_no_vehicle_of_streethazards_is_an_anomaly() -> None:
    taxonomy = load_taxonomy("streethazards")
    for vocabulary in ("coco", "ade20k"):
        theirs = KnownClasses.load(CITYSCAPES, vocabulary)
        known = KnownClasses.load(taxonomy, vocabulary)
        # Nothing that Cityscapes knows is new to it, except that it may be unclear.
        assert theirs.targets.keys() - known.targets.keys() <= set(CITYSCAPES.classes)
    assert (
        known.target(
            "bus, autobus, coach, charabanc, double-decker, jitney, motorbus, "
            "motorcoach, omnibus, passenger vehicle"
        )
        == "car"
    )
    assert KnownClasses.load(taxonomy, "coco").target("person") == "pedestrian"


@pytest.mark.parametrize("vocabulary", ["coco", "ade20k"])
def test_only_the_classes_join_the_names_of_the_table(vocabulary: str) -> None:
    table = yaml.safe_load(Path(known_classes.__file__).with_suffix(".yaml").read_text())
    named = table["cityscapes"][vocabulary]
    known = KnownClasses.load(CITYSCAPES, vocabulary)
    assert {name: known.target(name) for name in named} == named
    assert known.targets.keys() - named.keys() <= set(CITYSCAPES.classes)


MINE = Taxonomy("mine", ("floor", "vehicle"), np.zeros((2, 3), np.uint8))


def names() -> list[str]:
    return ["person", "car", "bus", "zebra", "dog", "cat", "Floor"]


def test_somebodys_own_taxonomy_needs_overrides() -> None:
    """Without them, a car would be pasted as an anomaly beside vehicles."""
    with pytest.raises(ParameterError) as caught:
        KnownClasses.load(MINE, "coco", names=names)
    text = str(caught.value)
    assert text.startswith("known_classes: which of the 7 coco classes ('Floor', 'bus', 'car', ")
    assert "taxonomy 'mine'" in text
    assert "floor, vehicle" in text
    assert "\n" not in text


def test_overrides_of_somebodys_own_taxonomy() -> None:
    known = KnownClasses.load(MINE, "coco", {"car": "vehicle", "bus": "vehicle"}, names)
    assert known.target("Car") == "vehicle"
    assert known.target("floor") == "floor"
    assert known.target("dog") == "unknown"
    assert KnownClasses.load(MINE, "coco", {}, names).target("car") == "unknown"
    with pytest.raises(ParameterError, match="'road' is neither a class of mine nor 'unclear'"):
        KnownClasses.load(MINE, "coco", {"car": "road"}, names)


def test_a_vocabulary_without_names_of_its_own_needs_no_overrides() -> None:
    assert KnownClasses.load(MINE, "folder").target("vehicle") == "vehicle"


def test_a_section_makes_overrides_optional(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("mine: {coco: {car: vehicle}}")
    assert KnownClasses.load(MINE, "coco", names=names, table=path).target("car") == "vehicle"
    with pytest.raises(ParameterError, match="known_classes: which of"):
        KnownClasses.load(MINE, "ade20k", names=names, table=path)


@pytest.mark.parametrize("overrides", [["car"], "car", 3])
def test_overrides_that_are_no_mapping(overrides: object) -> None:
    with pytest.raises(ParameterError, match="known_classes: expected a mapping"):
        KnownClasses.load(CITYSCAPES, "coco", overrides)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), ("a: [", "not YAML"), ("3", "expected taxo")]
)
def test_unreadable_tables(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "table.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParameterError, match=f"table.yaml: {message}"):
        KnownClasses.load(CITYSCAPES, "coco", table=path)


def test_a_table_that_names_a_class_the_taxonomy_has_not(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("cityscapes: {coco: {horse: rider, cow: cattle}}")
    with pytest.raises(ParameterError, match="known class 'cow' of coco: 'cattle'"):
        KnownClasses.load(CITYSCAPES, "coco", table=path)


def test_no_class_is_known() -> None:
    """As in DenseHybrid's public code; also where overrides would have to say what is known."""
    known = KnownClasses.load(CITYSCAPES, "coco", "unknown", names)
    assert {known.target(name) for name in ("car", "person", "rider", "potted plant")} == {
        "unknown"
    }
    known.check_names(["dog"], "unknown")
    assert KnownClasses.load(MINE, "ade20k", "unknown", names).target("car") == "unknown"
