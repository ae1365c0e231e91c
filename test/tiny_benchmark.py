# SPDX-License-Identifier: Apache-2.0
"""Small benchmarks for tests: one with every section, and ones measured on drawn scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anomaly_seg_ros.evaluation.image_counts import ImageCountsCollector, image_counts_path
from anomaly_seg_ros.evaluation.results import (
    FPR95_KEYS,
    Benchmark,
    BestF1,
    Calibration,
    Components,
    DistanceBin,
    Latency,
    NodeFigures,
    Objects,
    OpenSet,
    PerImage,
    Replay,
    Run,
    ScoreFigures,
    Segmentation,
    write_benchmark,
)
from anomaly_seg_ros.evaluation.summary import percent
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

SCORES = ("msp", "max_logit")


def full_benchmark() -> Benchmark:
    """Two models on two anomaly sets and a closed one; figures differ from each other."""
    runs = []
    for m, model in enumerate(("default", "erfnet")):
        for d, data in enumerate(("fs_lost_and_found", "road_anomaly")):
            scores = {
                name: _score(10 * m + 3 * d + 5 * s, first=d == 0) for s, name in enumerate(SCORES)
            }
            runs.append(
                Run(model, "folder", data, "in-process", 7, {"anomaly": 5, "in_distribution": 90})
            )
            runs[-1].scores = scores
        runs.append(
            Run(model, "cityscapes", "val", "in-process", 3, {"anomaly": 0, "in_distribution": 0})
        )
        runs[-1].segmentation = Segmentation(60.0 + m, 93.5 - m, {"road": 97.0, "train": None})
        runs[0].open_set = {
            name: OpenSet(40.5 + s, 60.0, 19.5 - s, 55.0, 12.0, 95.0, 30.0, "folds", {"road": 80})
            for s, name in enumerate(SCORES)
        }
    return Benchmark(runs)


def replayed_run() -> Run:
    """A replayed bag with every section."""
    return Run(
        model="default",
        dataset="bag",
        data="lost_and_found",
        via="node",
        frames=16,
        scores={
            "msp": ScoreFigures(AP=3.21, AUROC=88.1, FPR95=40.0),
            "max_logit": ScoreFigures(AP=12.5, AUROC=91.25, FPR95=41.5),
        },
        pixels={"anomaly": 100, "in_distribution": 9000},
        segmentation=Segmentation(60.0, 93.0, {"road": 97.0, "train": None}),
        notes=["one frame had no mask"],
        replay=Replay(
            sent=17,
            lost=1,
            node=NodeFigures("max_logit", 3.1e-8, AP=12.5),
            latency_ms=Latency.from_samples([10.0, 20.0, 30.0, 40.0]),
            dropped={"node": 2},
            configuration={"precision": "fp32", "inference_size": (512, 1024)},
        ),
    )


def _score(base: float, first: bool) -> ScoreFigures:
    return ScoreFigures(
        AP=20.125 + base,
        AUROC=80.25 + base / 10,
        FPR95=40.5 - base,
        FPR95_conventions={key: 40.5 - base + n for n, key in enumerate(FPR95_KEYS)},
        per_image=PerImage(31.0 + base, 82.0, 33.0 - base, 6),
        components=Components(25.0 + base, 14.5, 9.25, 0.75, "obstacle_track"),
        distance=[
            DistanceBin(5.0, 10.0, 50.0 + base, 9.0, 40, 400),
            DistanceBin(10.0, 15.0, None, None, 0, 300),
        ]
        if first
        else None,
        calibration=Calibration(0.5, 1.0, 1.5 + base, 60.0, None),
        best_F1=BestF1(28.0 + base, -3.25),
        objects=Objects(8.5, 5.25, 30.0, 11.0, 16.5 + base, 40.0, 0.75, 0.55, "obstacle_track"),
    )


def write_measured(
    folder: Path,
    model: str,
    masks: np.ndarray,
    scores: Mapping[str, np.ndarray],
    names: tuple[str, ...] | None = None,
    data: str = "drawn",
    miou: float | None = None,
) -> Path:
    """Measures scores as `evaluate` does and writes ``benchmark.json`` with the images' counts.

    Args:
        folder: Folder of the benchmark.
        model: Name of the model.
        masks: (n, H, W) uint8 ground truth.
        scores: (n, H, W) float32 by name.
        names: Names of the images.
        data: Name of the data.
        miou: mIoU in percent.
    """
    names = names or tuple(f"image_{index}" for index in range(len(masks)))
    kinds = {"anomaly": int((masks == 1).sum()), "in_distribution": int((masks == 0).sum())}
    run = Run(model, "folder", data, "in-process", len(masks), kinds)
    counts, frames = ImageCountsCollector(), {}
    for score, values in scores.items():
        pixels = PixelScores()
        for index, (name, value, mask) in enumerate(zip(names, values, masks, strict=True)):
            pixels.update(value, mask, name)
            counts.add(index, score, value, mask)
        frames[score] = pixels.frames
        figures = pixels.compute()
        own = figures.per_image
        run.scores[score] = ScoreFigures(
            AP=percent(figures.AP),
            AUROC=percent(figures.AUROC),
            FPR95=percent(figures.FPR95),
            per_image=PerImage(
                percent(own.AP), percent(own.AUROC), percent(own.FPR95), own.frames
            ),
        )
    if miou is not None:
        run.segmentation = Segmentation(miou, None, {})
    counts.finish(dict(enumerate(names)), frames).save(image_counts_path(folder, run))
    return write_benchmark(Benchmark([run]), folder)
