"""Calibrates a model on held-out images and writes what the node needs beside its weights.

    python -m training.calibrate --run-dir runs/lite0 --out NAME.safetensors
    python -m training.calibrate --erfnet FILE.pth --out NAME.json

In-distribution pixels: the labelled pixels of frames kept back from training (Cityscapes-256 val,
CamVid val, every sixth BDD100K frame). Unknown pixels: CamVid's animals, traffic cones, carts and
other moving things, which no training label names. Nothing under ``anomaly/`` is touched.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints import load_strictly, save_model
from anomaly_seg_ros.datasets.label_maps import IGNORE_INDEX
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.erfnet import ERFNet
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.scores import SCORE_NAMES, ClassStatistics
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.closed_set import MEAN, STD
from training.road_scenes import calibration_corpora, unknown_corpus

INLIER_RATES = (
    0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.075, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01,
    0.0075, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002,
)  # fmt: skip
OUTLIER_RATES = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


@dataclass
class PixelSample:
    """Scores of randomly chosen pixels.

    Attributes:
        scores: By score name, (n,) float32.
        predicted: (n,) uint8 predicted trainIds.
    """

    scores: dict[str, np.ndarray]
    predicted: np.ndarray


def sample_pixels(
    segmenter: Segmenter,
    frames: Sequence[tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    pixels_per_frame: int,
    seed: int = 0,
) -> PixelSample:
    """Scores frames and keeps a random share of the chosen pixels.

    Args:
        segmenter: The model.
        frames: (H, W, 3) uint8 RGB images with (H, W) bool masks of the pixels to draw from.
        names: Scores.
        pixels_per_frame: At most so many pixels of each frame.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    predicted = []
    for image, mask in tqdm(frames, ", ".join(names), unit="frame"):
        prediction = segmenter.predict(image, scores=names, confidence=False)
        chosen = np.flatnonzero(mask)
        if chosen.size > pixels_per_frame:
            chosen = rng.choice(chosen, pixels_per_frame, replace=False)
        for name in names:
            kept[name].append(prediction.scores[name].ravel()[chosen])
        predicted.append(prediction.labels.ravel()[chosen])
    return PixelSample({k: np.concatenate(v) for k, v in kept.items()}, np.concatenate(predicted))


