# SPDX-License-Identifier: Apache-2.0
"""Pre-train DenseFlow on crops of road scenes, by maximum likelihood.

    python -m training.train_flow --run-dir runs/flow
    torchrun --nproc-per-node 4 -m training.train_flow --run-dir runs/flow --size 45-6

Resumes from ``last.pt`` in the run folder. Every validation draws ``samples.png``. At the end it
writes ``flow.safetensors`` for ``training.fine_tune``: the averaged weights with the fewest bits
per dimension on held-out crops.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from training.data.corpora import Corpus, TrainingData
from training.data.stream import SampleStream
from training.data.views import ViewDataset, ViewOptions
from training.engine.config import without_folders
from training.engine.entry import Run, run_entry
from training.engine.loop import LoopOptions, Trainer
from training.engine.run_log import save_picture
from training.flow.dense_flow import DenseFlow, load_flow, sample_sheet, save_flow
from training.flow.synthetic_negatives import flow_optimizer

# Seed of the held-out crops and their noise, the same in every run to make runs comparable.
_HELD_OUT_SEED = 2026
_HELD_OUT_BATCH = 32
# Crops that initialise the ActNorms.
_FIRST_CROPS = 128


class Crops(Dataset):
    """Crops of road scenes without labels.

    Args:
        views: Dataset of views; crop ``i`` is view ``i``.
    """

    def __init__(self, views: ViewDataset) -> None:
        self.views = views

    def __getitem__(self, index: int) -> tuple[Tensor]:
        """Returns (3, h, w) uint8 RGB."""
        return (self.views[index][0],)


class Validation:
    """Bits per dimension of held-out crops, and a picture of samples.

    Args:
        run: The run, for its configuration and folder.
        crops: (N, 3, h, w) uint8 held-out crops.

    Attributes:
        show: Called with the picture of samples, for TensorBoard.
    """

    def __init__(self, run: Run, crops: Tensor) -> None:
        self.run = run
        self.crops = crops
        self.sizes = [(int(h), int(w)) for h, w in run.config["sample_sizes"]]
        self.show: Callable[[np.ndarray], None] = lambda picture: None

    @torch.no_grad()
    def __call__(self, flow: nn.Module) -> dict[str, float]:
        """Computes the figures of a flow; writes ``samples.png``."""
        generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
        bits = [
            flow.bits_per_dim(part.to(self.run.device), generator).cpu()
            for part in self.crops.split(_HELD_OUT_BATCH)
        ]
        picture = sample_sheet(flow, self.sizes)
        save_picture(self.run.folder / "samples.png", picture)
        self.show(picture)
        return {"val_bits_per_dim": float(torch.cat(bits).mean())}


def bits_per_dim(flow: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Loss: mean bits per dimension of (N, 3, h, w) uint8 images.

    Args:
        flow: A DenseFlow, or its DDP wrapper, which only provides ``forward``.
        batch: A tuple with only the images.
    """
    (images,) = batch
    return -flow(images).mean() / (images.shape[1:].numel() * math.log(2))


def held_out_crops(run: Run, data: TrainingData) -> Tensor:
    """Draws crops of held-out frames, with the training's geometry."""
    views = views_of(data, data.validation, run.config, _HELD_OUT_SEED)
    return torch.stack([views[i][0] for i in range(run.config["validation_crops"])])


def views_of(
    data: TrainingData, corpora: Sequence[Corpus], config: dict[str, Any], seed: int
) -> ViewDataset:
    """Views without blur and aspect jitter: the flow should learn the look of road scenes."""
    options = ViewOptions(
        crop=tuple(config["crop"]),
        height_range=tuple(config["height_range"]),
        max_enlargement=1.5,
        aspect_jitter=1.0,
        squeeze_probability=0.0,
        photometric=config["photometric"],
        blur_probability=0.0,
    )
    classes = len(data.taxonomy.classes)
    return ViewDataset(list(corpora), options, classes, seed, class_uniform=0.0)


def build_flow(run: Run, first: Tensor) -> DenseFlow:
    """Loads the flow to train, or builds one and initialises its ActNorms.

    Args:
        run: The run, for its configuration and device.
        first: (N, 3, h, w) uint8 crops for the initialisation, the same in every process.
    """
    config = run.config
    if config["start"]:
        flow = load_flow(Path(config["start"]), config["checkpointing"])
        run.say(f"goes on from {config['start']}, DenseFlow {flow.name}")
        return flow.to(run.device)
    flow = DenseFlow.by_name(config["size"], config["checkpointing"]).to(run.device)
    bits = flow.initialise(first.to(run.device), torch.Generator().manual_seed(config["seed"]))
    count = sum(p.numel() for p in flow.parameters())
    run.say(f"DenseFlow {flow.name}, {count / 1e6:.2f} M parameters, starts at {bits:.3f} bits")
    return flow


def train_flow(run: Run) -> None:
    """Trains the flow and writes the best averaged weights.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.

    Raises:
        AnomalySegError: An error in the configuration or data, a full disk, or a loss that is not
            finite.
    """
    config = run.config
    data = TrainingData(config["data"], run.data)
    views = views_of(data, data.train, config, config["seed"])
    crops = Crops(views)
    flow = build_flow(run, torch.stack([crops[i][0] for i in range(_FIRST_CROPS)]))
    stream = SampleStream.configured(crops, config, run.distributed)
    validation = Validation(run, held_out_crops(run, data))
    trainer = Trainer(
        model=flow,
        optimizer=flow_optimizer(flow, config["lr"]),
        loss_fn=bits_per_dim,
        options=LoopOptions.configured(
            config, precision="fp32", best_figure="val_bits_per_dim", lower_is_better=True
        ),
        run_dir=run.folder,
        device=run.device,
        distributed=run.distributed,
        validate=validation,
        config=config,
        describe_batch=stream.describe,
    )
    validation.show = lambda picture: trainer.log.picture(trainer.step, "samples", picture)
    resumed = trainer.resume()
    run.say(f"{'resumes at' if resumed else 'starts at'} step {trainer.step} of {config['steps']}")
    trainer.run(stream.batches(trainer.step))
    if run.distributed.is_main:
        best = trainer.best_model()
        path = run.folder / "flow.safetensors"
        save_flow(path, best, {"training": without_folders(config), "best": trainer.best})
        run.say(f"wrote {path}: {trainer.best['value']:.3f} bits per dimension on held-out crops")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    description = __doc__.splitlines()[0]
    return run_entry(
        "train_flow", description, "flow.yaml", train_flow, arguments, shorthands=("size",)
    )


if __name__ == "__main__":
    sys.exit(main())
