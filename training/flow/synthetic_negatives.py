"""Sets up the flow that takes part in a fine-tuning, from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.engine.config import to_dataclass
from training.flow.checkpoints import load_flow
from training.flow.dense_flow import DenseFlow
from training.flow.joint import FlowNegatives, FlowOptions, flow_optimizer
from training.flow.pictures import sample_sheet

# Crops that set the ActNorms of a flow that was not pre-trained: 64 x 64, as in the paper.
_FIRST_CROPS = 32
_FIRST_SIDE = 64


def build_flow_negatives(
    config: dict[str, Any], dataset: Dataset, scaling: InputScaling, device: torch.device
) -> FlowNegatives | None:
    """The flow beside the segmenter, or None if the configuration asks for none.

    Args:
        config: Of the fine-tuning.
        dataset: Its stream; a flow without weights takes its first statistics from there.
        scaling: Of the segmenter's input.
        device: Of the training.

    Raises:
        CheckpointError: The weights do not load.
        ParameterError: An unknown size or option, or crops that hold no sample.
    """
    settings = config["flow"]
    if not settings["weights"] and not settings["size"]:
        return None
    options: FlowOptions = to_dataclass(FlowOptions, settings["options"])
    if min(config["crop"]) < options.largest:
        raise ParameterError(
            f"flow.options.largest {options.largest}: larger than the crop {config['crop']}"
        )
    if settings["weights"]:
        flow = load_flow(Path(settings["weights"]), settings["checkpointing"]).to(device)
    else:
        flow = DenseFlow.by_name(settings["size"], settings["checkpointing"]).to(device)
        seeded = torch.Generator().manual_seed(config["seed"])
        flow.initialise(_first_crops(dataset).to(device), seeded)
    return FlowNegatives(
        flow, flow_optimizer(flow, settings["lr"]), scaling, options, config["precision"]
    )


def samples_picture(negatives: FlowNegatives) -> np.ndarray:
    """What the flow draws now, smallest, middle and largest: (H, W, 3) uint8 RGB."""
    sides = negatives.options.sides
    chosen = sorted({sides[0], sides[len(sides) // 2], sides[-1]})
    return sample_sheet(negatives.flow, [(side, side) for side in chosen])


def _first_crops(dataset: Dataset) -> Tensor:
    """(N, 3, 64, 64) uint8 corners of the first samples."""
    return torch.stack(
        [dataset[i].images[:, :_FIRST_SIDE, :_FIRST_SIDE] for i in range(_FIRST_CROPS)]
    )
