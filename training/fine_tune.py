# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a closed-set model with outliers, and write a calibrated model file.

    python -m training.fine_tune --run-dir runs/x --model erfnet --set loss.name=top_k_ovr
    torchrun --nproc-per-node 4 -m training.fine_tune --run-dir runs/x

Resumes from ``last.pt`` in the run folder. At the end it writes ``final.safetensors``, which the
node can load: the weights with the best validation figure, their score statistics and thresholds.
With ``best_figure: ""`` the weights are those of the last step, or, if the guard stopped the run,
the last that passed it.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from anomaly_seg_ros import drawing
from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from training.calibrate import calibrate, check_target_fpr
from training.class_bias import balance_classes
from training.data.corpora import TrainingData
from training.data.mixing.mixed_views import MixedViewDataset
from training.data.mixing.mixer import build_mixer
from training.data.stream import SampleStream
from training.data.views import view_options
from training.engine.config import without_folders
from training.engine.entry import Run, run_entry
from training.engine.loop import LoopOptions, Trainer
from training.engine.players import joined
from training.engine.run_log import save_picture
from training.engine.schedule import build_optimizer, steps_of
from training.engine.steps import check_batch, resolved_precision
from training.flow.joint_density import JointDensity, build_joint_density
from training.flow.pointwise_flow import FLOW_FILE
from training.flow.synthetic_negatives import build_flow_negatives, samples_picture
from training.losses import LOSSES, OpenSetLoss, build_loss
from training.losses.base import Objective
from training.networks import (
    as_described,
    check_multiples,
    class_bias,
    load_configured,
    parameter_groups,
    set_trainable,
    use_float32_backward,
)
from training.score_fusion import fuse_scores
from training.validation import OpenSetValidation, Viewer, validation_sizes

_PICTURES = range(8)


def check_sizes(config: dict[str, Any], network: nn.Module) -> None:
    """Refuses input sizes that the network does not support.

    Raises:
        ParameterError: A size is not supported; the message names the key.
    """
    wanted = config["inference_size"]
    # The default is empty, so load_config cannot check the values. A bool is an int.
    if wanted and (len(wanted) != 2 or any(type(n) is not int for n in wanted)):
        raise ParameterError(
            f"inference_size {short_repr(wanted)}: expected [height, width] in pixels, or []"
        )
    sizes = {
        "crop": config["crop"],
        **validation_sizes(config),
        "inference_size": wanted,
    }
    check_multiples(network, sizes)


def check_scores(config: dict[str, Any], network: nn.Module) -> None:
    """Refuses scores that the model cannot compute.

    Raises:
        ParameterError: A score is unavailable; the message names the key and the reason.
    """
    has_head = network.outlier_head is not None
    for score in config["validation"]["scores"]:
        # Class statistics are not measured until the end.
        if reason := score_functions.missing_for(score, False, has_head):
            raise ParameterError(f"validation.scores: {reason}")
    # The calibration measures the statistics.
    if reason := score_functions.missing_for(
        config["default_score"], config["calibrate"], has_head
    ):
        raise ParameterError(f"default_score: {reason}")


def check_head(config: dict[str, Any], network: nn.Module) -> None:
    """Refuses an outlier head or branch that would keep its random initial weights.

    Args:
        config: Configuration of the run.
        network: The network, with an outlier head if the loss trains one.

    Raises:
        ParameterError: A head is configured, but the model has none and the loss trains none; or
            its weight is to be fitted to no frames.
    """
    name = config["loss"]["name"]
    trains = ", ".join(name for name, loss in LOSSES.items() if loss.needs_outlier_head)
    for key in ("outlier_head", "fuse_scores"):
        if config[key] and network.outlier_head is None:
            raise ParameterError(
                f"{key}: the model has no outlier head, and the loss {name!r} would not train a "
                f"new one; set it to false, or loss.name to one of {trains}"
            )
    if config["outlier_branch"] and not LOSSES[name].needs_outlier_head:
        raise ParameterError(
            f"outlier_branch: the loss {name!r} would not train one; set loss.name to one of "
            f"{trains}"
        )
    if config["fuse_scores"] and config["validation"]["mixed_frames"] == 0:
        raise ParameterError("fuse_scores: is fitted to validation.mixed_frames, which is 0")


