"""The table of known classes: complete, fits the taxonomy, can be overridden."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.negatives import KnownClasses, known_classes


def test_no_class_of_cityscapes_is_forgotten() -> None:
    known = KnownClasses.load("cityscapes", "coco")
    # The eight of Meta-OOD (Chan et al. 2021) and the train that its list lacks.
    wanted = ["person", "bicycle", "car", "motorcycle", "bus", "truck", "train"]
    assert {name: known.target(name) for name in wanted} == {name: name for name in wanted}
    assert known.target("traffic light") == "traffic light"
    assert known.target("stop sign") == "traffic sign"
    assert known.target("potted plant") == "unclear"
    assert known.target("dog") == "unknown"


def test_ade20k_names_map_to_their_class() -> None:
    known = KnownClasses.load("cityscapes", "ade20k")
    assert known.target("car, auto, automobile, machine, motorcar") == "car"
    assert known.target("road, route") == "road"
    assert known.target("armchair") == "unknown"


def test_overrides() -> None:
    known = KnownClasses.load(overrides={"bench": "unclear", "train": "unknown", "boat": "car"})
    assert known.target("bench") == "unclear"
    assert known.target("train") == "unknown"
    assert known.target("boat") == "car"
    assert "boat -> car" in known.describe()
    with pytest.raises(ParameterError, match="known class 'bench' of coco: 'benches' is neither"):
        KnownClasses.load(overrides={"bench": "benches"})


@pytest.mark.parametrize("vocabulary", ["coco", "ade20k", "folder"])
def test_a_class_of_the_taxonomy_is_known_by_its_own_name(vocabulary: str) -> None:
    known = KnownClasses.load("cityscapes", vocabulary)
    for name in load_taxonomy("cityscapes").classes:
        assert known.target(name) == name
    assert known.target("Traffic Sign") == "traffic sign"
    assert known.target("riders") == "unknown"


def test_overrides_come_before_the_taxonomys_own_names() -> None:
    overrides = {"rider": "unknown", "Wall": "unclear", "sky": "terrain"}
    known = KnownClasses.load(overrides=overrides)
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
    known = KnownClasses.load(table=path)
    assert known.target("wall") == "unclear"
    assert known.target("pole") == "fence"


@pytest.mark.parametrize("vocabulary", ["coco", "ade20k"])
def test_only_the_classes_join_the_names_of_the_table(vocabulary: str) -> None:
    table = yaml.safe_load(Path(known_classes.__file__).with_suffix(".yaml").read_text())
    named = table["cityscapes"][vocabulary]
    known = KnownClasses.load("cityscapes", vocabulary)
    assert {name: known.target(name) for name in named} == named
    assert known.targets.keys() - named.keys() <= set(load_taxonomy("cityscapes").classes)


def test_a_taxonomy_without_a_table() -> None:
    with pytest.raises(ParameterError, match="no table of known classes for taxonomy 'mars'"):
        KnownClasses.load("mars")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), ("a: [", "not YAML"), ("3", "expected taxo")]
)
def test_unreadable_tables(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "table.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParameterError, match=f"table.yaml: {message}"):
        KnownClasses.load(table=path)


def test_a_table_that_names_a_class_the_taxonomy_has_not(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("cityscapes: {coco: {horse: rider, cow: cattle}}")
    with pytest.raises(ParameterError, match="known class 'cow' of coco: 'cattle'"):
        KnownClasses.load(table=path)
