# SPDX-License-Identifier: Apache-2.0
"""Calibration: thresholds flag the share that was asked for, statistics are the classes' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network
from tiny_scenes import scenes, training_data

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.cli import convert_model
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.registry import build_network
from training import calibrate
from training.calibrate import PixelSample, calibrate_scores, class_statistics, sample_pixels
from training.data.corpora import Corpus


def normal_sample(shift: float, seed: int, count: int = 200_000) -> PixelSample:
    rng = np.random.default_rng(seed)
    score = (rng.normal(size=count) + shift).astype(np.float32)
    return PixelSample({"max_logit": score}, rng.integers(0, 3, count).astype(np.uint8))


@pytest.mark.parametrize("target", [0.01, 0.05])
def test_threshold_flags_the_target_share(target: float) -> None:
    inliers, outliers = normal_sample(0, 1), normal_sample(3, 2)
    calibration = calibrate_scores(inliers, outliers, target)["max_logit"]
    unit = calibration.to_unit(inliers.scores["max_logit"])
    assert (unit >= 0.5).mean() == pytest.approx(target, rel=0.05)
    for rate in (0.9, 0.5):
        threshold = calibration.threshold_for_tpr(rate)
        flagged = (calibration.to_unit(outliers.scores["max_logit"]) >= threshold).mean()
        assert flagged == pytest.approx(rate, abs=0.01)


def test_statistics_of_each_predicted_class() -> None:
    sample = normal_sample(-8, 3)
    statistics = class_statistics(sample, 5)
    largest = -sample.scores["max_logit"]
    for c in range(3):
        chosen = largest[sample.predicted == c]
        assert float(statistics.mean[c]) == pytest.approx(chosen.mean(), rel=1e-4)
        assert float(statistics.std[c]) == pytest.approx(chosen.std(), rel=1e-3)
    # Never predicted: the statistics of all pixels stand in.
    assert float(statistics.mean[4]) == pytest.approx(largest.mean(), rel=1e-4)


def test_only_chosen_pixels_are_sampled() -> None:
    segmenter = Segmenter(tiny_network(), tiny_metadata(), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[10:12, 20:25] = True
    sample = sample_pixels(segmenter, [(image, mask)], ("max_logit",), 1000)
    expected = segmenter.predict(image).scores["max_logit"][mask]
    np.testing.assert_array_equal(sample.scores["max_logit"], expected)
    assert sample_pixels(segmenter, [(image, mask)] * 3, ("energy",), 4).predicted.size == 12


def calibrate_file(model: Path, out: Path, *options: str) -> int:
    """Runs the tool in a folder without any data sets: measuring would fail."""
    command = ["--model", str(model), "--out", str(out), "--data", str(out.parent / "nothing")]
    return calibrate.main([*command, "--device", "cpu", *options])


def save_model_of_three_classes(path: Path) -> Path:
    """A model that is fine, but whose trainIds are not those of the held-out labels."""
    arguments = {**ARGUMENTS, "num_classes": 3}
    metadata = tiny_metadata(
        arguments=arguments,
        classes=("ground", "plant", "animal"),
        palette=np.zeros((3, 3), np.uint8),
        calibration={},
        statistics=None,
    )
    save_model(path, build_network("deeplab_v3plus_lite", arguments), metadata)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-fpr", "0.95"], "--target-fpr 0.95: outside the calibrated range 0.0002 to"),
        (["--target-fpr", "0"], "--target-fpr 0: outside"),
        (["--default-score", "dense_hybrid"], "--default-score: score 'dense_hybrid' needs"),
    ],
)
def test_what_cannot_end_well_is_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    assert calibrate_file(model, tmp_path / "out.json", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_other_classes_are_not_measured_on_road_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model_of_three_classes(tmp_path / "three.safetensors")
    assert calibrate_file(model, tmp_path / "out.json") == 1
    assert "three.safetensors' has 3 classes" in capsys.readouterr().err


def test_converting_advises_a_calibration_only_where_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(tiny_network().state_dict(), tmp_path / "road.pth")
    save_model_of_three_classes(tmp_path / "three.safetensors")
    for source in ("road.pth", "three.safetensors"):
        target = tmp_path / f"converted_{source}.safetensors"
        assert convert_model.main([str(tmp_path / source), "--to", str(target)]) == 0
        advised = "python -m training.calibrate --model" in capsys.readouterr().out
        calibrate_file(target, tmp_path / "out.json")
        refused = "classes, the labels have" in capsys.readouterr().err
        assert advised == (source == "road.pth")
        assert refused != advised


class TestNotes:
    def test_dates_become_texts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        held_out = scenes("held out", 9, count=1)
        image, labels = held_out.load(0)
        mask = np.zeros(labels.shape, np.uint8)
        mask[:9] = 1
        unknown = Corpus.of_arrays("unknown", [image], [mask])
        data = training_data(calibration=[held_out], unknown=[unknown])
        monkeypatch.setattr(calibrate, "TrainingData", lambda *_: data)
        notes = tmp_path / "notes.yaml"
        notes.write_text("day: 2026-11-03\ntimes: [2026-11-03T12:30:00Z]\nseeds: {1: a}\n")
        model = save_tiny_model(tmp_path / "tiny.safetensors")
        out = tmp_path / "out.json"
        assert calibrate_file(model, out, "--notes", str(notes)) == 0
        metadata = ModelMetadata.from_json(out.read_text())
        provenance = metadata.provenance
        assert provenance["day"] == "2026-11-03"
        assert provenance["times"] == ["2026-11-03T12:30:00+00:00"]
        assert provenance["seeds"] == {"1": "a"}
        assert "calibration" in provenance
        # The things are searched by the default score, on one frame that shows no thing.
        assert metadata.object_rates.score == metadata.default_score
        assert len(metadata.object_rates.found) >= 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("picture: !!binary aGVsbG8=", "b'hello' cannot be written as JSON"),
            ("seen: !!set {a, b}", "cannot be written as JSON"),
            ("runs: {2026-11-03: good}", "keys must be str"),
            ("all: &all [*all]", "Circular reference"),
        ],
    )
    def test_others_are_refused_before_measuring(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
    ) -> None:
        notes = tmp_path / "notes.yaml"
        notes.write_text(text)
        model = save_tiny_model(tmp_path / "tiny.safetensors")
        assert calibrate_file(model, tmp_path / "out.json", "--notes", str(notes)) == 1
        error = capsys.readouterr().err
        assert "notes.yaml: " in error
        assert message in error
