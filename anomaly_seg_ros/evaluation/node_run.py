"""A run through a detector node, in lock-step: what is published against what was computed."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.bag_run import LOCK_STEP, RunOptions, evaluate_bag
from anomaly_seg_ros.evaluation.figures import Run, ScoreResult, percent
from anomaly_seg_ros.evaluation.frames import BagFrames, DatasetFrames, Frames
from anomaly_seg_ros.evaluation.plan import NODE, NamedPath, Plan
from anomaly_seg_ros.evaluation.scorers import ModelScorer


def run_node(plan: Plan, model: NamedPath, scorer: ModelScorer, frames: Frames, out: Path) -> Run:
    """Sends every frame to a node of its own and scores the answers.

    Args:
        plan: That it is part of.
        model: That the node loads.
        scorer: The same model in this process.
        frames: Of a data set, which becomes a bag for the purpose, or of a bag.
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
            _write_bag(frames, bag)
            result = evaluate_bag(bag, out, options)
    finally:
        shutil.rmtree(bag, ignore_errors=True)
    node = result.node
    notes = [
        *frames.notes,
        f"{score} as the node publishes it, in [0, 1]; largest difference to the same score "
        f"in-process: {node.max_abs_difference_to_in_process:.3g}",
    ]
    if result.frames.lost:
        notes.append(f"{result.frames.lost} of {result.frames.sent} frames got no answer")
    figures = [percent(value / 100) for value in (node.AP, node.AUROC, node.FPR95)]
    return Run(
        model=scorer.name,
        dataset=frames.adapter,
        data=frames.label,
        via=NODE,
        frames=result.frames.scored,
        pixels=result.pixels,
        scores={score: ScoreResult(*figures)},
        notes=notes,
        input=frames.input,
        seconds=round(time.monotonic() - started, 3),
        model_configuration={
            **scorer.configuration,
            "max_abs_difference_to_in_process": node.max_abs_difference_to_in_process,
        },
    )


def _published_score(scorer: ModelScorer) -> str:
    """The model's default score where it is among the wanted ones, else the first of these."""
    calibrated = [score for score in scorer.scores if score in scorer.calibration]
    if not calibrated:
        raise ParameterError(
            f"model {scorer.name!r} is not calibrated for {', '.join(scorer.scores)}: a node has "
            "no [0, 1] scale to publish on"
        )
    default = scorer.segmenter.metadata.default_score
    return default if default in calibrated else calibrated[0]


def _write_bag(frames: DatasetFrames, bag: Path) -> None:
    dataset = frames.dataset
    writer = BagWriter(
        bag,
        frame_rate=dataset.frame_rate or 10.0,
        dataset=f"{dataset.name}: {frames.label}",
        taxonomy=dataset.taxonomy_name,
        overwrite=True,
    )
    with writer:
        for index in tqdm(range(len(frames)), "writing the bag", unit="frame", file=sys.stderr):
            writer.write(dataset[index])
