# SPDX-License-Identifier: Apache-2.0
"""Corpora: read from disk by a data block, indexed once, refused with the key at fault."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from anomaly_seg_ros.datasets import Sample
from anomaly_seg_ros.errors import AnomalySegError, DatasetError, ImageError, ParameterError
from anomaly_seg_ros.labels import UNKNOWN_ID
from training.data import label_index, workers
from training.data.corpora import (
    Corpus,
    FrameSequence,
    TrainingData,
    share_memory,
)
from training.data.frames import SampleFrames
from training.data.held_out import NaturalFrames
from training.data.views import ViewDataset, ViewOptions

TAXONOMY = {
    "classes": [
        {"name": "floor", "colour": [1, 2, 3], "role": "ground"},
        {"name": "box", "colour": [4, 5, 6], "role": "thing"},
    ]
}

CITYSCAPES = {"labels": "classes", "taxonomy": "cityscapes"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six frames of 24 x 32 with two classes, and their taxonomy."""
    for folder in ("images", "labels"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(TAXONOMY))
    for i in range(6):
        label = np.zeros((24, 32), np.uint8)
        label[2 : 3 + i, 2:20] = 1
        image = np.full((24, 32, 3), 40 * i, np.uint8)
        cv2.imwrite(str(tmp_path / "mine" / "images" / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / "mine" / "labels" / f"{i}.png"), label)
    return tmp_path


def mine(**changes: Any) -> dict[str, Any]:
    options = {"labels": "classes"}
    return {"adapter": "folder", "root": "mine", "options": options, **changes}


def data(root: Path, **block: Any) -> TrainingData:
    return TrainingData({"taxonomy": "classes.yaml", **block}, root)


def greys(corpus: Corpus) -> list[int]:
    return [int(image[0, 0, 0]) // 40 for image, _ in corpus]


class TestChoiceOfFrames:
    def test_held_out_frames_are_not_trained_on(self, root: Path) -> None:
        run = data(root, train={"a": mine(held_out=3)})
        assert greys(run.train[0]) == [1, 2, 4, 5]
        assert greys(run.validation[0]) == [0, 3]
        assert run.calibration == run.validation

    def test_every_second_frame(self, root: Path) -> None:
        run = data(root, train={"a": mine()}, validation={"b": mine(every=2)})
        assert greys(run.validation[0]) == [0, 2, 4]
        assert greys(run.validation[0].every(2)) == [0, 4]

    def test_frames_of_another_corpus_are_left_out(self, root: Path) -> None:
        train = {"a": mine(without="validation.b")}
        with pytest.raises(DatasetError, match=r"data\.train\.a: no frame is left of mine"):
            data(root, train=train, validation={"b": mine(every=3)}).train  # noqa: B018

    def test_a_weight_of_zero_leaves_a_corpus_out(self, root: Path) -> None:
        run = data(root, train={"a": mine(weight=0), "b": mine()})
        assert [corpus.name for corpus in run.train] == ["b"]
        run = data(root, train={"b": mine()}, unknown={"c": {"root": "gone", "weight": 0}})
        assert run.unknown == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"train": {"a": {"roots": "mine"}}}, r"data\.train\.a\.roots: .* did you mean root"),
        ({"train": {"a": {"adapter": "folder"}}}, r"data\.train\.a\.root: missing"),
        ({"train": {"a": mine(weight=-1)}}, r"data\.train\.a\.weight: -1.* negative"),
        ({"train": {"a": mine(weight="much")}}, r"data\.train\.a\.weight must be a number"),
        ({"train": {"a": mine(weight=0)}}, r"data\.train: every corpus has weight 0 \(a\)"),
        ({}, r"data\.train: names no corpus"),
        ({"train": {"a": mine(held_out=1)}}, r"data\.train\.a\.held_out: .*got 1"),
        ({"train": {"a": mine(every=0)}}, r"data\.train\.a\.every: .*got 0"),
        ({"train": {"a": mine(split=3)}}, r"data\.train\.a\.split: .*got 3"),
        ({"train": {"a": mine(without="train.b")}}, r"without: no corpus 'train\.b'; there are"),
        ({"train": {"a": mine(split="fog")}}, r"data\.train\.a: .*no split 'fog'"),
        ({"train": {"a": mine(adapter="kitti")}}, r"data\.train\.a: no data set 'kitti'"),
        ({"train": {"a": {"root": "gone"}}}, r"data\.train\.a: .*gone: no such folder"),
        ({"train": {1: mine()}}, r"data\.train: 1 must be a text"),
        ({"train": {"a.b": mine()}}, r"data\.train: 'a\.b': .*without dots"),
        ({"train": {"a": mine(weight=float("nan"))}}, r"data\.train\.a\.weight must be .*got nan"),
        ({"train": {"a": mine(aspect=float("inf"))}}, r"data\.train\.a\.aspect must be .*got inf"),
        ({"cache_mib": float("inf")}, r"data\.cache_mib must be a number.*got inf"),
        ({"train": {"a": mine(split=["x", "x"])}}, r"data\.train\.a\.split: .*twice: x, x"),
        ({"train": {"a": mine(options={1: 2})}}, r"data\.train\.a\.options: 1: expected a name"),
        ({"train": {"a": mine(options={"split": 2})}}, r"a\.options: 'split': .*a\.split"),
        ({"train": {"a": mine(options={})}}, r"a\.options: .*labels.0\.png is read as an anomaly"),
        ({"train": {"a": mine(root="~no one/x")}}, r"data\.train\.a: ~no one/x: .*home"),
        ({"train": {"a": mine(classes={"floor": [1]})}}, r"floor: '\[1\]' is neither a class"),
        ({"taxonomy": "gone.yaml"}, r"data\.taxonomy: .*gone\.yaml"),
        ({"taxonomy": "gone"}, r"data\.taxonomy: .*gone"),
        ({"taxonomy": ""}, r"data\.taxonomy: missing"),
        ({"trian": {}}, r"data\.trian: .*did you mean train"),
        ({"train": ["a"]}, r"data\.train: expected a mapping"),
        ({"train": {"a": "mine"}}, r"data\.train\.a: expected a mapping"),
        ({"train": {"a": mine(options=CITYSCAPES)}}, r"the taxonomies do not agree"),
        ({"train": {"a": mine(classes={"flor": "box"})}}, r"'flor' is no class of the corpus"),
        ({"train": {"a": mine(classes={"floor": "bxo"})}}, r"floor: 'bxo' is neither a class"),
    ],
)
def test_a_bad_block_names_its_key(root: Path, block: dict, message: str) -> None:
    with pytest.raises(AnomalySegError, match=message):
        data(root, **block).train  # noqa: B018


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (range(6), r"data\.train\.a: none of the 4 frames for train shows a class"),
        ([0, 3], r"data\.train\.a: none of the 2 frames for validation shows a class"),
    ],
)
def test_labels_that_show_no_class(root: Path, numbers: range, message: str) -> None:
    for i in numbers:
        empty = np.full((24, 32), 255, np.uint8)
        cv2.imwrite(str(root / "mine" / "labels" / f"{i}.png"), empty)
    run = data(root, train={"a": mine(held_out=3)})
    with pytest.raises(DatasetError, match=message):
        (run.train, run.validation)  # noqa: B018


