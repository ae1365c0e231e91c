# SPDX-License-Identifier: Apache-2.0
"""Classes are known, read from a file, or numbered and said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.system.resources import ResourceError, config_path
from anomaly_seg_ros.taxonomy import (
    GROUND,
    MOST_CLASSES,
    THING,
    Taxonomy,
    known_taxonomy,
    load_taxonomy,
    named_taxonomy,
    numbered_taxonomy,
    read_taxonomy,
)


def test_known_class_counts() -> None:
    cityscapes, street_hazards = known_taxonomy(19), known_taxonomy(12)
    assert cityscapes.classes[0] == "road"
    assert cityscapes.classes[18] == "bicycle"
    assert street_hazards.classes[6] == "road"
    assert (street_hazards.palette[6] == cityscapes.palette[0]).all()
    assert known_taxonomy(7) is None


@pytest.mark.parametrize("count", [1, 2, 7, 150])
def test_numbers_have_distinct_colours(count: int) -> None:
    labels = numbered_taxonomy(count)
    assert labels.palette.shape == (count, 3)
    assert len({tuple(colour) for colour in labels.palette.tolist()}) == count
    assert labels.guessed


def test_taxonomy_files_are_read() -> None:
    labels = read_taxonomy(config_path("taxonomies/cityscapes.yaml"))
    assert labels.classes == known_taxonomy(19).classes
    assert (labels.palette == known_taxonomy(19).palette).all()


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("classes: [", "not valid YAML"),
        ("[]", "list 'classes'"),
        ("classes: []", "list 'classes'"),
        ("classes: [{name: road}]", "class 0 must be"),
        ("classes: [{name: a, colour: [1, 2]}]", "class 0 must be"),
        ("classes: [{name: a, colour: [1, 2, 256]}]", "class 0: colour outside"),
        ("classes: [{name: a, colour: [1, 2, 3]}, {name: a, colour: [4, 5, 6]}]", "same name"),
    ],
)
def test_bad_taxonomies_are_named(tmp_path: Path, text: str, needle: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=needle) as error:
        read_taxonomy(path)
    assert "mine.yaml" in str(error.value)


def _named(taxonomy: Taxonomy, role: str) -> list[str]:
    return [taxonomy.classes[i] for i in taxonomy.ids_of(role)]


@pytest.mark.parametrize(
    ("name", "ground", "things"),
    [
        (
            "cityscapes",
            "road, sidewalk, terrain",
            "person, rider, car, truck, bus, train, motorcycle, bicycle",
        ),
        ("bdd_anomaly", "road, sidewalk, terrain", "person, rider, car, truck, bus, bicycle"),
        ("streethazards", "road line, road, sidewalk", "pedestrian, car"),
    ],
)
def test_roles_of_the_own_taxonomies(name: str, ground: str, things: str) -> None:
    taxonomy = load_taxonomy(name)
    assert _named(taxonomy, GROUND) == ground.split(", ")
    assert _named(taxonomy, THING) == things.split(", ")
    assert len(taxonomy.roles) == len(taxonomy.classes)


def test_roles_are_optional(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [{name: a, colour: [1, 2, 3]}]")
    assert read_taxonomy(path).ids_of(GROUND) == numbered_taxonomy(3).ids_of(THING) == ()


@pytest.mark.parametrize("role", ["floor", "[thing]", "1", "{}"])
def test_an_unknown_role_names_the_class(tmp_path: Path, role: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"classes: [{{name: lawn, colour: [1, 2, 3], role: {role}}}]")
    with pytest.raises(CheckpointError, match=r"mine\.yaml: class 0 \(lawn\): role must be groun"):
        read_taxonomy(path)


def test_by_name_or_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(config_path("taxonomies/streethazards.yaml").read_text())
    for given in (path, str(path)):
        assert load_taxonomy(given).name == "mine"
        assert load_taxonomy(given).classes == load_taxonomy("streethazards").classes
        with pytest.raises(ResourceError, match="has no file"):
            named_taxonomy(str(given))
    with pytest.raises(ResourceError, match=r"no file config/taxonomies/mine\.yaml"):
        load_taxonomy("mine")
    with pytest.raises(CheckpointError, match=r"absent\.yml: No such file"):
        load_taxonomy(tmp_path / "absent.yml")


def test_any_number_of_classes_that_has_ids(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    entries = [f"- {{name: c{i}, colour: [1, 2, 3]}}\n" for i in range(MOST_CLASSES + 1)]
    path.write_text("classes:\n" + "".join(entries[:-1]))
    assert len(read_taxonomy(path).classes) == 253
    path.write_text("classes:\n" + "".join(entries))
    with pytest.raises(CheckpointError, match=r"mine\.yaml: 254 classes; at most 253"):
        read_taxonomy(path)


def test_missing_taxonomy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.yaml"):
        read_taxonomy(tmp_path / "no.yaml")
