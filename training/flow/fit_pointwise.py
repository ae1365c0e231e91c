"""Fit the point-wise flow to the pre-logits of a network on in-distribution images.

    python -m training.flow.fit_pointwise --model erfnet --output erfnet_flow.safetensors

Outlier pixels are optional, as in the paper's Table 5; their density is lowered at the same time.
The network itself does not change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import training_corpora
from training.engine.distributed import training_device
from training.engine.entry import data_folder, use_exact_float32
from training.flow.pointwise_flow import PointwiseFlow, save_pointwise_flow
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
    flow.initialise(_as_image(inliers[:: max(1, len(inliers) // _FIRST_PIXELS)], device))
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(flow.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    history = []
    for step in range(options.steps):
        log_p = flow.log_density(_drawn(inliers, options.batch, generator, device))
        loss = -log_p.mean()
        if outliers is not None:
            floor = log_p.detach().mean() - options.outlier_floor * inliers.shape[1]
            log_p_out = flow.log_density(_drawn(outliers, options.batch, generator, device))
            loss = loss + options.outlier_weight * torch.relu(log_p_out - floor).mean()
        if not torch.isfinite(loss.detach()):
            raise TrainingError(
                f"the point-wise flow's loss became {float(loss.detach())} at step {step}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        history.append(float(log_p.detach().mean()))
    return history


def _drawn(pixels: Tensor, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return _as_image(pixels[torch.randint(len(pixels), (count,), generator=generator)], device)


def _as_image(pixels: Tensor, device: torch.device) -> Tensor:
    """Reshapes (n, C) to (1, C, 1, n)."""
    return pixels.T[None, :, None].to(device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or file of a model")
    parser.add_argument("--output", type=Path, required=True, help="*.safetensors")
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=500, help="of each corpus, at most")
    parser.add_argument("--per-image", type=int, default=400, help="pixels of each image")
    parser.add_argument("--steps", type=int, default=FitOptions.steps)
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
        images = [
            image
            for corpus in training_corpora(parsed.data)
            for image in corpus.images[:: max(1, len(corpus) // parsed.images)]
        ]
        pixels = pixels_of(network, images, viewer, parsed.per_image)
        flow = PointwiseFlow(pixels.shape[1]).to(device)
        options = FitOptions(steps=parsed.steps)
        history = fit_pointwise(flow, pixels, options=options)
        provenance = {"model": metadata.name, "pixels": len(pixels), "options": asdict(options)}
        save_pointwise_flow(parsed.output, flow, provenance)
        print(
            f"wrote {parsed.output}: {len(pixels)} pixels, log-density {history[0]:.2f} to "
            f"{history[-1]:.2f} nats"
        )

    return run_tool("training.flow.fit_pointwise", fit)


if __name__ == "__main__":
    sys.exit(main())
