# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import FolderDataset, open_dataset
from anomaly_seg_ros.errors import (
    AnomalySegError,
    CheckpointError,
    DatasetError,
    ImageError,
    ParameterError,
)

VALUES = """
labels:
  0: road
  7: 13          # car
  40: anomaly
  41: known
  200: ignore
"""
STORED = np.array([[0, 7, 40, 41, 200, 0]] * 4, np.uint8)


@pytest.fixture
def label_map(tmp_path):
    """Writes a label map outside the data set's folder."""

    def write(text: str) -> str:
        path = tmp_path / "map.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def root(put, picture, tmp_path):
    put("set/images/a.jpg", picture)
    put("set/labels_masks/a.png", STORED)
    return tmp_path / "set"


def test_one_file_becomes_labels_and_mask(root, label_map):
    dataset = open_dataset("folder", root, label_map=label_map(VALUES))
    assert dataset.taxonomy_name == "cityscapes"
    loaded = dataset[0].load()
    assert loaded.labels[0].tolist() == [0, 13, 255, 255, 255, 0]
    assert loaded.anomaly_mask[0].tolist() == [0, 0, 1, 0, 255, 0]


def test_labels_only_and_mask_only(root, label_map):
    classes = "taxonomy: bdd_anomaly\nlabels: {0: bicycle}\nothers: ignore"
    dataset = FolderDataset(root, label_map=label_map(classes))
    assert dataset.taxonomy_name == "bdd_anomaly"
    loaded = dataset[0].load()
    assert loaded.anomaly_mask is None
    assert loaded.labels[0].tolist() == [16, 255, 255, 255, 255, 16]
    loaded = FolderDataset(root, label_map=label_map("labels: {40: anomaly}\nothers: known"))[0]
    assert loaded.read_labels() is None
    assert loaded.read_anomaly_mask()[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_classes_of_a_file_beside_the_map(root, label_map, tmp_path):
    classes = "classes: [{name: gravel, colour: [1, 2, 3]}, {name: forklift, colour: [4, 5, 6]}]"
    (tmp_path / "yard.yaml").write_text(classes)
    text = "taxonomy: yard.yaml\nlabels: {0: forklift, 7: 0, 40: anomaly}\nothers: ignore"
    dataset = FolderDataset(root, label_map=label_map(text))
    assert dataset.classes == ("gravel", "forklift")
    assert dataset[0].read_labels()[0].tolist() == [1, 0, 255, 255, 255, 1]
    (tmp_path / "yard.yaml").write_text("classes: [{name: gravel}]")
    with pytest.raises(CheckpointError, match=r"yard\.yaml: class 0 must be"):
        FolderDataset(root, label_map=label_map(text))


@pytest.mark.parametrize("text", ["labels: {0: road, 40: anomaly}", "labels: {0: road, 7: car}"])
def test_values_that_the_map_does_not_name(root, label_map, text):
    (sample,) = FolderDataset(root, label_map=label_map(text))
    with pytest.raises(ImageError, match=r"a\.png: holds the value \d+, which is no label of thi"):
        sample.load()


def test_colours(put, root, label_map):
    palette = np.array([[128, 64, 128], [0, 0, 142], [255, 102, 0], [0, 0, 0]], np.uint8)
    put("set/labels_masks/a.png", palette[[[0, 1, 2, 3, 2, 0]] * 4])
    text = 'labels: {"#FF6600": anomaly, "#000000": ignore, "#804080": road%s}\n'
    (sample,) = FolderDataset(root, label_map=label_map(text % ', "#00008e": car'))
    loaded = sample.load()
    assert loaded.labels[0].tolist() == [0, 13, 255, 255, 255, 0]
    assert loaded.anomaly_mask[0].tolist() == [0, 0, 1, 255, 1, 0]
    (sample,) = FolderDataset(root, label_map=label_map(text % ""))
    with pytest.raises(ImageError, match="holds the colour #00008e, which is no label"):
        sample.load()
    (sample,) = FolderDataset(root, label_map=label_map(text % "" + "others: known"))
    assert sample.load().anomaly_mask[0].tolist() == [0, 0, 1, 255, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- road", "expected a mapping with the key 'labels'"),
        ("labels: [", "not valid YAML"),
        ("labels: {}", "key 'labels' must map stored values"),
        ("labels: {0: road}\nignored: 3", "unknown key 'ignored'"),
        ("labels: {0: roda}", "'roda' in 'labels' for 0 is none of ignore, known, anomaly"),
        ("labels: {0: 19}", "19 in 'labels' for 0 .* no trainId below 19"),
        ("labels: {0: true}", "True in 'labels' for 0"),
        ("labels: {256: road}", "256 in 'labels' is no stored value"),
        ("labels: {yes: road}", "True in 'labels' is no stored value"),
        ("labels: {'0': road}", "'0' in 'labels' is no stored value"),
        ("labels: {'#000000': road, 1: car}", "1 in 'labels' is no colour"),
        ("labels: {'#0000ff': road, '#0000FF': car}", "colour #0000FF stands twice"),
        ("labels: {0: road}\nothers: drop", "'others' must be error, ignore, known, anomaly; got"),
        ("labels: {0: road}\nothers: []", "'others' must be error"),
        ("taxonomy: mars\nlabels: {0: road}", "mars"),
        (
            "taxonomy: ../x.yaml\nlabels: {0: road}",
            "'taxonomy' must be a name, .* same folder; got",
        ),
        ("taxonomy: /x.yaml\nlabels: {0: road}", "must be a name, or .* same folder; got"),
        ("taxonomy: [x]\nlabels: {0: road}", "must be a name, or .* same folder; got"),
        ("taxonomy: none.yaml\nlabels: {0: road}", r"none\.yaml: No such file"),
    ],
)
def test_errors_name_the_entry(root, label_map, text, message):
    with pytest.raises(AnomalySegError, match=rf"(?s){message}"):
        FolderDataset(root, label_map=label_map(text))


def test_missing_file_and_double_meaning(root, label_map):
    with pytest.raises(DatasetError, match=r"none\.yaml: No such file"):
        FolderDataset(root, label_map="none.yaml")
    with pytest.raises(ParameterError, match="labels: says the same as label_map"):
        FolderDataset(root, labels="classes", label_map=label_map(VALUES))
    with pytest.raises(ParameterError, match="taxonomy: the label map names its own"):
        FolderDataset(root, taxonomy="cityscapes", label_map=label_map(VALUES))
