"""Closed-set training of the default model.

    python -m training.closed_set --run-dir runs/lite0
    torchrun --nproc-per-node 4 -m training.closed_set --run-dir runs/lite0

Continues from ``last.pt`` in the run folder; at the end writes ``average.pt``, which
``training.calibrate`` turns into a model for the node.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_seg_ros.datasets.label_maps import IGNORE_INDEX
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.models.deeplab_lite import DeepLabV3PlusLite
from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone
from training.augment import ViewOptions
from training.class_bias import collect_logits, fit_class_bias
from training.corpora import Corpus
from training.depthwise import use_float32_backward
from training.loop import Batch, Distributed, LoopOptions, Trainer, save_atomically
from training.road_scenes import cityscapes256_val, training_corpora
from training.sampling import StepSampler, ViewDataset

# EfficientNet-Lite's own input scaling: (x - 127) / 128 on 0..255.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
# Height and width at which the squeezed frames have their true geometry.
VALIDATION_SIZE = (256, 512)
# Class offsets are fitted to every tenth image of the first corpus.
BALANCE_EVERY = 10


def normalise(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 RGB to float32, as the shipped metadata says."""
    return (images.float() - 127.0) / 128.0


class WeightedCrossEntropy:
    """Cross-entropy of the upsampled logits, averaged over labelled pixels by class weight.

    Args:
        weights: (K,) float32.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Returns a scalar; 0 if no pixel is labelled.

        Args:
            network: See :class:`~anomaly_seg_ros.models.contract.SegmentationNetwork`.
            batch: (N, 3, H, W) uint8 images and (N, H, W) int64 trainIds, 255 = ignore.
        """
        images, targets = batch
        inputs = normalise(images).contiguous(memory_format=torch.channels_last)
        logits = network(inputs).logits.float()
        logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear")
        total = F.cross_entropy(
            logits, targets, self.weights, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        labelled = targets[targets != IGNORE_INDEX]
        return total / self.weights[labelled].sum().clamp(min=1e-6)


def class_weights(
    corpora: list[Corpus], num_classes: int, power: float, bounds: tuple[float, float]
) -> Tensor:
    """Loss weights that grow as classes get rarer.

    Args:
        corpora: Whose labels are counted, each by its sampling weight.
        num_classes: K.
        power: Of the inverse frequency; 0 weighs all classes alike.
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


def to_input(image: np.ndarray, size: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 RGB to the network's input (1, 3, *size), float32."""
    tensor = normalise(torch.from_numpy(image).permute(2, 0, 1)[None].to(device))
    if tensor.shape[-2:] != size:
        tensor = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def validate(
    model: nn.Module, corpus: Corpus, size: tuple[int, int], device: torch.device
) -> ConfusionMatrix:
    """Predicts every image at inference size ``size`` and counts at the label's size."""
    matrix = ConfusionMatrix(model.num_classes)
    for image, label in zip(corpus.images, corpus.labels, strict=True):
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(to_input(image, size, device)).logits
        logits = F.interpolate(logits.float(), size=label.shape, mode="bilinear")
        matrix.update(label, logits.argmax(1)[0].to(torch.uint8).cpu().numpy())
    return matrix


def balance_classes(model: nn.Module, corpus: Corpus, device: torch.device) -> None:
    """Adds fitted offsets to the classifier's bias; see :mod:`training.class_bias`."""
    logits, labels = collect_logits(
        model,
        corpus.images[::BALANCE_EVERY],
        corpus.labels[::BALANCE_EVERY],
        lambda image: to_input(image, VALIDATION_SIZE, device),
    )
    bias, mean_iou = fit_class_bias(logits, labels)
    with torch.no_grad():
        model.classifier.bias += bias.to(device)
    print("class offsets " + " ".join(f"{b:.2f}" for b in bias.tolist()))
    print(f"mIoU {mean_iou:.4f} on the training images that they were fitted to")


def parameter_groups(model: DeepLabV3PlusLite, config: dict) -> list[dict]:
    """Trunk and decoder with their own rates; no weight decay on norms and biases."""
    groups = []
    for name, lr in (("backbone", config["backbone_lr"]), ("decoder", config["decoder_lr"])):
        chosen = [
            p
            for key, p in model.named_parameters()
            if key.startswith("backbone.") == (name == "backbone")
        ]
        decayed = [p for p in chosen if p.ndim > 1]
        plain = [p for p in chosen if p.ndim <= 1]
        groups.append({"params": decayed, "lr": lr, "weight_decay": config["weight_decay"]})
        groups.append({"params": plain, "lr": lr, "weight_decay": 0.0})
    return groups


def batches(
    dataset: ViewDataset, config: dict, start: int, steps: int, distributed: Distributed
) -> Iterator[Batch]:
    """This rank's batches from step ``start`` on."""
    local = config["batch_size"] // distributed.world_size
    sampler = StepSampler(local, start, steps, distributed.rank, distributed.world_size)
    return iter(
        DataLoader(
            dataset,
            batch_size=local,
            sampler=sampler,
            num_workers=config["workers"],
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_config = Path(__file__).parent / "configs" / "closed_set.yaml"
    parser.add_argument("--config", type=Path, default=default_config)
    parser.add_argument("--run-dir", type=Path, required=True)
    data = os.environ.get("ANOMALY_SEG_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="override configuration values"
    )
    args = parser.parse_args(arguments)
    config = yaml.safe_load(args.config.read_text())
    for item in args.set:
        key, _, value = item.partition("=")
        if key not in config:
            parser.error(f"unknown configuration key {key!r}; known: {sorted(config)}")
        config[key] = yaml.safe_load(value)
    torch.manual_seed(config["seed"])
    device = torch.device(args.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed = Distributed(device)
    if config["batch_size"] % distributed.world_size:
        parser.error(f"batch_size {config['batch_size']} does not split over the processes")

    model = DeepLabV3PlusLite(num_classes=19, backbone=config["backbone"])
    model.backbone = load_imagenet_backbone(config["backbone"])
    model.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        use_float32_backward(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=(0.9, 0.99))
    options = ViewOptions(crop=tuple(config["crop"]), height_range=tuple(config["height_range"]))
    loop = LoopOptions(
        steps=config["steps"],
        validate_every=config["validate_every"],
        precision=config["precision"],
    )
    validation = cityscapes256_val(args.data)
    every_fifth = Corpus("val", validation.images[::5], validation.labels[::5])

    def quick_validation(average: nn.Module) -> dict[str, float]:
        matrix = validate(average, every_fifth, VALIDATION_SIZE, device)
        return {"val_miou": matrix.mean_iou(), "val_pixel_accuracy": matrix.pixel_accuracy()}

    corpora = training_corpora(args.data)
    weights = class_weights(
        corpora, 19, config["class_weight_power"], tuple(config["class_weight_range"])
    )
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        loss_fn=WeightedCrossEntropy(weights.to(device)),
        options=loop,
        run_dir=args.run_dir,
        device=device,
        distributed=distributed,
        validate=quick_validation,
        config={**config, "views": str(asdict(options))},
    )
    resumed = trainer.resume()
    if distributed.is_main:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {loop.steps}")
        print(f"trains all {trained / 1e6:.2f} M parameters, BatchNorm in training mode")
        print("class weights " + " ".join(f"{w:.2f}" for w in weights.tolist()))
        for corpus in corpora:
            print(f"  {corpus.name}: {len(corpus)} images, weight {corpus.weight}")
    dataset = ViewDataset(
        corpora, options, seed=config["seed"], class_uniform=config["class_uniform"]
    )
    average = trainer.run(batches(dataset, config, trainer.step, loop.steps, distributed))
    if distributed.is_main:
        balance_classes(average, corpora[0], device)
        save_atomically(average.state_dict(), args.run_dir / "average.pt")
        for size in ((256, 256), (256, 512), (512, 1024)):
            matrix = validate(average, validation, size, device)
            print(
                f"Cityscapes-256 val at {size}: mIoU {matrix.mean_iou():.4f}, "
                f"pixel accuracy {matrix.pixel_accuracy():.4f}"
            )
            print("  IoU " + " ".join(f"{x:.3f}" for x in np.nan_to_num(matrix.iou())))
    distributed.close()


if __name__ == "__main__":
    main()
