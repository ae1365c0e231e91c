"""Classes are known, read from a file, or numbered and said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.system.resources import config_path
from anomaly_seg_ros.taxonomy import known_taxonomy, numbered_taxonomy, read_taxonomy


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


def test_missing_taxonomy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.yaml"):
        read_taxonomy(tmp_path / "no.yaml")
