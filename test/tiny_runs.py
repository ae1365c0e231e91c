# SPDX-License-Identifier: Apache-2.0
"""Plans over miniature data sets, and their figures by another way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.evaluation.plan import Plan, parse_data, parse_named
from anomaly_seg_ros.evaluation.results import Run
from anomaly_seg_ros.evaluation.run import run_plan
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.inference.segmenter import Segmenter

SCORES = ("msp", "max_logit")
CPU = SegmenterOptions(device="cpu")


def a_plan(out: Path, model: Path | None, *data: str | Path, **changes: object) -> Plan:
    models = () if model is None else (parse_named(str(model)),)
    specs = tuple(parse_data(str(text)) for text in data)
    return Plan(
        **{"models": models, "data": specs, "out": out, "segmenter": CPU, "scores": SCORES}
        | changes
    )


def only_run(plan: Plan) -> Run:
    (run,) = run_plan(plan).runs
    return run


def without_seconds(path: Path) -> list[dict]:
    runs = json.loads(path.read_text())["runs"]
    for run in runs:
        assert run.pop("seconds") > 0
    return runs


def predictions(model: Path, adapter: str, root: Path, **options: object):
    """Everything again, without the suite: samples and what the segmenter says about each."""
    segmenter = Segmenter.load(model, device="cpu")
    for sample in open_dataset(adapter, root, **options):
        loaded = sample.load()
        yield loaded, segmenter.predict(loaded.image, SCORES)


def labelled(model: Path, root: Path, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Pooled anomalies (0 / 1) and scores."""
    truth, raw = [], []
    for sample, prediction in predictions(model, "auto", root):
        kept = sample.anomaly_mask < 2
        truth.append(sample.anomaly_mask[kept])
        raw.append(prediction.scores[score][kept])
    return np.concatenate(truth), np.concatenate(raw)
