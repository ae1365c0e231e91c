# SPDX-License-Identifier: Apache-2.0
"""Train any network on the known classes: from an ImageNet trunk, another model, or nothing.

    python -m training.closed_set --run-dir runs/lite0
    torchrun --nproc-per-node 4 -m training.closed_set --run-dir runs/lite0

Resumes from ``last.pt`` in the run folder. At the end it writes ``final.safetensors``, which the
node can load: the averaged weights, their score statistics and thresholds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.scores import missing_for
from training.calibrate import calibrate, check_target_fpr
from training.class_bias import balance_classes
from training.data.corpora import Corpus, TrainingData
from training.data.stream import SampleStream
from training.data.views import ViewDataset, view_options
from training.engine.config import check_range, without_folders
from training.engine.entry import Run, run_entry
from training.engine.loop import LoopOptions, Trainer
from training.engine.schedule import build_optimizer, steps_of
from training.engine.steps import check_batch, resolved_precision
from training.losses.base import Objective
from training.losses.cross_entropy import ClosedSetCrossEntropy
from training.networks import (
    as_described,
    check_multiples,
    class_bias,
    parameter_groups,
    set_trainable,
    use_float32_backward,
)
from training.starts import Start, build_start
from training.validation import Viewer, every_nth, validation_matrix, validation_sizes


def class_weights(
    corpora: list[Corpus], num_classes: int, power: float, bounds: tuple[float, float]
) -> Tensor:
    """Computes loss weights, larger for rarer classes.

    Args:
        corpora: Labelled images, counted by their sampling weights.
        num_classes: Number of classes, K.
        power: Exponent of the inverse frequency; 0 gives all classes the same weight.
        bounds: Smallest and largest weight.

    Returns:
        (K,) float32 ``clip((1 / (K p_c)) ** power)`` with p_c the share of pixels of class c.
    """
    shares = np.zeros(num_classes)
    for corpus in corpora:
        counts = corpus.index.counts[:, :num_classes].sum(axis=0, dtype=np.int64)
        shares += corpus.weight * counts / counts.sum()
    shares /= shares.sum()
    weights = (1 / (num_classes * np.maximum(shares, 1e-9))) ** power
    return torch.tensor(np.clip(weights, *bounds), dtype=torch.float32)


def check_keys(config: dict[str, Any], start: Start) -> None:
    """Refuses what would fail after the training.

    Raises:
        ParameterError: The network does not support a size, or the model cannot be balanced,
            calibrated or have this default score; the message names the key.
    """
    inference_size = config["network"]["inference_size"]
    sizes = {
        "crop": config["crop"],
        "network.inference_size": inference_size,
        **validation_sizes(config),
    }
    check_multiples(start.network, sizes)
    if config["calibrate"]:
        check_target_fpr(config["target_fpr"], "target_fpr")
    if config["balance_classes"]:
        class_bias(start.network)
    if reason := missing_for(config["default_score"], config["calibrate"], has_outlier_head=False):
        raise ParameterError(f"default_score: {reason}")


def write_model(run: Run, network: nn.Module, metadata: ModelMetadata, data: TrainingData) -> None:
    """Balances the classes, writes ``final.safetensors`` and prints its validation figures."""
    config = run.config
    viewer = Viewer.configured(run, metadata)
    if config["balance_classes"]:
        balance_classes(network, data.train[0], viewer)
    matrix = validation_matrix(network, data.validation, viewer)
    print(
        f"validation: mIoU {matrix.mean_iou():.4f}, pixel accuracy {matrix.pixel_accuracy():.4f}"
    )
    print("  IoU " + " ".join(f"{x:.3f}" for x in np.nan_to_num(matrix.iou())))
    told = {**metadata.provenance, "training": without_folders(config)}
    metadata = replace(metadata, provenance=told)
    network = as_described(network, metadata)
    path = run.folder / "final.safetensors"
    # Before the calibration: should that fail, training.calibrate goes on from here.
    save_model(path, network, metadata)
    if config["calibrate"]:
        device, rate = str(run.device), config["target_fpr"]
        save_model(path, network, calibrate(network, metadata, data, device, rate))
    print(f"wrote {path}")


def train(run: Run) -> None:
    """Trains from a start, or resumes.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.
    """
    config = run.config
    data = TrainingData(config["data"], run.data)
    start = build_start(config, data.taxonomy)
    check_keys(config, start)
    network, metadata = start.network, start.metadata
    config["precision"] = resolved_precision(run.device, config["precision"], network.bf16)
    # Freezes what the forward pass does not use, such as auxiliary classifiers.
    trained = set_trainable(network, "all", batchnorm="train", frozen_parts="train")
    network.to(run.device, memory_format=torch.channels_last)
    if run.device.type == "cpu":
        use_float32_backward(network)
    check_batch(network, config, run.distributed)
    groups = parameter_groups(
        network,
        lr=config["decoder_lr"],
        trunk_lr=config["backbone_lr"],
        head_lr=config["decoder_lr"],
        weight_decay=config["weight_decay"],
    )
    corpora, num_classes = data.train, len(data.taxonomy.classes)
    config["steps"] = steps_of(config, sum(map(len, corpora)))
    some = every_nth(data.validation, config)

    def quick_validation(average: nn.Module) -> dict[str, float]:
        matrix = validation_matrix(average, some, Viewer.configured(run, metadata))
        return {"val_miou": matrix.mean_iou(), "val_pixel_accuracy": matrix.pixel_accuracy()}

    check_range("class_weight_range", config["class_weight_range"])
    weights = class_weights(
        corpora,
        num_classes,
        config["class_weight_power"],
        tuple(config["class_weight_range"]),
    )
    loss = ClosedSetCrossEntropy(class_weights=weights.tolist()).follow(network).to(run.device)
    dataset = ViewDataset(
        corpora, view_options(config), num_classes, config["seed"], config["class_uniform"]
    )
    stream = SampleStream.configured(dataset, config, run.distributed)
    trainer = Trainer(
        model=network,
        optimizer=build_optimizer(groups, config),
        loss_fn=Objective(loss, metadata.input_scaling),
        options=LoopOptions.configured(config, best_figure="val_miou"),
        run_dir=run.folder,
        device=run.device,
        distributed=run.distributed,
        validate=quick_validation,
        config=config,
        describe_batch=stream.describe,
    )
    resumed = trainer.resume()
    run.say(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {config['steps']}")
    run.say(f"start {config['start'] or 'random weights'}; {start}")
    run.say(f"{metadata.name}: {trained}")
    if not resumed:
        trainer.log.text("start", start.account())
    run.say("class weights " + " ".join(f"{w:.2f}" for w in weights.tolist()))
    for corpus in corpora:
        run.say(f"  {corpus.name}: {len(corpus)} images, weight {corpus.weight}")
    average = trainer.run(stream.batches(trainer.step))
    if run.distributed.is_main:
        write_model(run, average, metadata, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    description = __doc__.splitlines()[0]
    return run_entry(
        "closed_set", description, "closed_set.yaml", train, arguments, shorthands=("start",)
    )


if __name__ == "__main__":
    sys.exit(main())