def test_a_class_of_few_pixels_is_drawn_by_no_class(root: Path) -> None:
    for i in range(6):
        label = np.full((24, 32), 255, np.uint8)
        label[:2, :3] = 1
        cv2.imwrite(str(root / "mine" / "labels" / f"{i}.png"), label)
    views = ViewDataset(data(root, train={"a": mine()}).train, ViewOptions(crop=(8, 8)), 2)
    assert [views.draw(np.random.default_rng(i))[2] for i in range(4)] == [None] * 4


def test_frames_on_both_sides_are_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = data(root, train={"a": mine(held_out=3)})
    assert (len(run.train), len(run.validation)) == (1, 1)
    assert not caplog.text
    run = data(root, train={"a": mine()}, validation={"b": mine(every=2)})
    assert (len(run.train), len(run.validation)) == (1, 1)
    assert "data.validation.b: 3 of 3 frames are trained on and validated" in caplog.text


def test_no_frames_to_validate_on(root: Path) -> None:
    with pytest.raises(ParameterError, match=r"data\.validation: names no corpus.*held_out"):
        data(root, train={"a": mine()}).validation  # noqa: B018


def test_classes_of_another_taxonomy(root: Path) -> None:
    classes = {"road": "floor", "car": "box"}
    for name in (
        *("sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
        *("vegetation", "terrain", "sky", "person", "rider", "truck", "bus", "train"),
        *("motorcycle", "bicycle"),
    ):
        classes[name] = "ignore"
    label = np.array([[0, 13, 255, 8]], np.uint8)
    cv2.imwrite(str(root / "mine" / "labels" / "0.png"), np.tile(label, (24, 8)))
    corpus = mine(options=CITYSCAPES, classes=classes)
    labels = data(root, train={"a": corpus}).train[0].load(0)[1]
    assert labels[0, :4].tolist() == [0, 1, 255, 255]


class TestBadFrames:
    """A label that does not load stops the training before it begins, by name."""

    @pytest.mark.parametrize(
        ("damage", "error", "message"),
        [
            (lambda p: p.write_bytes(p.read_bytes()[:40]), ImageError, r"labels/1\.png"),
            (lambda p: cv2.imwrite(str(p), np.full((24, 32), 9)), ImageError, r"1\.png.*value 9"),
            (lambda p: p.unlink(), DatasetError, r"no label for 1\.png"),
        ],
        ids=["truncated", "a value beyond the classes", "missing"],
    )
    def test_before_the_first_step(
        self, root: Path, damage: Callable, error: type[AnomalySegError], message: str
    ) -> None:
        damage(root / "mine" / "labels" / "1.png")
        with pytest.raises(error, match=message):
            data(root, train={"a": mine()}).train[0].index  # noqa: B018

    def test_another_size_than_the_image(self, root: Path) -> None:
        cv2.imwrite(str(root / "mine" / "labels" / "1.png"), np.zeros((24, 33), np.uint8))
        with pytest.raises(ImageError, match=r"labels/1\.png"):
            data(root, train={"a": mine()}).train[0].load(1)

    def test_no_labels_at_all(self, root: Path) -> None:
        (root / "mine" / "labels").rename(root / "elsewhere")
        with pytest.raises(DatasetError, match=r"data\.train\.a: frame 0 has no labels"):
            data(root, train={"a": mine()}).train  # noqa: B018

    def test_masks_without_any_anomaly(self, root: Path) -> None:
        for path in (root / "mine" / "labels").iterdir():
            cv2.imwrite(str(path), np.zeros((24, 32), np.uint8))
        corpora = data(root, unknown={"a": mine(options={})}).unknown
        with pytest.raises(DatasetError, match=r"data\.unknown\.a: no mask holds an anomaly"):
            NaturalFrames(corpora)

    def test_masks_that_do_not_say_what_their_255_means(self, root: Path) -> None:
        for i in range(6):
            mask = np.zeros((24, 32), np.uint8)
            mask[2:, :3] = 255 * (i > 0)
            cv2.imwrite(str(root / "mine" / "labels" / f"{i}.png"), mask)
        unknown = {"adapter": "folder", "root": "mine"}
        with pytest.raises(DatasetError, match=r"unknown\.a: .*options: \{mask_255: anomaly\}"):
            data(root, unknown={"a": unknown}).unknown[0].index  # noqa: B018
        unknown["options"] = {"mask_255": "anomaly"}
        assert data(root, unknown={"a": unknown}).unknown[0].load(1)[1].sum() == 22 * 3


class TestIndex:
    def test_counts_sizes_and_regions(self, root: Path) -> None:
        for path in (root / "mine" / "labels").iterdir():
            label = np.zeros((24, 32), np.uint8)
            label[2:20, 3:22] = 1
            cv2.imwrite(str(path), label)
        index = data(root, train={"a": mine()}).train[0].index
        assert index.counts[2, :2].tolist() == [24 * 32 - 18 * 19, 18 * 19]
        assert index.sizes[2].tolist() == [24, 32]
        assert index.regions[2].tolist() == [2, 1, 2, 3, 18, 19, 2, 3]
        some = data(root, train={"a": mine()}).train[0].every(2).index
        assert some.regions[:, 0].tolist() == [0, 1, 2]

    def test_regions_in_the_order_of_the_whole_frame(self) -> None:
        rng = np.random.default_rng(3)
        for _ in range(20):
            blocks = rng.integers(0, 3, rng.integers(6, 20, 2)).astype(np.uint8)
            label = cv2.resize(blocks, None, fx=17, fy=21, interpolation=cv2.INTER_NEAREST)
            above, left = rng.integers(0, 5, 2).tolist()
            label = cv2.copyMakeBorder(label, above, 1, left, 2, cv2.BORDER_CONSTANT, value=9)
            expected = []
            for thing in (0, 1, 2):
                mask = (label == thing).view(np.uint8)
                _, parts, boxes, _ = cv2.connectedComponentsWithStats(mask)
                for part, (x, y, w, h, area) in enumerate(boxes[1:].tolist(), 1):
                    inside = 0 < x < label.shape[1] - w and 0 < y < label.shape[0] - h
                    if inside and area >= 0.4 * w * h:
                        first = int((parts[y] == part).argmax())
                        expected.append([0, thing, y, x, h, w, y, first])
            index = label_index.LabelIndex.build([label].__getitem__, 1, (0, 1, 2))
            assert index.regions.tolist() == expected

    def test_it_is_kept_and_rebuilt_when_a_file_changes(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = data(root, train={"a": mine()}).train[0].index
        built = label_index.LabelIndex.build
        monkeypatch.setattr(label_index.LabelIndex, "build", None)
        kept = data(root, train={"a": mine()}).train[0].index
        assert np.array_equal(kept.counts, first.counts)
        monkeypatch.setattr(label_index.LabelIndex, "build", built)
        path = root / "mine" / "labels" / "0.png"
        cv2.imwrite(str(path), np.ones((24, 32), np.uint8))
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        assert data(root, train={"a": mine()}).train[0].index.counts[0, 1] == 24 * 32

    def test_a_damaged_cache_is_rebuilt(self, root: Path, tmp_path: Path) -> None:
        first = data(root, train={"a": mine()}).train[0].index
        (kept,) = Path(os.environ["ANOMALY_SEG_CACHE"]).rglob("*.npz")
        kept.write_bytes(kept.read_bytes()[:100])
        again = data(root, train={"a": mine()}).train[0].index
        assert np.array_equal(again.counts, first.counts)


def test_memory_goes_to_the_frames_that_are_drawn_most_often(root: Path) -> None:
    often, seldom = data(root, train={"a": mine(weight=2), "b": mine()}).train
    frame = 24 * 32 * 4
    share_memory([seldom, often], 8 * frame)
    assert (often.cache.limit, seldom.cache.limit) == (6 * frame, 2 * frame)
    for corpus in (often, seldom):
        assert greys(corpus) == greys(corpus) == list(range(6))
        assert len(corpus.cache._frames) == corpus.cache.limit // frame


def test_loader_processes_share_the_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus,) = data(root, train={"a": mine()}, cache_mib=24 * 32 * 4 * 5 / 2**20).train
    monkeypatch.setattr(workers, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    assert greys(corpus) == list(range(6))
    assert len(corpus.cache._frames) == 2


def test_an_image_alone_is_that_of_the_frame(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus,) = data(root, train={"a": mine()}, cache_mib=24 * 32 * 4 / 2**20).train
    corpus = corpus.some(range(1, 6, 2))
    monkeypatch.setattr(SampleFrames, "labels", None)
    images = [image.copy() for image in FrameSequence([corpus])]
    monkeypatch.undo()
    assert [int(image[0, 0, 0]) for image in images] == [40, 120, 200]
    assert all(np.array_equal(a, b) for a, (b, _) in zip(images, corpus, strict=True))
    again = FrameSequence([corpus])[0]
    assert np.array_equal(again, images[0])


def test_no_more_frames_of_a_corpus_than_asked_for(root: Path) -> None:
    corpora = data(root, train={"a": mine(), "b": mine(held_out=6)}).train
    assert [len(FrameSequence.spread(corpora, n)) for n in (1, 4, 5, 9)] == [2, 6, 8, 11]
    with pytest.raises(ParameterError, match="0 frames of every corpus: expected at least 1"):
        FrameSequence.spread(corpora, 0)


def test_the_true_width_of_a_squeezed_frame(root: Path) -> None:
    plain, wide = data(root, train={"a": mine(), "b": mine(aspect=4.0)}).train
    assert plain.squeeze(0) == 1.0
    assert wide.squeeze(0) == 4.0 * 24 / 32


def test_natural_unknowns_train_nothing(tmp_path: Path) -> None:
    label = np.zeros((4, 4), np.uint8)
    label[:2] = 255
    mask = np.zeros((4, 4), np.uint8)
    mask[1] = 1
    files = {"image": np.zeros((4, 4, 3), np.uint8), "labels": label, "mask": mask}
    for name, content in files.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), content)
    sample = Sample(
        "street",
        tmp_path / "image.png",
        anomaly_mask_path=tmp_path / "mask.png",
        labels_path=tmp_path / "labels.png",
    )
    corpus = Corpus("street", SampleFrames("street", [sample]))
    assert corpus.load(0)[1][:, 0].tolist() == [255, UNKNOWN_ID, 0, 0]
    views = ViewOptions(crop=(4, 4), height_range=(4, 4), photometric=0, blur_probability=0)
    _, closed_set = ViewDataset([corpus], views, 19, class_uniform=0)[0]
    assert set(closed_set.unique().tolist()) <= {0, 255}
