from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.labels import OUTLIER_ID
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.corpora import Corpus
from training.data.outlier_data import build_mixer
from training.engine.config import CONFIGS


def street() -> Corpus:
    labels = np.zeros((80, 120), np.uint8)
    labels[20:50, 30:80] = 13
    return Corpus("street", [np.full((80, 120, 3), 90, np.uint8)], [labels])


def mixing(**changes: object) -> dict:
    default = yaml.safe_load((CONFIGS / "fine_tune.yaml").read_text())["mixing"]
    return {**default, **changes}


def test_the_default_mixer_pastes_outliers_and_decoys(shared_data: Path) -> None:
    taxonomy = load_taxonomy()
    mixer = build_mixer(mixing(probability=1.0), shared_data, "val2017", taxonomy, [street()])
    categories = {mixer.decoys[i].category for i in range(len(mixer.decoys))}
    assert {"car", "person"} <= categories <= set(taxonomy.classes)
    _, labels = mixer(street().images[0], street().labels[0], np.random.default_rng(0))
    assert (labels == OUTLIER_ID).any()


def write_objects(root: Path) -> None:
    """A folder data set of two objects, in its split "train"."""
    for name in ("images", "masks"):
        (root / "train" / name).mkdir(parents=True)
    mask = np.zeros((40, 50), np.uint8)
    mask[5:25, 5:20], mask[10:35, 28:45] = 1, 2
    cv2.imwrite(str(root / "train" / "masks" / "a.png"), mask)
    cv2.imwrite(str(root / "train" / "images" / "a.png"), np.full((40, 50, 3), 200, np.uint8))


def test_objects_of_a_folder(tmp_path: Path) -> None:
    write_objects(tmp_path / "mine")
    settings = mixing(source="folder", root="mine", decoy_sources=["scenes"], scene_texture=0.0)
    mixer = build_mixer(settings, tmp_path, "train", load_taxonomy(), [street()])
    assert len(mixer.outliers) == 2
    # By name they are known: none is left.
    settings["known_classes"] = {"object": "car"}
    with pytest.raises(DatasetError, match=r"no usable object left \(2 known class\)"):
        build_mixer(settings, tmp_path, "train", load_taxonomy(), [street()])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ade20k", "images/ADE/train: no annotations"),
        ("coco", r"instances_train\.json: no such file"),
    ],
)
def test_each_source_reads_its_own_layout(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build_mixer(mixing(source=source), tmp_path, "train", load_taxonomy(), [street()])


def test_an_unknown_source_of_objects(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"mixing\.source: expected coco.*'lvis'"):
        build_mixer(mixing(source="lvis"), tmp_path, "train", load_taxonomy(), [street()])


def test_an_unknown_source_of_decoys(shared_data: Path) -> None:
    with pytest.raises(ParameterError, match=r"decoy_sources.*'sheep'"):
        build_mixer(
            mixing(decoy_sources=["sheep"]), shared_data, "val2017", load_taxonomy(), [street()]
        )


def test_no_decoys(shared_data: Path) -> None:
    mixer = build_mixer(
        mixing(decoy_sources=[]), shared_data, "val2017", load_taxonomy(), [street()]
    )
    assert mixer.decoys is None
