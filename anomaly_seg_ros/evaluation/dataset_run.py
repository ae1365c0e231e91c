# SPDX-License-Identifier: Apache-2.0
"""Evaluates data sets through a detector node, by way of a bag."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import Dataset
from anomaly_seg_ros.datasets.label_scan import check_mask_convention
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.bag_run import evaluate_bag
from anomaly_seg_ros.evaluation.frames import BagFrames, DatasetFrames, Frames
from anomaly_seg_ros.evaluation.plan import (
    IN_PROCESS,
    LOCK_STEP,
    NODE,
    NamedPath,
    Plan,
    RunOptions,
)
from anomaly_seg_ros.evaluation.results import Run, ScoreFigures
from anomaly_seg_ros.evaluation.scorers import ModelScorer
from anomaly_seg_ros.evaluation.table_formats import format_number
from anomaly_seg_ros.ros.discovery import check_discovery


def evaluate_dataset(
    dataset: Dataset,
    out: Path,
    options: RunOptions,
    limit: int | None = None,
    keep_bag: bool = False,
) -> Run:
    """Converts a data set into ``out/bag`` and evaluates it.

    Args:
        dataset: The data set.
        out: Folder for the bag and the results.
        options: See :class:`RunOptions`.
        limit: Evaluate only this many frames, from the start.
        keep_bag: Keep the bag afterwards; raw frames take 6 MB each at 2048x1024.

    Raises:
        AnomalySegError: Anything that the user can fix.
    """
    check_mask_convention(dataset, dataset.root)
    if options.mode != IN_PROCESS:
        check_discovery(os.environ)  # before the bag is written
    bag = out / "bag"
    count = min(len(dataset), limit or len(dataset))
    _write_bag(dataset, dataset.root.resolve().name, count, bag)
    try:
        return evaluate_bag(bag, out, options)
    finally:
        if not keep_bag:
            shutil.rmtree(bag)


def run_node(plan: Plan, model: NamedPath, scorer: ModelScorer, frames: Frames, out: Path) -> Run:
    """Starts a node, sends it every frame and scores the answers.

    Args:
        plan: The plan that the run belongs to.
        model: The model for the node to load.
        scorer: The same model in this process.
        frames: A bag, or a data set, which is converted into one.
        out: Folder for the node's log and the tool's own report.

    Returns:
        AP, AUROC and FPR95 of the one score that a node publishes, from its messages; the largest
        difference to the same score computed in this process is in the notes.

    Raises:
        AnomalySegError: See :func:`evaluate_bag`; or the model is not calibrated, so that a node
            has no unit scale to publish on.
    """
    score = _published_score(scorer)
    started = time.monotonic()
    options = RunOptions(model.source, plan.segmenter, score, LOCK_STEP)
    bag = out / "bag"
    try:
        if isinstance(frames, BagFrames):
            if plan.limit is not None:
                raise ParameterError("limit: a bag goes through a node as a whole")
            options = replace(options, bag=frames.options)
            result = evaluate_bag(frames.path, out, options)
        elif not isinstance(frames, DatasetFrames):
            raise ParameterError(f"{frames.label}: several bags go through a node one by one")
        else:
            _write_bag(frames.dataset, frames.label, len(frames), bag)
            result = evaluate_bag(bag, out, options)
    finally:
        shutil.rmtree(bag, ignore_errors=True)
    replay = result.replay
    assert replay is not None  # noqa: S101 - of every bag
    assert replay.node is not None  # noqa: S101 - in lock-step
    node = replay.node
    difference = node.max_abs_difference_to_in_process
    notes = [
        *frames.notes,
        f"{score} as the node publishes it, in [0, 1]; largest difference to the same score "
        f"in-process: {format_number(difference, '.3g')}",
    ]
    if replay.lost:
        notes.append(f"{replay.lost} of {replay.sent} frames got no answer")
    return Run(
        model=scorer.name,
        dataset=frames.adapter,
        data=frames.label,
        via=NODE,
        frames=result.frames,
        pixels=result.pixels,
        scores={score: ScoreFigures(node.AP, node.AUROC, node.FPR95)},
        notes=notes,
        input=frames.input,
        seconds=round(time.monotonic() - started, 3),
        model_configuration={
            **scorer.configuration,
            "max_abs_difference_to_in_process": difference,
        },
    )


def _published_score(scorer: ModelScorer) -> str:
    """The model's default score where it is calibrated and requested, else the first that is."""
    calibrated = [score for score in scorer.scores if score in scorer.calibration]
    if not calibrated:
        raise ParameterError(
            f"model {scorer.name!r} is not calibrated for {', '.join(scorer.scores)}: a node has "
            "no [0, 1] scale to publish on"
        )
    default = scorer.segmenter.metadata.default_score
    return default if default in calibrated else calibrated[0]


def _write_bag(dataset: Dataset, label: str, count: int, bag: Path) -> None:
    writer = BagWriter(
        bag,
        frame_rate=dataset.frame_rate or 10.0,
        dataset=f"{dataset.name}: {label}",
        taxonomy=dataset.taxonomy_name,
        classes=dataset.classes,
        overwrite=True,
    )
    with writer:
        for index in tqdm(range(count), "writing the bag", unit="frame", file=sys.stderr):
            writer.write(dataset[index])
