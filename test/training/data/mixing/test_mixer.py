# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny_scenes import training_data

from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.labels import OUTLIER_ID, UNKNOWN_ID
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.corpora import Corpus
from training.data.mixing.mixer import Mixer, MixOptions, build_mixer
from training.data.mixing.paint import PaintOptions
from training.data.mixing.placement import PlacementOptions
from training.data.negatives.objects import NegativeObject
from training.engine.config import CONFIGS

ROAD, PERSON = 0, 11
TAXONOMY = load_taxonomy()
COCO = {"coco": {"adapter": "coco", "root": "coco", "train_split": "val2017"}}


class Discs:
    """Two bright discs of one category."""

    def __init__(self, category: str) -> None:
        y, x = np.mgrid[:40, :40] - 20
        self.mask = x**2 + y**2 < 18**2
        self.category = category

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> NegativeObject:
        image = np.full((40, 40, 3), 250 - index, np.uint8)
        return NegativeObject(image, self.mask, self.category, f"disc {index}")


@pytest.fixture
def street() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 90, (120, 160, 3)).astype(np.uint8)
    labels = np.full((120, 160), 10, np.uint8)
    labels[50:] = ROAD
    return frame, labels


def options(**changes: object) -> MixOptions:
    return MixOptions(**{"probability": 1.0, "scene_texture": 0.0, "shadow": 0.0, **changes})


def test_outliers_are_labelled_and_the_rest_is_untouched(street: tuple) -> None:
    frame, labels = street
    mixed, target = Mixer(Discs("ball"), options(decoys=(0, 0)), TAXONOMY)(
        frame, labels, np.random.default_rng(1)
    )
    touched = (target == OUTLIER_ID) | (target == UNKNOWN_ID)
    assert (target == OUTLIER_ID).sum() > 0
    assert mixed[target == OUTLIER_ID].mean() > 150
    assert np.array_equal(target[~touched], labels[~touched])
    # A soft edge blends at most a tenth beyond the rim.
    assert np.abs(mixed.astype(int) - frame)[~touched].max() <= 20


def test_the_frame_itself_is_not_changed(street: tuple) -> None:
    frame, labels = street
    before = frame.copy(), labels.copy()
    Mixer(Discs("ball"), options(), TAXONOMY)(frame, labels, np.random.default_rng(1))
    assert np.array_equal(frame, before[0])
    assert np.array_equal(labels, before[1])


def test_decoys_carry_their_class(street: tuple) -> None:
    mixer = Mixer(
        Discs("ball"),
        options(probability=0.0, decoys=(2, 2)),
        TAXONOMY,
        decoys=Discs("person"),
    )
    mixed, target = mixer(*street, np.random.default_rng(2))
    assert mixed[target == PERSON].mean() > 150
    assert not np.isin(target, (OUTLIER_ID, UNKNOWN_ID)).any()


def test_scene_textures_fill_the_outline(street: tuple) -> None:
    scene = np.zeros((50, 50, 3), np.uint8)
    scene[..., 1] = 255
    mixer = Mixer(
        Discs("ball"),
        options(scene_texture=1.0, soft_edges=0.0, decoys=(0, 0)),
        TAXONOMY,
        textures=[scene],
    )
    mixed, target = mixer(*street, np.random.default_rng(3))
    assert (mixed[target == OUTLIER_ID] == (0, 255, 0)).all()


def test_whole_boxes_are_pasted_with_what_surrounds_the_object(street: tuple) -> None:
    plain = {"soft_edges": 0.0, "decoys": (0, 0), "objects": (1, 1)}
    for share, filled in ((0.0, False), (1.0, True)):
        mixer = Mixer(Discs("ball"), options(whole_box=share, **plain), TAXONOMY)
        _, target = mixer(*street, np.random.default_rng(3))
        rows, columns = np.nonzero((target == OUTLIER_ID) | (target == UNKNOWN_ID))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert (len(rows) == box) == filled


def test_textures_need_frames() -> None:
    with pytest.raises(ValueError, match="scene_texture"):
        Mixer(Discs("ball"), MixOptions(scene_texture=0.5), TAXONOMY)


def test_share_of_mixed_frames_is_the_probability(street: tuple) -> None:
    mixer = Mixer(Discs("ball"), options(probability=0.3), TAXONOMY)
    rng = np.random.default_rng(4)
    mixed = [(mixer(*street, rng)[1] == OUTLIER_ID).any() for _ in range(400)]
    assert np.mean(mixed) == pytest.approx(0.3, abs=0.07)


