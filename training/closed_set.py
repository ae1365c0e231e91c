"""Train the default model on the known classes, from ImageNet weights.

    python -m training.closed_set --run-dir runs/lite0
    torchrun --nproc-per-node 4 -m training.closed_set --run-dir runs/lite0

Resumes from ``last.pt`` in the run folder. At the end it writes ``average.pt``, which
``training.calibrate`` turns into a model for the node.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.deeplab_lite import DeepLabV3PlusLite
from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE
from training.class_bias import balance_classes
from training.data.corpora import Corpus, cityscapes256_val, training_corpora
from training.data.stream import SampleStream
from training.data.views import ViewDataset, ViewOptions
from training.engine.entry import Run, run_entry
from training.engine.loop import LoopOptions, Trainer
from training.engine.schedule import build_optimizer, steps_of
from training.engine.steps import check_batch
from training.engine.storage import save_atomically
from training.losses.base import Objective
from training.losses.cross_entropy import ClosedSetCrossEntropy
from training.networks import parameter_groups, use_float32_backward
from training.validation import Viewer, closed_set_matrix

# Height and width at which the squeezed frames have the right aspect ratio.
VALIDATION_SIZE = (256, 512)


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
        counts = sum(np.bincount(x.ravel(), minlength=256)[:num_classes] for x in corpus.labels)
        shares += corpus.weight * counts / counts.sum()
    shares /= shares.sum()
    weights = (1 / (num_classes * np.maximum(shares, 1e-9))) ** power
    return torch.tensor(np.clip(weights, *bounds), dtype=torch.float32)


def build_network(config: dict[str, Any], device: torch.device) -> DeepLabV3PlusLite:
    """Builds the network with a pre-trained backbone, ready for training."""
    try:
        network = DeepLabV3PlusLite(num_classes=19, backbone=config["backbone"])
    except ValueError as error:
        raise ParameterError(f"backbone: {error}") from error
    network.backbone = load_imagenet_backbone(config["backbone"])
    network.to(device, memory_format=torch.channels_last).train()
    if device.type == "cpu":
        use_float32_backward(network)
    return network


def write_average(run: Run, network: nn.Module, corpora: list[Corpus], held_out: Corpus) -> None:
    """Balances the classes, writes ``average.pt`` and prints its validation figures."""
    balance_classes(network, corpora[0], viewer(run, VALIDATION_SIZE))
    save_atomically(network.state_dict(), run.folder / "average.pt")
    for size in ((256, 256), (256, 512), (512, 1024)):
        matrix = closed_set_matrix(network, held_out, viewer(run, size))
        print(
            f"Cityscapes-256 val at {size}: mIoU {matrix.mean_iou():.4f}, "
            f"pixel accuracy {matrix.pixel_accuracy():.4f}"
        )
        print("  IoU " + " ".join(f"{x:.3f}" for x in np.nan_to_num(matrix.iou())))


def viewer(run: Run, size: tuple[int, int]) -> Viewer:
    """Returns a viewer that resizes images to ``size``, in the training's precision."""
    return Viewer(EFFICIENTNET_LITE, run.device, size, 19, half=run.config["precision"] != "fp32")


def train(run: Run) -> None:
    """Trains from ImageNet weights, or resumes.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.
    """
    config = run.config
    network = build_network(config, run.device)
    check_batch(network, config, run.distributed)
    groups = parameter_groups(
        network,
        lr=config["decoder_lr"],
        trunk_lr=config["backbone_lr"],
        head_lr=config["decoder_lr"],
        weight_decay=config["weight_decay"],
    )
    held_out = cityscapes256_val(run.data)
    every_fifth = Corpus("val", held_out.images[::5], held_out.labels[::5])

    def quick_validation(average: nn.Module) -> dict[str, float]:
        matrix = closed_set_matrix(average, every_fifth, viewer(run, VALIDATION_SIZE))
        return {"val_miou": matrix.mean_iou(), "val_pixel_accuracy": matrix.pixel_accuracy()}

    corpora = training_corpora(run.data)
    config["steps"] = steps_of(config, sum(map(len, corpora)))
    weights = class_weights(
        corpora, 19, config["class_weight_power"], tuple(config["class_weight_range"])
    )
    loss = ClosedSetCrossEntropy(class_weights=weights.tolist()).follow(network).to(run.device)
    views = ViewOptions(crop=tuple(config["crop"]), height_range=tuple(config["height_range"]))
    dataset = ViewDataset(
        corpora, views, seed=config["seed"], class_uniform=config["class_uniform"]
    )
    stream = SampleStream.configured(dataset, config, run.distributed)
    trainer = Trainer(
        model=network,
        optimizer=build_optimizer(groups, config),
        loss_fn=Objective(loss, EFFICIENTNET_LITE),
        options=LoopOptions.configured(config, best_figure="val_miou"),
        run_dir=run.folder,
        device=run.device,
        distributed=run.distributed,
        validate=quick_validation,
        config=config,
        describe_batch=stream.describe,
    )
    resumed = trainer.resume()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    run.say(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {config['steps']}")
    run.say(f"trains all {trained / 1e6:.2f} M parameters, BatchNorm in training mode")
    run.say("class weights " + " ".join(f"{w:.2f}" for w in weights.tolist()))
    for corpus in corpora:
        run.say(f"  {corpus.name}: {len(corpus)} images, weight {corpus.weight}")
    average = trainer.run(stream.batches(trainer.step))
    if run.distributed.is_main:
        write_average(run, average, corpora, held_out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_entry("closed_set", __doc__.splitlines()[0], "closed_set.yaml", train, arguments)


if __name__ == "__main__":
    sys.exit(main())
