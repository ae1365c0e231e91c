# SPDX-License-Identifier: Apache-2.0
"""Calibrate a model on held-out images; writes its score statistics, thresholds and rates.

    python -m training.calibrate --run-dir runs/lite0 --out NAME.safetensors
    python -m training.calibrate --model FILE --out NAME.safetensors
    python -m training.calibrate --model erfnet --out NAME.json

In-distribution pixels are the labelled pixels of frames held out from training, the section
``calibration`` of the data block. Unknown pixels are natural unknown things, its section
``unknown``, and objects pasted into the held-out frames (by ``training.fine_tune`` and
``--mixed``). ``--config`` takes the configuration of a fine-tuning; models with other classes than
its data's are refused.

Every score that the model offers is calibrated, including those of an outlier head, if it has one,
and SML, whose class statistics are measured first. The rates of whole objects
(:mod:`training.object_rates`) are those of the default score.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import OutputError, ParameterError, first_line
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX, UNKNOWN_ID
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule
from anomaly_seg_ros.scores import SCORES, ClassStatistics, missing_for
from anomaly_seg_ros.system.tool import run_tool
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.corpora import TrainingData
from training.data.held_out import MaskedFrame, NaturalFrames, mixed_held_out
from training.engine.config import CONFIGS, add_config_options, load_config, read_yaml
from training.engine.entry import data_folder, folder_argument
from training.engine.storage import write_atomically
from training.networks import check_classes
from training.object_rates import object_rates

INLIER_RATES = (
    0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.075, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01,
    0.0075, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002,
)  # fmt: skip
OUTLIER_RATES = (
    0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05,
    0.02, 0.01,
)  # fmt: skip


@dataclass
class PixelSample:
    """Scores of randomly chosen pixels.

    Attributes:
        scores: (n,) float32 by score name.
        predicted: (n,) uint8 predicted trainIds.
    """

    scores: dict[str, np.ndarray]
    predicted: np.ndarray


def sample_pixels(
    segmenter: Segmenter,
    frames: Iterable[tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    pixels_per_frame: int,
    seed: int = 0,
    total: int | None = None,
) -> PixelSample:
    """Scores frames and keeps random pixels of each.

    Args:
        segmenter: The model.
        frames: (H, W, 3) uint8 RGB images with (H, W) bool masks of the pixels to draw from.
        names: Names of the scores.
        pixels_per_frame: Maximum number of pixels per frame.
        seed: Seed for choosing the pixels.
        total: Number of frames, for the progress bar.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    predicted = []
    for image, mask in tqdm(frames, ", ".join(names), total, unit="frame"):
        prediction = segmenter.predict(image, scores=names, confidence=False)
        chosen = np.flatnonzero(mask)
        if chosen.size > pixels_per_frame:
            chosen = rng.choice(chosen, pixels_per_frame, replace=False)
        for name in names:
            kept[name].append(prediction.scores[name].ravel()[chosen])
        predicted.append(prediction.labels.ravel()[chosen])
    return PixelSample({k: np.concatenate(v) for k, v in kept.items()}, np.concatenate(predicted))


def class_statistics(sample: PixelSample, num_classes: int) -> ClassStatistics:
    """Computes mean and deviation of the maximum logit by predicted class, for SML.

    Classes with fewer than 100 pixels get the statistics of all pixels.
    """
    largest = -sample.scores["max_logit"].astype(np.float64)
    mean = np.full(num_classes, largest.mean())
    std = np.full(num_classes, largest.std())
    for c in range(num_classes):
        of_class = largest[sample.predicted == c]
        if of_class.size >= 100:
            mean[c], std[c] = of_class.mean(), max(of_class.std(), 1e-3)
    return ClassStatistics(
        torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    )


def check_target_fpr(rate: float, source: str) -> None:
    """Refuses a rate outside of the calibration table, before any work is done.

    Args:
        rate: Share of in-distribution pixels above the default threshold.
        source: Key or option, which begins the message.

    Raises:
        ParameterError: The rate is outside of the table.
    """
    low, high = min(INLIER_RATES), max(INLIER_RATES)
    # Written so that NaN is refused.
    if not low <= rate <= high:
        raise ParameterError(
            f"{source} {rate:g}: outside the calibrated range {low:g} to {high:g}"
        )


