from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.datasets import Sample, open_dataset
from anomaly_seg_ros.errors import AnomalySegError, DatasetError, ImageError, ParameterError
from anomaly_seg_ros.labels import UNKNOWN_ID
from training.data.corpora import Corpus, load_corpus, weighted
from training.data.views import ViewDataset, ViewOptions


def corpus(name: str) -> Corpus:
    return Corpus(name, [np.zeros((4, 4, 3), np.uint8)], [np.zeros((4, 4), np.uint8)], 2.0)


def test_weights_change_by_name() -> None:
    changed = weighted([corpus("a"), corpus("b"), corpus("c")], {"a": 5, "c": 0})
    assert [(c.name, c.weight) for c in changed] == [("a", 5), ("b", 2.0)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"x": 1}, "no corpus 'x'"), ({"a": -1}, "negative"), ({"a": 0}, "every corpus")],
)
def test_bad_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        weighted([corpus("a")], weights)


def test_the_true_width_of_a_squeezed_frame() -> None:
    squeezed = Corpus("x", [], [np.zeros((256, 256), np.uint8)], aspect=2.0)
    assert squeezed.squeeze(0) == 2.0
    assert corpus("a").squeeze(0) == 1.0


class TestLabelledFrames:
    """A pair that does not load stops the training before it begins, by name."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((6, 8, 3), np.uint8))
            cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), np.ones((6, 8), np.uint8))
        return tmp_path

    @staticmethod
    def load(root: Path, masks: bool = False) -> Corpus:
        return load_corpus("mine", open_dataset("folder", root, labels="classes"), masks=masks)

    def test_all_frames_are_decoded(self, root: Path) -> None:
        loaded = self.load(root)
        assert len(loaded) == 2
        assert loaded.images[1].shape == (6, 8, 3)
        assert (loaded.labels[1] == 1).all()

    @pytest.mark.parametrize(
        ("damage", "error", "message"),
        [
            (lambda p: p.write_bytes(p.read_bytes()[:40]), ImageError, r"labels/b\.png"),
            (lambda p: cv2.imwrite(str(p), np.zeros((6, 9))), ImageError, r"labels/b\.png"),
            (lambda p: p.unlink(), DatasetError, r"no label for b\.png"),
        ],
        ids=["truncated", "another size", "missing"],
    )
    def test_a_bad_pair(
        self, root: Path, damage: Callable, error: type[AnomalySegError], message: str
    ) -> None:
        damage(root / "labels" / "b.png")
        with pytest.raises(error, match=message):
            self.load(root)

    def test_other_labels_than_asked_for(self, root: Path) -> None:
        with pytest.raises(DatasetError, match="mine: sample a has no anomaly mask"):
            self.load(root, masks=True)

    def test_masks_that_do_not_say_what_their_255_means(self, root: Path) -> None:
        mask = np.zeros((6, 8), np.uint8)
        for name in ("a", "b"):
            cv2.imwrite(str(root / "labels" / f"{name}.png"), mask)
            mask[2:, :3] = 255
        with pytest.raises(DatasetError, match=r"mine: .*255 may mean anomaly or ignore"):
            load_corpus("mine", open_dataset("folder", root), masks=True)
        known = open_dataset("folder", root, mask_255="anomaly")
        assert load_corpus("mine", known, masks=True).labels[1].sum() == 12

    def test_no_frames(self) -> None:
        with pytest.raises(DatasetError, match="mine: no samples"):
            load_corpus("mine", [])


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
    loaded = load_corpus("street", [sample])
    assert loaded.labels[0][:, 0].tolist() == [255, UNKNOWN_ID, 0, 0]
    views = ViewOptions(crop=(4, 4), height_range=(4, 4), photometric=0, blur_probability=0)
    _, closed_set = ViewDataset([loaded], views, class_uniform=0)[0]
    assert set(closed_set.unique().tolist()) <= {0, 255}
