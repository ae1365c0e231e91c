# SPDX-License-Identifier: Apache-2.0
"""Train the learned style transfer on road scenes.

    python -m training.train_style --run-dir runs/style

Resumes from ``last.pt`` in the run folder. Every validation writes ``samples.png``. At the end it
writes the averaged weights to ``style_transfer.safetensors``. ``style: learned`` loads a copy of
this file from ``training/weights``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from anomaly_seg_ros import drawing
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone
from training.data.corpora import Corpus, TrainingData
from training.data.stream import SampleStream
from training.data.style.cameras import CameraPairs, PairedCrops
from training.data.style.network import STRIDE, StyleTransfer, to_bytes, to_unit
from training.data.style.objective import Opponent, PerceptualDistance, StyleObjective
from training.engine.entry import Run, run_entry
from training.engine.loop import LoopOptions, Trainer
from training.engine.run_log import save_picture
from training.engine.steps import resolved_precision
from training.engine.storage import write_atomically

# Seed of the held-out pairs, the same in every run to make runs comparable.
_HELD_OUT_SEED = 2026
_HELD_OUT_BATCH = 16
_HELD_OUT_EVERY = 5
_PICTURED = 12


class Validation:
    """Computes errors on held-out pairs, with and without the transfer.

    Args:
        run: The run, for its folder and device.
        pairs: Held-out pairs of (N, 3, H, W) uint8 tensors.
        perceptual: Perceptual distance, as used in the training.
    """

    def __init__(self, run: Run, pairs: PairedCrops, perceptual: PerceptualDistance) -> None:
        self.run = run
        self.pairs = pairs
        self.perceptual = perceptual

    @torch.inference_mode()
    def __call__(self, network: StyleTransfer) -> dict[str, float]:
        """Computes the figures of a network; writes ``samples.png``.

        Returns:
            Root mean squared errors in grey levels and perceptual distances from the target.
        """
        content, exemplar, target, _ = (to_unit(x).to(self.run.device) for x in self.pairs)
        parts = zip(content.split(_HELD_OUT_BATCH), exemplar.split(_HELD_OUT_BATCH), strict=True)
        result = torch.cat([network(*part) for part in parts]).clamp(-1, 1)
        columns = (content, exemplar, result, target)
        save_picture(self.run.folder / "samples.png", _sheet([x[:_PICTURED] for x in columns]))
        figures = {}
        for name, images in (("", result), ("_untouched", content)):
            error = F.mse_loss(images, target).sqrt()
            figures[f"val_rmse{name}"] = 127.5 * float(error)
            figures[f"val_perceptual{name}"] = float(self.perceptual(images, target))
        return figures


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights in half precision.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in network.state_dict().items()}
    content = save(tensors)
    write_atomically(path, lambda file: file.write(content), len(content))


def held_out_pairs(corpora: list[Corpus], num_classes: int, size: int, count: int) -> PairedCrops:
    """Draws pairs from frames that are held out from training."""
    dataset = CameraPairs(corpora, num_classes, size, _HELD_OUT_SEED)
    samples = zip(*(dataset[i] for i in range(count)), strict=True)
    return PairedCrops(*(torch.stack(crops) for crops in samples))


def _sheet(columns: list[Tensor]) -> np.ndarray:
    images = [to_bytes(x).permute(0, 2, 3, 1).cpu().numpy() for x in columns]
    rows = [tuple(row) for row in zip(*images, strict=True)]
    return drawing.grid(rows, ("content", "exemplar", "result", "target"), cell_width=160)


def train_style(run: Run) -> None:
    """Trains the transfer network against a discriminator.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.

    Raises:
        AnomalySegError: An error in the configuration or data, a full disk, or a loss that is not
            finite.
    """
    config = run.config
    config["precision"] = resolved_precision(run.device, config["precision"])
    if run.distributed.world_size > 1:
        raise ParameterError("train_style: runs as one process; its networks are small")
    if config["size"] % STRIDE:
        raise ParameterError(f"size {config['size']}: must be a multiple of {STRIDE}")
    perceptual = PerceptualDistance(load_imagenet_backbone("lite0")).to(run.device)
    network = StyleTransfer().to(run.device, memory_format=torch.channels_last)
    opponent = Opponent(config["opponent"]["lr"], config["opponent"]["every"], run.device)
    data = TrainingData(config["data"], run.data)
    classes = len(data.taxonomy.classes)
    pairs = CameraPairs(data.train, classes, config["size"], config["seed"])
    stream = SampleStream.configured(pairs, config, run.distributed)
    held_out = held_out_pairs(
        [corpus.every(_HELD_OUT_EVERY) for corpus in data.validation],
        classes,
        config["size"],
        config["validation_pairs"],
    )
    trainer = Trainer(
        model=network,
        # A small beta1, close to StyleGAN2's, because the discriminator moves the goal.
        optimizer=torch.optim.Adam(network.parameters(), config["lr"], (0.5, 0.99)),
        loss_fn=StyleObjective(config["loss"], perceptual, opponent, config["mask_probability"]),
        options=LoopOptions.configured(config),
        run_dir=run.folder,
        device=run.device,
        distributed=run.distributed,
        validate=Validation(run, held_out, perceptual),
        config=config,
        describe_batch=stream.describe,
        second_player=opponent,
    )
    resumed = trainer.resume()
    count = sum(p.numel() for p in network.parameters())
    run.say(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {config['steps']}")
    run.say(f"trains all {count / 1e6:.2f} M parameters of encoder and generator")
    average = trainer.run(stream.batches(trainer.step))
    path = run.folder / "style_transfer.safetensors"
    save_weights(average, path)
    run.say(f"wrote {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_entry("train_style", __doc__.splitlines()[0], "style.yaml", train_style, arguments)


if __name__ == "__main__":
    sys.exit(main())