def class_statistics(sample: PixelSample, num_classes: int) -> ClassStatistics:
    """Mean and deviation of the maximum logit by predicted class (SML).

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


def calibrate_scores(
    inliers: PixelSample, outliers: PixelSample | None, target_fpr: float
) -> dict[str, ScoreCalibration]:
    """Thresholds and scales of all scores.

    Args:
        inliers: In-distribution pixels.
        outliers: Unknown pixels, or None.
        target_fpr: Share of in-distribution pixels above the default threshold.
    """
    calibration = {}
    for name, scores in inliers.scores.items():
        table = RateTable.from_scores(scores, INLIER_RATES)
        median, tail = np.quantile(scores, [0.5, 0.99])
        calibration[name] = ScoreCalibration(
            threshold=table.threshold_for(target_fpr),
            # The distance that in-distribution pixels span spreads over the middle of [0, 1].
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
    data: Path,
    device: str,
    target_fpr: float,
    pixels_per_frame: int = 4000,
) -> ModelMetadata:
    """Returns the metadata with statistics and calibration filled in."""

    def run(statistics: ClassStatistics | None) -> tuple[PixelSample, PixelSample]:
        described = replace(metadata, statistics=statistics, calibration={})
        segmenter = Segmenter(network, described, device)
        names = ("sml",) if statistics is not None else segmenter.available_scores
        inliers = sample_pixels(segmenter, inlier_frames, names, pixels_per_frame)
        outliers = sample_pixels(segmenter, outlier_frames, names, pixels_per_frame)
        return inliers, outliers

    inlier_frames = [
        (image, label != IGNORE_INDEX)
        for corpus in calibration_corpora(data)
        for image, label in zip(corpus.images, corpus.labels, strict=True)
    ]
    unknown = unknown_corpus(data)
    outlier_frames = [
        (image, label == 1)
        for image, label in zip(unknown.images, unknown.labels, strict=True)
        if (label == 1).any()
    ]
    # Twice, because SML's statistics come from the first pass. The seed draws the same pixels.
    inliers, outliers = run(None)
    statistics = class_statistics(inliers, len(metadata.classes))
    inliers_sml, outliers_sml = run(statistics)
    inliers.scores["sml"] = inliers_sml.scores["sml"]
    outliers.scores["sml"] = outliers_sml.scores["sml"]
    print(
        f"calibrated on {inliers.predicted.size} in-distribution pixels of "
        f"{len(inlier_frames)} frames and {outliers.predicted.size} unknown pixels of "
        f"{len(outlier_frames)} frames"
    )
    return replace(
        metadata,
        statistics=statistics,
        calibration=calibrate_scores(inliers, outliers, target_fpr),
    )


def _trained(run_dir: Path) -> tuple[nn.Module, ModelMetadata]:
    """The averaged network of a closed-set run and its metadata before calibration."""
    state = torch.load(run_dir / "average.pt", map_location="cpu", weights_only=True)
    config = torch.load(run_dir / "last.pt", map_location="cpu", weights_only=True)["config"]
    taxonomy = load_taxonomy("cityscapes")
    arguments = {"num_classes": len(taxonomy.classes), "backbone": config["backbone"]}
    network = build_network("deeplab_v3plus_lite", arguments)
    load_strictly(network, state, str(run_dir / "average.pt"))
    return network, ModelMetadata(
        name=f"deeplab_{config['backbone']}",
        architecture="deeplab_v3plus_lite",
        arguments=arguments,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=MEAN,
        std=STD,
        inference_size=(512, 1024),
        provenance={"training": config},
    )


def _public_erfnet(path: Path) -> tuple[nn.Module, ModelMetadata]:
    taxonomy = load_taxonomy("cityscapes")
    arguments = {"num_classes": 19, "num_outputs": 20}
    network = ERFNet(**arguments)
    state = torch.load(path, map_location="cpu", weights_only=True)
    load_strictly(network, state, str(path))
    return network, ModelMetadata(
        name="erfnet_cityscapes",
        architecture="erfnet",
        arguments=arguments,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        inference_size=(512, 1024),
        provenance={"weights": "Romera et al., public ERFNet checkpoint, CC BY-NC 4.0"},
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run-dir", type=Path, help="folder of a closed-set training")
    source.add_argument("--erfnet", type=Path, help="public ERFNet checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    data = os.environ.get("ANOMALY_SEG_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--target-fpr", type=float, default=0.01)
    parser.add_argument("--default-score", default="max_logit", choices=SCORE_NAMES)
    parser.add_argument("--notes", type=Path, help="YAML that is merged into the provenance")
    args = parser.parse_args(arguments)
    build = (
        (lambda: _trained(args.run_dir)) if args.run_dir else (lambda: _public_erfnet(args.erfnet))
    )
    network, metadata = build()
    metadata = calibrate(network, metadata, args.data, args.device, args.target_fpr)
    notes = yaml.safe_load(args.notes.read_text()) if args.notes else {}
    metadata = replace(
        metadata,
        default_score=args.default_score,
        provenance={**metadata.provenance, "calibrated_fpr": args.target_fpr, **notes},
    )
    if args.out.suffix == ".json":
        args.out.write_text(metadata.to_json() + "\n", encoding="utf-8")
    elif args.out.suffix == ".safetensors":
        # The Segmenter folds BatchNorm in place: save a fresh copy of the network.
        save_model(args.out, build()[0], metadata)
    else:
        raise CheckpointError(f"{args.out}: expected .safetensors or .json")
    for name, c in metadata.calibration.items():
        tpr = np.interp(c.threshold, c.outlier_rates.thresholds, c.outlier_rates.rates)
        print(f"{name:14s} threshold {c.threshold:9.4f} flags {tpr:6.1%} of the unknown pixels")


if __name__ == "__main__":
    main()