def test_paint_changes_the_ground_and_no_label(street: tuple) -> None:
    frame, labels = street
    paint = PaintOptions(probability=1.0, patches=(3, 3), dark=1.0, opacity=(0.7, 0.7))
    mixer = Mixer(Discs("ball"), options(probability=0.0, paint=paint), TAXONOMY)
    mixed, target = mixer(frame, labels, np.random.default_rng(8))
    assert np.array_equal(target, labels)
    changed = (mixed != frame).any(2)
    assert changed.any()
    assert (labels[changed] == ROAD).all()


def test_style_sees_the_object_its_mask_and_the_frame(street: tuple) -> None:
    seen = []

    def paint_black(image, mask, exemplar, rng):
        seen.append((image.shape, mask.shape, exemplar.shape))
        return np.zeros_like(image)

    mixer = Mixer(
        Discs("ball"),
        options(objects=(1, 1), soft_edges=0.0, decoys=(0, 0)),
        TAXONOMY,
        style=paint_black,
    )
    mixed, target = mixer(*street, np.random.default_rng(5))
    assert (mixed[target == OUTLIER_ID] == 0).all()
    image, mask, exemplar = seen[0]
    assert image[:2] == mask
    assert exemplar == street[0].shape


def test_same_generator_same_result(street: tuple) -> None:
    mixer = Mixer(Discs("ball"), options(placement=PlacementOptions(on_ground=0.5)), TAXONOMY)
    first = mixer(*street, np.random.default_rng(6))
    again = mixer(*street, np.random.default_rng(6))
    other = mixer(*street, np.random.default_rng(7))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def scene() -> Corpus:
    labels = np.zeros((80, 120), np.uint8)
    labels[20:50, 30:80] = 13
    image = np.full((80, 120, 3), 90, np.uint8)
    return Corpus.of_arrays("street", [image], [labels], things=TAXONOMY.ids_of("thing"))


def build(folder: Path, objects: dict, **changes: object) -> Mixer:
    default = yaml.safe_load((CONFIGS / "fine_tune.yaml").read_text())["mixing"]
    return build_mixer({**default, **changes}, training_data(folder, objects, train=[scene()]))


def test_the_default_mixer_pastes_outliers_and_decoys(shared_data: Path) -> None:
    mixer = build(shared_data, COCO, probability=1.0)
    categories = {mixer.decoys[i].category for i in range(len(mixer.decoys))}
    assert {"car", "person"} <= categories <= set(TAXONOMY.classes)
    _, labels = mixer(*scene().load(0), np.random.default_rng(0))
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
    mine = {"adapter": "folder", "root": "mine", "train_split": "train"}
    mixing = {"decoy_sources": ["scenes"], "scene_texture": 0.0}
    assert len(build(tmp_path, {"mine": mine}, **mixing).outliers) == 2
    # By name they are known: none is left.
    mine["known_classes"] = {"object": "car"}
    with pytest.raises(DatasetError, match=r"no usable object left \(2 known class\)"):
        build(tmp_path, {"mine": mine}, **mixing)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("ade20k", "images/ADE/train: no annotations"),
        ("coco", r"instances_train\.json: no such file"),
    ],
)
def test_each_source_reads_its_own_layout(tmp_path: Path, adapter: str, message: str) -> None:
    objects = {"mine": {"adapter": adapter, "root": ".", "train_split": "train"}}
    with pytest.raises(DatasetError, match=message):
        build(tmp_path, objects)


def test_an_unknown_source_of_objects(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"data\.objects\.x: adapter: .*coco.*'lvis'"):
        build(tmp_path, {"x": {"adapter": "lvis", "root": "."}})


def test_no_source_of_objects(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"data\.objects: names no source"):
        build(tmp_path, {})


def test_a_run_whose_outliers_a_flow_draws_needs_none(street: tuple) -> None:
    mixing = {"decoy_sources": [], "scene_texture": 0.0, "style": ["none"], "probability": 0.0}
    mixer = build_mixer(mixing, training_data(train=[scene()]))
    assert len(mixer.outliers) == 0
    assert mixer.outliers.describe() == "no objects to paste"
    mixed, target = mixer(*street, np.random.default_rng(0))
    assert np.array_equal(mixed, street[0])
    assert np.array_equal(target, street[1])


def test_an_unknown_source_of_decoys(shared_data: Path) -> None:
    with pytest.raises(ParameterError, match=r"decoy_sources.*'sheep'"):
        build(shared_data, COCO, decoy_sources=["sheep"])


def test_no_decoys(shared_data: Path) -> None:
    assert build(shared_data, COCO, decoy_sources=[]).decoys is None
