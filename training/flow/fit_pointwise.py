# SPDX-License-Identifier: Apache-2.0
"""Fit the point-wise flow to the pre-logits of a network on in-distribution images.

    python -m training.flow.fit_pointwise --model erfnet --output erfnet_flow.safetensors

With ``--negatives``, objects are pasted into some of the images as in a fine-tuning, and the
density of their pixels is lowered at the same time, as in the paper's Table 5. The network itself
does not change; :mod:`training.flow.joint_density` trains both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import FrameSequence, TrainingData
from training.data.held_out import MaskedFrame, mixed_frames
from training.data.mixing.mixer import build_mixer
from training.engine.config import CONFIGS, add_config_options, load_config
from training.engine.distributed import training_device
from training.engine.entry import data_folder, folder_argument, use_exact_float32
from training.flow.pointwise_flow import PointwiseFlow, density_terms, save_pointwise_flow
from training.losses.grids import nearest
from training.validation import Viewer

_FIRST_PIXELS = 16384


@dataclass(frozen=True)
class FitOptions:
    """Settings of the fit.

    Attributes:
        steps: Optimizer steps.
        batch: Inlier pixels per step.
        lr: Learning rate of Adam, with cosine decay to 0.
        outlier_weight: Weight of the outlier pixels' term, beta.
        outlier_floor: Outlier pixels this many nats per channel below the inliers' mean are not
            pushed further. Without a floor the term would diverge.
        clip_norm: Maximum norm of the gradient.
        seed: Seed for choosing the pixels of each step.
    """

    steps: int = 2000
    batch: int = 4096
    lr: float = 1e-3
    outlier_weight: float = 0.03
    outlier_floor: float = 2.0
    clip_norm: float = 10.0
    seed: int = 0


def pixels_by_kind(
    network: nn.Module,
    frames: Iterable[MaskedFrame],
    viewer: Viewer,
    per_image: int,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Samples pre-logits at random inlier pixels and at random outlier pixels of frames.

    Args:
        network: The network, in eval mode.
        frames: Frames with outlier masks.
        viewer: Runs the network on single images.
        per_image: Pixels of either kind per image, at most.
        seed: Seed for choosing the pixels.

    Returns:
        (n, C) and (m, C) float32 on the CPU.

    Raises:
        ParameterError: No frame shows an outlier at the resolution of the pre-logits.
    """
    generator = torch.Generator().manual_seed(seed)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for frame in frames:
        pre_logits = viewer.output(network, frame.image).pre_logits
        mask = nearest(torch.from_numpy(frame.mask)[None], pre_logits.shape[-2:]).flatten()
        flat = pre_logits[0].flatten(1).T
        for kind, pixels in enumerate(found):
            where = (mask == kind).nonzero()[:, 0]
            keep = where[torch.randperm(len(where), generator=generator)[:per_image]]
            pixels.append(flat[keep.to(flat.device)].float().cpu())
    if not sum(map(len, found[1])):
        raise ParameterError("no outlier pixel to fit the point-wise flow against")
    return torch.cat(found[0]).clone(), torch.cat(found[1]).clone()