def read_notes(path: Path) -> dict[str, Any]:
    """Reads notes for the model's metadata, which is JSON.

    Args:
        path: YAML file; dates become ISO 8601 strings.

    Raises:
        ParameterError: The file is missing or not a YAML mapping, or JSON cannot hold a value.
    """

    def plain(value: Any) -> str:
        if isinstance(value, date):  # a datetime is one
            return value.isoformat()
        raise TypeError(f"{short_repr(value)} cannot be written as JSON")

    try:
        return json.loads(json.dumps(read_yaml(path), default=plain))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{path}: {first_line(error)}") from error


def check_model(
    network: nn.Module, metadata: ModelMetadata, taxonomy: Taxonomy, model: str
) -> None:
    """Refuses a model with other classes than the held-out labels, or without its default score.

    Args:
        network: Any network of this package.
        metadata: Its metadata, with the default score that it is going to have.
        taxonomy: Classes of the held-out labels.
        model: Name or file, for error messages.

    Raises:
        ParameterError: The classes are not those of the labels, or the model cannot compute its
            default score.
    """
    check_classes(metadata, taxonomy, model)
    has_head = network.outlier_head is not None
    # Class statistics are measured by the calibration.
    if reason := missing_for(metadata.default_score, True, has_head):
        raise ParameterError(f"--default-score: {reason}")


def calibrate_scores(
    inliers: PixelSample, outliers: PixelSample | None, target_fpr: float
) -> dict[str, ScoreCalibration]:
    """Computes thresholds, scales and rates of all scores.

    Args:
        inliers: Sample of in-distribution pixels.
        outliers: Sample of unknown pixels, or None.
        target_fpr: Share of in-distribution pixels above the default threshold.
    """
    calibration = {}
    for name, scores in inliers.scores.items():
        table = RateTable.from_scores(scores, INLIER_RATES)
        median, tail = np.quantile(scores, [0.5, 0.99])
        calibration[name] = ScoreCalibration(
            threshold=table.threshold_for(target_fpr),
            # The range of in-distribution pixels is mapped to the middle of [0, 1].
            scale=float(max(tail - median, 1e-6)),
            inlier_rates=table,
            outlier_rates=None
            if outliers is None
            else RateTable.from_scores(outliers.scores[name], OUTLIER_RATES),
        )
    return calibration


def calibrate(
    network: nn.Module,
    metadata: ModelMetadata,
    data: TrainingData,
    device: str,
    target_fpr: float,
    pixels_per_frame: int = 4000,
    mixed: Sequence[MaskedFrame] = (),
) -> ModelMetadata:
    """Measures statistics, scales, thresholds and rates of every score that the model offers.

    With unknown things, also what share of them is found as objects by the default score.

    Args:
        network: Any network of this package; not changed.
        metadata: Its metadata; the inference size is used.
        data: Held-out frames of the run.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        target_fpr: Share of in-distribution pixels above the default threshold.
        pixels_per_frame: Maximum number of pixels per frame and kind.
        mixed: Held-out frames with pasted objects, which count as unknown in addition to natural
            unknown things.

    Returns:
        The metadata with statistics and calibration filled in.
    """
    count = sum(map(len, data.calibration))
    natural = NaturalFrames(data.unknown)
    unknown = len(natural) + len(mixed)

    def inlier_frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image, label in itertools.chain.from_iterable(data.calibration):
            yield image, (label != IGNORE_INDEX) & (label != UNKNOWN_ID)

    def outlier_frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for frame in itertools.chain(natural, mixed):
            yield frame.image, frame.mask == ANOMALY

    # The Segmenter folds BatchNorm in place.
    network = copy.deepcopy(network)

    def run(statistics: ClassStatistics | None) -> tuple[PixelSample, PixelSample | None]:
        described = replace(metadata, statistics=statistics, calibration={})
        segmenter = Segmenter(network, described, device=device)
        names = ("sml",) if statistics is not None else segmenter.available_scores
        kept = pixels_per_frame
        inliers = sample_pixels(segmenter, inlier_frames(), names, kept, total=count)
        if not unknown:
            return inliers, None
        outliers = sample_pixels(segmenter, outlier_frames(), names, kept, total=unknown)
        return inliers, outliers

    # Two passes, because SML needs statistics from the first. Both draw the same pixels.
    inliers, outliers = run(None)
    statistics = class_statistics(inliers, len(metadata.classes))
    inliers_sml, outliers_sml = run(statistics)
    inliers.scores["sml"] = inliers_sml.scores["sml"]
    if outliers is not None and outliers_sml is not None:
        outliers.scores["sml"] = outliers_sml.scores["sml"]
    measured: dict[str, Any] = {
        "target_fpr": target_fpr,
        "in_distribution": f"{inliers.predicted.size} pixels of {count} frames",
        "unknown": f"{0 if outliers is None else outliers.predicted.size} pixels of {unknown} "
        f"frames, {len(mixed)} of them with pasted objects",
    }
    print("calibrated on " + ", ".join(f"{k}: {v}" for k, v in measured.items()))
    calibration = calibrate_scores(inliers, outliers, target_fpr)
    print_rates(calibration)
    metadata = replace(metadata, statistics=statistics, calibration=calibration)
    if unknown:
        known = ((image, np.where(mask, 0, IGNORE_INDEX)) for image, mask in inlier_frames())
        kinds: dict[str, Sequence[MaskedFrame]] = {"natural": natural, "pasted": mixed}
        rates, report = object_rates(
            Segmenter(network, metadata, device=device),
            metadata.default_score,
            tqdm(known, "objects, false alarms", count, unit="frame"),
            {
                kind: (
                    (frame.image, frame.mask)
                    for frame in tqdm(frames, f"objects, {kind}", unit="frame")
                )
                for kind, frames in kinds.items()
                if frames
            },
            ObjectRule(),
        )
        print_object_rates(rates)
        metadata = replace(metadata, object_rates=rates)
        measured["objects"] = report
    return replace(metadata, provenance={**metadata.provenance, "calibration": measured})


