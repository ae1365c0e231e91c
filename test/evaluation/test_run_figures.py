# SPDX-License-Identifier: Apache-2.0
"""Every figure of a run against another way to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score
from tiny_runs import SCORES, a_plan, labelled, only_run, predictions

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.metrics.components import (
    OBSTACLE_TRACK,
    FrameComponents,
    compare_components,
)
from anomaly_seg_ros.metrics.object_detection import ObjectDetections
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects, paint


def test_pooled_and_single_images_are_scikit_learns(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    run = only_run(a_plan(tmp_path, model, obstacles))
    assert (run.model, run.dataset, run.data, run.frames) == ("tiny", "folder", "obstacles", 5)
    counts = ImageCounts.load(tmp_path / "images" / "tiny__obstacles.npz")
    assert counts.names == tuple(f"f{index}" for index in range(5))
    for score in SCORES:
        truth, raw = labelled(model, obstacles, score)
        found = run.scores[score]
        assert pytest.approx(100 * average_precision_score(truth, raw), abs=1e-9) == found.AP
        assert pytest.approx(100 * roc_auc_score(truth, raw), abs=1e-9) == found.AUROC
        reached = np.quantile(raw[truth == 1], 0.05, method="inverted_cdf")
        assert pytest.approx(100 * (raw[truth == 0] >= reached).mean(), abs=0.3) == found.FPR95
        assert found.FPR95_conventions["at_least"] == found.FPR95
        assert run.pixels == {"anomaly": truth.sum(), "in_distribution": (1 - truth).sum()}
        # Per image: the fifth has no anomaly.
        single = [
            average_precision_score(
                sample.anomaly_mask[sample.anomaly_mask < 2],
                prediction.scores[score][sample.anomaly_mask < 2],
            )
            for sample, prediction in list(predictions(model, "folder", obstacles))[:4]
        ]
        assert found.per_image.images == 4
        assert pytest.approx(100 * np.mean(single), abs=1e-9) == found.per_image.AP
        assert counts.per_image(score)["AP"][:4] == pytest.approx(single)
        assert np.isnan(counts.per_image(score)["AP"][4])
        positives, negatives = counts.counts(score)
        assert positives.sum() == truth.sum()
        assert negatives.sum() == (1 - truth).sum()


def test_components_at_the_threshold_with_the_best_f1(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    run = only_run(a_plan(tmp_path, model, obstacles, components="obstacle_track"))
    for score in SCORES:
        truth, raw = labelled(model, obstacles, score)
        found = run.scores[score]
        candidates = np.unique(raw)
        f1 = [2 * (truth[raw >= t]).sum() / ((raw >= t).sum() + truth.sum()) for t in candidates]
        assert pytest.approx(100 * max(f1)) == found.best_F1.F1
        assert found.best_F1.threshold == candidates[np.argmax(f1)]
        assert found.components.threshold == found.best_F1.threshold
        siou, ppv = [], []
        for sample, prediction in predictions(model, "folder", obstacles):
            frame = compare_components(
                sample.anomaly_mask == 1,
                sample.anomaly_mask == 255,
                prediction.scores[score] >= found.best_F1.threshold,
                OBSTACLE_TRACK,
            )
            siou, ppv = [*siou, *frame.siou], [*ppv, *frame.ppv]
        assert found.components.sIoU == pytest.approx(100 * np.mean(siou))
        assert pytest.approx(100 * np.mean(ppv)) == found.components.PPV
        assert found.components.sizes == "obstacle_track"


def deployable(folder: Path, model: Path, obstacles: Path, **changes: object) -> Path:
    """The tiny model with thresholds that a tenth of the pixels reach."""
    network, metadata = load_model(model)
    calibration = {}
    for score in SCORES:
        _, raw = labelled(model, obstacles, score)
        threshold, scale = float(np.quantile(raw, 0.9)), float(raw.std())
        calibration[score] = replace(metadata.calibration[score], threshold=threshold, scale=scale)
    path = folder / "deployable.safetensors"
    save_model(path, network, replace(metadata, calibration=calibration, **changes))
    return path


def test_objects_beside_pixels_at_the_deployed_threshold(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    rates = ObjectRates(SCORES[0], ObjectRule(), (0.0, 0.55), (2.0, 0.4), (0.9, 0.5))
    model = deployable(tmp_path, model, obstacles, object_rates=rates)
    run = only_run(a_plan(tmp_path, model, obstacles, components="obstacle_track"))
    calibrations = Segmenter.load(model, device="cpu").metadata.calibration
    for score in SCORES:
        found = run.scores[score].objects
        # The model's table is that of one score.
        assert found.min_score == (0.55 if score == SCORES[0] else 0.0)
        rule = ObjectRule(min_area=OBSTACLE_TRACK.predicted, min_score=found.min_score)
        counted = ObjectDetections(OBSTACLE_TRACK.target)
        frames: dict[str, list[FrameComponents]] = {"pixels": [], "objects": []}
        for sample, prediction in predictions(model, "folder", obstacles):
            unit = calibrations[score].to_unit(prediction.scores[score])
            objects = find_objects(unit, rule)
            counted.update(objects, sample.anomaly_mask)
            masks = {"pixels": unit >= 0.5, "objects": paint(objects, unit.shape) > 0}
            target, ignored = sample.anomaly_mask == 1, sample.anomaly_mask == 255
            for name, mask in masks.items():
                frame = compare_components(target, ignored, mask, OBSTACLE_TRACK)
                frames[name].append(frame)
        for key, name in (("pixels_PPV", "pixels"), ("PPV", "objects")):
            ppv = np.concatenate([frame.ppv for frame in frames[name]])
            assert ppv.size, name
            assert getattr(found, key) == pytest.approx(100 * ppv.mean())
        siou = np.concatenate([frame.siou for frame in frames["objects"]])
        assert found.sIoU == pytest.approx(100 * siou.mean())
        counts = counted.at(0.0)
        assert found.found == pytest.approx(100 * counts.found / counts.targets)
        assert found.false_alarms == counts.false_alarms / 5
        assert found.sizes == "obstacle_track"


def test_calibration_is_measured_at_the_deployed_threshold(
    tmp_path: Path, model: Path, obstacles: Path
) -> None:
    run = only_run(a_plan(tmp_path, model, obstacles, scores=("all",)))
    segmenter = Segmenter.load(model, device="cpu")
    assert tuple(run.scores) == segmenter.available_scores
    calibration = segmenter.metadata.calibration["max_logit"]
    truth, raw = labelled(model, obstacles, "max_logit")
    found = run.scores["max_logit"].calibration
    alarms = raw >= calibration.threshold
    assert found.measured_TPR == pytest.approx(100 * alarms[truth == 1].mean())
    assert found.measured_FPR == pytest.approx(100 * alarms[truth == 0].mean())
    # The tiny model's table: 10 % at 0, 5 % at 1; its threshold for max_logit is 0.2.
    assert found.target_FPR == pytest.approx(9.0)
    unit = calibration.to_unit(raw).astype(np.float64)
    bins = np.minimum((unit * 15).astype(int), 14)
    gaps = [abs((unit - truth)[bins == b].sum()) for b in range(15)]
    assert pytest.approx(100 * sum(gaps) / truth.size, abs=0.2) == found.ECE


def test_distance_bins(tmp_path: Path, model: Path, lost_and_found: Path) -> None:
    run = only_run(a_plan(tmp_path, model, f"lost_and_found:{lost_and_found}"))
    assert run.dataset == "lost_and_found"
    found = run.scores["max_logit"].distance
    assert [(b.from_m, b.to_m) for b in found] == [(m, m + 5.0) for m in range(5, 50, 5)]
    truth, raw, metres = [], [], []
    for sample, prediction in predictions(model, "lost_and_found", lost_and_found):
        kept = (sample.anomaly_mask < 2) & (sample.disparity > 0)
        truth.append(sample.anomaly_mask[kept])
        raw.append(prediction.scores["max_logit"][kept])
        metres.append(0.25 * 200 * 256 / sample.disparity[kept].astype(float))
    truth, raw, metres = (np.concatenate(parts) for parts in (truth, raw, metres))
    filled = 0
    for place in found:
        here = (metres >= place.from_m) & (metres < place.to_m)
        assert place.anomaly == truth[here].sum()
        assert place.in_distribution == (1 - truth[here]).sum()
        if place.anomaly:
            expected = 100 * average_precision_score(truth[here], raw[here])
            assert pytest.approx(expected, abs=1e-9) == place.AP
            filled += 1
        else:
            assert place.AP is None
    assert filled > 3
    assert any(note.startswith("by distance without: unmeasured") for note in run.notes)


def test_closed_and_open_set_at_the_calibrated_threshold(
    tmp_path: Path, model: Path, void_classes: Path
) -> None:
    data = f"cityscapes:{void_classes}?void_as_unknown=true"
    run = only_run(a_plan(tmp_path, model, data))
    assert run.data == "cityscapes-void_as_unknown=true"
    threshold = Segmenter.load(model, device="cpu").metadata.calibration["msp"].threshold
    closed = np.zeros((20, 20), int)
    opened = np.zeros((20, 20), int)
    for sample, prediction in predictions(model, "cityscapes", void_classes, void_as_unknown=True):
        truth = np.where(sample.anomaly_mask == 1, 19, sample.labels)
        kept = truth < 20
        alarmed = np.where(prediction.scores["msp"] >= threshold, 19, prediction.labels)
        opened += confusion_matrix(truth[kept], alarmed[kept], labels=range(20))
        known = sample.labels < 19
        closed += confusion_matrix(
            sample.labels[known], prediction.labels[known], labels=range(20)
        )

    def mean_iou(matrix: np.ndarray, present: np.ndarray) -> float:
        hits = matrix.diagonal()[:19]
        union = (matrix.sum(0) + matrix.sum(1))[:19] - hits
        return 100 * np.mean(hits[present] / union[present])

    assert run.segmentation.mIoU == pytest.approx(mean_iou(closed, closed.sum(1)[:19] > 0))
    found = run.open_set["msp"]
    occurs = (opened.sum(0) + opened.sum(1))[:19] > 0
    assert found.open_mIoU == pytest.approx(mean_iou(opened, occurs))
    assert found.gap == pytest.approx(found.closed_mIoU - found.open_mIoU)
    assert pytest.approx(100 * opened[19, 19] / opened[19].sum()) == found.TPR
    assert found.threshold_from == "calibration"


def test_folds_take_the_threshold_of_each_other(
    tmp_path: Path, uncalibrated_model: Path, streets: Path
) -> None:
    run = only_run(a_plan(tmp_path, uncalibrated_model, streets))
    assert run.dataset == "street_hazards"
    scores: dict[str, list[np.ndarray]] = {"t5": [], "t6": []}
    for sample, prediction in predictions(uncalibrated_model, "street_hazards", streets):
        scores[sample.fold].append(prediction.scores["msp"][sample.anomaly_mask == 1])
    weighted = 0.0
    for fold, other in (("t5", "t6"), ("t6", "t5")):
        rank = int(np.ceil(0.95 * sum(map(np.size, scores[other]))))
        threshold = np.sort(np.concatenate(scores[other]))[-rank]
        weighted += len(scores[fold]) * (np.concatenate(scores[fold]) >= threshold).mean() / 5
    found = run.open_set["msp"]
    assert pytest.approx(100 * weighted) == found.TPR
    assert found.threshold_from == "folds"
    assert run.segmentation is not None
    # Not calibrated: said, and nothing made up.
    assert run.scores["msp"].calibration is None
    assert any("not calibrated: msp, max_logit" in note for note in run.notes)


def test_other_classes_than_the_models(tmp_path: Path, model: Path, streets: Path) -> None:
    run = only_run(a_plan(tmp_path, model, streets))
    assert run.segmentation is None
    assert run.open_set is None
    assert run.scores["msp"].AP is not None
    assert any("classes are not the model's" in note for note in run.notes)


def test_labels_without_masks_give_the_closed_set_alone(
    tmp_path: Path, model: Path, void_classes: Path
) -> None:
    run = only_run(a_plan(tmp_path, model, f"cityscapes:{void_classes}"))
    assert run.segmentation.mIoU is not None
    assert run.scores == {}
    assert any("no anomaly mask" in note for note in run.notes)