def check_best_figure(config: dict[str, Any], data: TrainingData) -> None:
    """Refuses a figure that the validation will not give.

    Raises:
        ParameterError: There is no such figure; the message lists those that there are.
    """
    validation = config["validation"]
    prefixes = ["mixed"] if validation["mixed_frames"] else []
    prefixes += ["natural"] if validation["natural"] and data.block.used("unknown") else []
    figures = ["val_miou"]
    for prefix, score in itertools.product(prefixes, validation["scores"]):
        figures += [f"{prefix}_{score}_ap", f"{prefix}_{score}_fpr95"]
    if config["best_figure"] not in ("", *figures):
        raise ParameterError(
            f"best_figure: the validation gives no {config['best_figure']!r}; it gives "
            f"{', '.join(figures)}"
        )


def build_dataset(run: Run, data: TrainingData) -> MixedViewDataset:
    """Builds the dataset of training views with pasted objects."""
    config = run.config
    mixer = build_mixer(config["mixing"], data)
    for corpus in data.train:
        run.say(f"  {corpus.name}: {len(corpus)} images, weight {corpus.weight}")
    run.say(mixer.outliers.describe())
    return MixedViewDataset(
        data.train,
        view_options(config),
        mixer,
        num_classes=len(data.taxonomy.classes),
        seed=config["seed"],
        class_uniform=config["class_uniform"],
        focus_outlier=config["focus_outlier"],
        jpeg=config["jpeg"],
    )