def print_rates(calibration: dict[str, ScoreCalibration]) -> None:
    """Prints the share of unknown pixels that each default threshold flags."""
    for name, score in calibration.items():
        rates = score.outlier_rates
        if rates is not None:
            tpr = np.interp(score.threshold, rates.thresholds, rates.rates)
            print(f"{name:14s} threshold {score.threshold:9.4f} flags {tpr:6.1%} of the unknowns")


def print_object_rates(rates: ObjectRates) -> None:
    """Prints the share of unknown things that is found at each rate of false alarms."""
    print(f"objects by {rates.score}: smallest score, false alarms per frame, things found")
    for row in zip(rates.min_scores, rates.false_alarms, rates.found, strict=True):
        print("  {:.4f} {:7.2f} {:7.1%}".format(*row))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run-dir", type=folder_argument, help="folder of a training")
    source.add_argument("--model", help="a name of docs/models.md, or a file")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors, or .json alone")
    parser.add_argument("--data", type=folder_argument, default=data_folder())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--target-fpr", type=float, default=0.01)
    parser.add_argument("--default-score", choices=SCORES, help="default: the model's own")
    parser.add_argument(
        "--mixed", type=int, default=0, metavar="N", help="also N frames with pasted objects"
    )
    parser.add_argument("--notes", type=Path, help="YAML that is merged into the provenance")
    add_config_options(parser)
    args = parser.parse_args(arguments)

    def body() -> None:
        if args.out.suffix not in (".json", ".safetensors"):
            raise OutputError(f"{args.out}: expected .safetensors or .json")
        check_target_fpr(args.target_fpr, "--target-fpr")
        notes = read_notes(args.notes) if args.notes else {}
        model = args.run_dir / "final.safetensors" if args.run_dir else args.model
        network, metadata = load_model(model)
        metadata = replace(
            metadata,
            default_score=args.default_score or metadata.default_score,
            provenance={**metadata.provenance, **notes},
        )
        config = load_config(CONFIGS / "fine_tune.yaml", args.config, args.set, args.data)
        data = TrainingData(config["data"], args.data)
        check_model(network, metadata, data.taxonomy, str(model))
        mixed = mixed_held_out(config["mixing"], data, args.mixed)
        metadata = calibrate(network, metadata, data, args.device, args.target_fpr, mixed=mixed)
        if args.out.suffix == ".json":
            text = metadata.to_json() + "\n"
            write_atomically(args.out, lambda file: file.write(text.encode()))
        else:
            save_model(args.out, network, metadata)

    return run_tool("calibrate", body)


if __name__ == "__main__":
    sys.exit(main())
