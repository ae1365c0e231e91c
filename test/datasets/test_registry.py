# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import (
    DATASETS,
    CityscapesDataset,
    bdd_anomaly,
    detect_dataset,
    open_dataset,
    street_hazards,
)
from anomaly_seg_ros.datasets.cityscapes import CITYSCAPES_IDS
from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.taxonomy import load_taxonomy

ZEROS = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("clip", ["camera.json", "images/0.png", "labels/0.png", "anomaly_mask/0.png"]),
        ("fishyscapes", ["fishyscapes_lostandfound/0000_a_labels.png"]),
        ("lost_and_found", ["leftImg8bit/test/a/a.png", "gtCoarse/test/a/a.png"]),
        ("cityscapes", ["leftImg8bit/val/a/a.png", "gtFine/val/a/a.png"]),
        ("cityscapes", ["leftImg8bit/val/a/a.png", "gtFine/val/a/a.png", "gtCoarse/val/a/a.png"]),
        ("fishyscapes_static", ["fs_val_v3/0000_a_labels.png", "fs_val_v3/0000_a_rgb.png"]),
        ("road_anomaly", ["frames/a.png", "frames/a.labels/labels_semantic.png"]),
        ("segment_me_if_you_can", ["images/a.png", "labels_masks/a_labels_semantic.png"]),
        ("folder", ["images/a.png", "labels_masks/a.png"]),
        ("street_hazards", ["test/images/test/t5/1.png", "test/annotations/test/t5/1.png"]),
        ("bdd_anomaly", ["images/10k/val/0.png", "labels/sem_seg/masks/val/0.png"]),
        ("bdd_anomaly", ["seg/images/val/0.png", "seg/labels/val/0_train_id.png"]),
        ("vistas", ["config.json", "training/images/a.png", "training/labels/a.png"]),
        ("vistas", ["config_v2.0.json", "validation/images/a.png"]),
        ("wilddash", ["images/a.png", "panoptic/a.png", "panoptic.json"]),
        ("wilddash", ["images/a.png", "labels/a.png", "panoptic.json"]),
        ("camvid", ["701_StillsRaw_full/a.png", "LabeledApproved_full/a_L.png"]),
        ("camvid", ["val/a.png", "valannot/a.png"]),
        ("camvid", ["classes.json", "images/0.png"]),
        ("camvid", ["CamVid/val/images/0.png"]),
        ("folder", ["images/0.png", "labels/0.png"]),
        ("folder", ["val/images/0.png"]),
        ("folder", ["0.png"]),
    ],
)
def test_detection_by_tree(put, tmp_path, name, files):
    for file in files:
        put(file, {} if file.endswith("json") else ZEROS)
    root = tmp_path / "CamVid" if files[0].startswith("CamVid") else tmp_path
    assert detect_dataset(root) == name


def test_detection_fails_with_all_trees(tmp_path):
    with pytest.raises(DatasetError) as caught:
        detect_dataset(tmp_path)
    for name in DATASETS:
        assert f"\n{name}:" in str(caught.value)
    with pytest.raises(DatasetError, match="no such folder"):
        detect_dataset(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset("folder", tmp_path / "missing")


def test_options_are_checked(put, tmp_path):
    put("images/a.png", ZEROS)
    assert open_dataset("auto", tmp_path, split=None, labels="classes").name == "folder"
    with pytest.raises(
        ParameterError, match=r"size: data set 'folder' has no such option \(it ha"
    ):
        open_dataset("folder", tmp_path, size=3)
    with pytest.raises(ParameterError, match="no data set 'kitti'"):
        open_dataset("kitti", tmp_path)


def test_every_adapter_describes_itself():
    for name, adapter in DATASETS.items():
        assert adapter.name == name
        assert "ROOT" in adapter.tree
        assert adapter.taxonomy.endswith(".")


@pytest.mark.parametrize(
    ("adapter", "ids"),
    [
        (CityscapesDataset, CITYSCAPES_IDS.values()),
        (street_hazards.StreetHazardsDataset, street_hazards.IDS.values()),
        (bdd_anomaly.BddAnomalyDataset, [i for i in bdd_anomaly.CLASSES if i is not None]),
    ],
)
def test_train_ids_fill_the_taxonomy(adapter, ids):
    classes = load_taxonomy(adapter.taxonomy_name).classes
    assert sorted(ids) == list(range(len(classes)))


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(DatasetError, match="Permission denied"):
        open_dataset("auto", tmp_path)