def mixed_samples(dataset: Dataset, indices: range, palette: np.ndarray) -> np.ndarray:
    """Draws samples as rows of image, outliers on the image, class labels and outlier mask.

    Args:
        dataset: Dataset of :class:`~training.data.mixing.mixed_views.MixedBatch` samples.
        indices: Indices of the samples.
        palette: (K, 3) uint8 RGB colours of the classes.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = []
    for index in indices:
        sample = dataset[index]
        image = np.ascontiguousarray(sample.images.permute(1, 2, 0).numpy())
        labels = sample.labels.numpy().astype(np.uint8)
        mask = sample.ood_mask.numpy()
        rows.append(
            (
                image,
                drawing.overlay(image, labels, palette, 0.0, mask == 1),
                drawing.colourise(labels, palette),
                drawing.anomaly_mask(mask),
            )
        )
    return drawing.grid(rows, ("image", "outliers", "labels", "outlier mask"), cell_width=360)


def write_model(
    run: Run,
    network: nn.Module,
    metadata: ModelMetadata,
    data: TrainingData,
    best: dict[str, Any],
    held_out: OpenSetValidation,
) -> None:
    """Calibrates the network and writes ``final.safetensors``."""
    config = run.config
    metadata = replace(
        metadata,
        name=config["name"] or f"{metadata.name}_{config['loss']['name']}",
        default_score=config["default_score"],
        inference_size=tuple(config["inference_size"]) or metadata.inference_size,
        provenance={
            "start": {"name": metadata.name, **metadata.provenance},
            "fine_tuning": without_folders(config),
            "validation": best,
        },
        # Those of the start model do not apply to the new weights.
        calibration={},
        statistics=None,
    )
    network = as_described(network, metadata)
    if config["balance_classes"]:
        corpus = data.train[0]
        size = corpus.size or tuple(config["validation"]["size"])
        viewer = Viewer(metadata.input_scaling, torch.device("cpu"), size, len(metadata.classes))
        balance_classes(network, corpus, viewer)
    if config["fuse_scores"]:
        size = tuple(metadata.inference_size)
        viewer = Viewer(metadata.input_scaling, torch.device("cpu"), size, len(metadata.classes))
        scale = fuse_scores(network, (held_out.mixed, held_out.natural), viewer)
        provenance = {**metadata.provenance, "outlier_logit_scale": scale}
        metadata = replace(metadata, provenance=provenance)
    if config["calibrate"]:
        metadata = calibrate(
            network,
            metadata,
            data,
            str(run.device),
            config["target_fpr"],
            mixed=held_out.mixed,
        )
    path = run.folder / "final.safetensors"
    save_model(path, network, metadata)
    print(f"wrote {path}")


def write_density(run: Run, density: JointDensity, model: str, best: int | None) -> None:
    """Writes the point-wise flow of the model that was written."""
    path = run.folder / FLOW_FILE
    if density.write(path, model, best):
        print(f"wrote {path}")
    else:
        print(f"no {path}: the best model is the one before training")


def fine_tune(run: Run) -> None:
    """Trains, then calibrates and writes the best model.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.

    Raises:
        AnomalySegError: An error in the configuration, model or data, a full disk, or a loss that
            is not finite.
    """
    config = run.config
    if config["calibrate"]:
        check_target_fpr(config["target_fpr"], "target_fpr")
    data = TrainingData(config["data"], run.data)
    loss: OpenSetLoss = build_loss(config["loss"]["name"], config["loss"]["options"])
    loss = loss.to(run.device)
    network, metadata = load_configured(config, loss, data.taxonomy)
    # What the file and a resumed run go by.
    config["precision"] = resolved_precision(run.device, config["precision"], network.bf16)
    loss.follow(network)
    check_head(config, network)
    check_sizes(config, network)
    check_scores(config, network)
    check_best_figure(config, data)
    if config["balance_classes"]:
        class_bias(network)
    trained = set_trainable(
        network,
        config["part"],
        config["batchnorm"],
        config["frozen_parts"],
        outlier_head=loss.needs_outlier_head,
    )
    check_batch(network, config, run.distributed, remedy="or batchnorm=eval and frozen_parts=eval")
    run.say(f"{metadata.name}: {trained}")
    network.to(run.device, memory_format=torch.channels_last)
    if run.device.type == "cpu":
        use_float32_backward(network)
    groups = parameter_groups(
        network,
        config["lr"],
        config["lr"] * config["backbone_factor"],
        config["lr"] * config["head_factor"],
        config["weight_decay"],
    )
    optimizer = build_optimizer(groups, config)
    dataset = build_dataset(run, data)
    config["steps"] = steps_of(config, sum(map(len, dataset.corpora)))
    stream = SampleStream.configured(dataset, config, run.distributed)
    scaling = metadata.input_scaling
    flow = build_flow_negatives(config, dataset, network, scaling, run.device)
    density = build_joint_density(config, network, run.device)
    players = [player for player in (flow, density) if player is not None]
    heard = functools.reduce(lambda heard, player: player.listening(heard), players, loss)
    validation = OpenSetValidation(run, metadata, data) if run.distributed.is_main else None

    def validate(average: nn.Module) -> dict[str, float]:
        if flow is not None:
            trainer.log.picture(trainer.step, "flow samples", samples_picture(flow))
        if density is not None:
            density.keep(trainer.step, trainer.best.get("step"))
        return validation(average)

    trainer = Trainer(
        model=network,
        optimizer=optimizer,
        loss_fn=Objective(heard, scaling),
        options=LoopOptions.configured(
            config,
            lower_is_better=config["best_figure"].endswith("_fpr95"),
            validate_first=True,
            guard_figure="val_miou",
            max_drop=config["max_miou_drop"],
        ),
        run_dir=run.folder,
        device=run.device,
        distributed=run.distributed,
        validate=validate,
        config=config,
        describe_batch=stream.describe,
        second_player=joined(players),
    )
    resumed = trainer.resume()
    run.say(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {config['steps']}")
    if run.distributed.is_main and not resumed:
        picture = mixed_samples(dataset, _PICTURES, data.taxonomy.palette)
        save_picture(run.folder / "mixed_samples.png", picture)
        trainer.log.picture(0, "mixed samples", picture)
    if not resumed:
        sources = filter(None, (dataset.mixer.outliers, dataset.mixer.decoys))
        trainer.log.text("objects", "\n".join(source.describe() for source in sources))
    trainer.run(stream.batches(trainer.step))
    if validation is not None:
        write_model(run, trainer.best_model(), metadata, data, trainer.best, validation)
        if density is not None:
            write_density(run, density, metadata.name, trainer.best.get("step"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    description = __doc__.splitlines()[0]
    return run_entry(
        "fine_tune", description, "fine_tune.yaml", fine_tune, arguments, shorthands=("model",)
    )


if __name__ == "__main__":
    sys.exit(main())