@torch.inference_mode()
def pixels_of(
    network: nn.Module,
    images: Iterable[np.ndarray],
    viewer: Viewer,
    per_image: int,
    seed: int = 0,
) -> Tensor:
    """Samples pre-logits at random pixels.

    Args:
        network: The network, in eval mode.
        images: (H, W, 3) uint8 RGB images.
        viewer: Runs the network on single images.
        per_image: Pixels per image, at most.
        seed: Seed for choosing the pixels.

    Returns:
        (n, C) float32 on the CPU.

    Raises:
        ParameterError: There are no images.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for image in images:
        flat = viewer.output(network, image).pre_logits[0].flatten(1).T.float().cpu()
        found.append(flat[torch.randperm(len(flat), generator=generator)[:per_image]])
    if not found:
        raise ParameterError("no image to fit the point-wise flow to")
    return torch.cat(found).clone()


def fit_pointwise(
    flow: PointwiseFlow,
    inliers: Tensor,
    outliers: Tensor | None = None,
    options: FitOptions | None = None,
) -> list[float]:
    """Maximises the log-density of inlier pixels (and lowers that of outlier pixels).

    ``L = -E_in[ln p(z)] + beta E_out[max(ln p(z) - floor, 0)]``.

    Args:
        flow: The flow; its ActNorms are initialised from a part of the inliers.
        inliers: (n, C) float pre-logits.
        outliers: (m, C) float pre-logits, or None.
        options: See :class:`FitOptions`.

    Returns:
        Mean log-density of the inlier pixels at each step, in nats.

    Raises:
        TrainingError: The loss is not finite.
    """
    options = options or FitOptions()
    device = next(flow.parameters()).device
    first = inliers[:: max(1, len(inliers) // _FIRST_PIXELS)].to(device)
    flow.initialise(first.T[None, :, None])
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(flow.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    history = []
    for step in range(options.steps):
        inlier = _drawn(inliers, options.batch, generator, device)
        outlier = inlier[:0]
        if outliers is not None:
            outlier = _drawn(outliers, options.batch, generator, device)
        log_p, excess = density_terms(flow, inlier, outlier, options.outlier_floor)
        loss = options.outlier_weight * excess - log_p
        if not torch.isfinite(loss.detach()):
            raise TrainingError(
                f"the point-wise flow's loss became {float(loss.detach())} at step {step}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        history.append(float(log_p.detach()))
    return history


def _drawn(pixels: Tensor, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return pixels[torch.randint(len(pixels), (count,), generator=generator)].to(device)


def _frames_with_objects(
    config: Mapping[str, Any], data: TrainingData, count: int
) -> list[MaskedFrame]:
    mixer = build_mixer({**config["mixing"], "probability": 1.0}, data)
    return mixed_frames(data.train, mixer, count, config["seed"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or file of a model")
    parser.add_argument("--output", type=Path, required=True, help="*.safetensors")
    parser.add_argument("--data", type=folder_argument, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=500, help="of each corpus, at most")
    parser.add_argument("--per-image", type=int, default=400, help="pixels of each image")
    parser.add_argument("--steps", type=int, default=FitOptions.steps)
    parser.add_argument(
        "--negatives", type=int, default=0, metavar="N", help="images with pasted objects"
    )
    add_config_options(parser)  # of a fine-tuning, for its sections "data" and "mixing"
    parsed = parser.parse_args(arguments)

    def fit() -> None:
        use_exact_float32()
        network, metadata = load_model(parsed.model)
        device = training_device(parsed.device)
        network.to(device)
        viewer = Viewer(
            metadata.input_scaling,
            device,
            metadata.inference_size,
            len(metadata.classes),
            multiple=network.size_multiple,
        )
        config = load_config(CONFIGS / "fine_tune.yaml", parsed.config, parsed.set, parsed.data)
        data = TrainingData(config["data"], parsed.data)
        images = FrameSequence.spread(data.train, parsed.images)
        pixels = pixels_of(network, images, viewer, parsed.per_image)
        outliers = None
        if parsed.negatives:
            frames = _frames_with_objects(config, data, parsed.negatives)
            inliers, outliers = pixels_by_kind(network, frames, viewer, parsed.per_image)
            pixels = torch.cat([pixels, inliers])
        flow = PointwiseFlow(pixels.shape[1]).to(device)
        options = FitOptions(steps=parsed.steps)
        history = fit_pointwise(flow, pixels, outliers, options)
        provenance = {
            "model": metadata.name,
            "pixels": len(pixels),
            "outliers": 0 if outliers is None else len(outliers),
            "options": asdict(options),
        }
        save_pointwise_flow(parsed.output, flow, provenance)
        print(
            f"wrote {parsed.output}: {len(pixels)} pixels, log-density {history[0]:.2f} to "
            f"{history[-1]:.2f} nats"
        )

    return run_tool("training.flow.fit_pointwise", fit)


if __name__ == "__main__":
    sys.exit(main())
