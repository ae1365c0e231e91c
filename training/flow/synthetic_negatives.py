# SPDX-License-Identifier: Apache-2.0
"""Synthetic negatives: joint training of a segmenter and of the flow that draws its outliers.

The flow maximises the likelihood of the inlier patches that its samples replace, and minimises
the divergence between the segmenter's posterior on its samples and the uniform distribution.
Gradients stay separate: no anomaly loss reaches the flow, and neither of the flow's losses reaches
the segmenter.

Two passes (the default, as in the public code): pass A pastes rounded samples for the segmenter's
step; pass B then draws new samples and runs them through the updated segmenter. With one pass, the
segmenter's own forward pass serves both. That saves the second pass, with three differences: the
flow learns from the same samples as the segmenter, from the posterior before the segmenter's step,
and the samples are pasted unrounded.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 4.2.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import CheckpointError, ParameterError, TrainingError
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.mixing.mixed_views import MixedBatch
from training.engine.config import to_dataclass
from training.engine.distributed import average_gradients, share_parameters
from training.engine.steps import autocast
from training.flow.dense_flow import DenseFlow, load_flow, sample_sheet
from training.flow.rectangles import Rectangles, draw_rectangles
from training.losses.base import LossTerms
from training.losses.grids import resize_logits
from training.losses.reduction import global_count, global_mean, world_size

_PASSES = (1, 2)
# Crops that initialise a flow without pre-trained weights: 64 x 64, as in the paper.
_FIRST_CROPS = 32
_FIRST_SIDE = 64


@dataclass(frozen=True)
class FlowOptions:
    """Settings of the joint training.

    Attributes:
        smallest, largest, step: Range of the samples' heights and widths, in pixels.
        probability: Probability that an image receives a sample. Other images keep their pasted
            real objects, so values below 1 mix synthetic and real negatives.
        boundary_weight: Weight of the divergence, lambda, relative to the bits per dimension.
        passes: 1 or 2, see the module docstring.
        align_corners: How to upsample the logits to the crop; None uses the network's own setting
            (see :meth:`FlowNegatives.follow`).
        epoch_steps: The learning rate is multiplied by ``epoch_decay`` every this many steps; 0
            disables it. 186 is the public setting (2975 images in batches of 16).
        epoch_decay: Decay factor of the learning rate.

    Raises:
        ParameterError: A value is out of range; the message names the option.
    """

    smallest: int = 16
    largest: int = 216
    step: int = 8
    probability: float = 1.0
    boundary_weight: float = 0.03
    passes: int = 2
    align_corners: bool | None = None
    epoch_steps: int = 186
    epoch_decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest or self.step < 1:
            raise ParameterError(
                f"flow: sides from smallest {self.smallest} to largest {self.largest} in steps "
                f"of {self.step} are none"
            )
        if not 0 < self.probability <= 1:
            raise ParameterError(f"flow: probability {self.probability}, expected (0, 1]")
        if self.passes not in _PASSES:
            raise ParameterError(f"flow: passes {self.passes}, expected one of {_PASSES}")
        if self.boundary_weight < 0 or self.epoch_steps < 0 or not 0 < self.epoch_decay <= 1:
            raise ParameterError(
                f"flow: boundary_weight {self.boundary_weight} and epoch_steps "
                f"{self.epoch_steps} must not be negative, epoch_decay {self.epoch_decay} "
                "must lie in (0, 1]"
            )

    @property
    def sides(self) -> range:
        """Heights and widths of the samples."""
        return range(self.smallest, self.largest + 1, self.step)


def flow_optimizer(flow: DenseFlow, lr: float = 1e-5) -> torch.optim.Optimizer:
    """Adamax with the public settings: lr 1e-5 for a pre-trained flow, 1e-3 from scratch."""
    return torch.optim.Adamax(flow.parameters(), lr, betas=(0.9, 0.999), eps=1e-7)


class _Drawn:
    """Samples pasted into a batch.

    Attributes:
        rectangles: Positions of the samples.
        samples: (n, 3, h, w) samples, attached to the flow's graph.
        replaced: (n, 3, h, w) patches that they replace.
        inlier: (n,) bool, True where ``replaced`` contains no outlier and no rim of one.
        images: (N, 3, H, W) float images with the samples, as a new leaf. This keeps the graphs of
            segmenter and flow separate.
    """

    def __init__(self, batch: MixedBatch, rectangles: Rectangles, samples: Tensor) -> None:
        self.rectangles = rectangles
        self.samples = samples
        self.replaced = rectangles.cut(batch.images)
        self.inlier = (rectangles.cut(batch.ood_mask) == 0).flatten(1).all(1)
        filled = rectangles.fill(batch.images.to(samples.dtype), samples.detach())
        self.images = filled.requires_grad_()


class _Signal:
    """The segmenter's response to a set of samples.

    Attributes:
        drawn: The samples.
        divergence: Scalar for the log, the mean over the pixels of all processes.
        gradient: (n, 3, h, w) gradient of that mean with respect to the samples.
    """

    def __init__(self, drawn: _Drawn, logits: Tensor, align_corners: bool, keep: bool) -> None:
        """Computes the divergence and its gradient.

        Args:
            drawn: The samples.
            logits: The segmenter's logits, attached to ``drawn.images``.
            align_corners: How to upsample the logits.
            keep: Keep the graph for another backward pass.
        """
        self.drawn = drawn
        size = drawn.images.shape[-2:]
        full = resize_logits(logits.float(), size, align_corners)
        pixels = drawn.rectangles.cut(jensen_shannon_to_uniform(full))
        # The gradient of the sum is representable in half precision, that of the mean is not.
        total = pixels.sum()
        gradient = torch.zeros_like(drawn.images)
        if len(drawn.samples):
            (gradient,) = torch.autograd.grad(total, drawn.images, retain_graph=keep)
        count = global_count(torch.ones_like(pixels)).clamp(min=1)
        scale = (world_size() / count).to(gradient.dtype)
        self.divergence = total.detach() * scale
        self.gradient = drawn.rectangles.cut(gradient) * scale


class FlowNegatives:
    """Trains the flow alongside the segmenter; a :class:`~training.engine.loop.SecondPlayer`.

    Random numbers come from torch's global generators, which the loop seeds at every step, unless
    a generator is given. Each process draws its own samples, and gradients are averaged over the
    processes. The flow runs in its own precision (float32; see :class:`DenseFlow` for TF32)
    regardless of autocast.

    Args:
        flow: The flow, on the training device; all processes take the first one's weights.
        optimizer: Optimizer of the flow's parameters, such as :func:`flow_optimizer`.
        scaling: Differentiable map from images in 0..255 to the network's input.
        options: See :class:`FlowOptions`.
        precision: Precision of the segmenter in pass B: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ParameterError: The sizes of the samples are not multiples of what the flow needs, or the
            precision is unknown.
    """

    def __init__(
        self,
        flow: DenseFlow,
        optimizer: torch.optim.Optimizer,
        scaling: Callable[[Tensor], Tensor],
        options: FlowOptions | None = None,
        precision: str = "fp32",
    ) -> None:
        self.flow = flow
        self.optimizer = optimizer
        self.scaling = scaling
        self.options = options or FlowOptions()
        multiple = flow.size_multiple
        if any(side % multiple for side in self.options.sides):
            raise ParameterError(
                f"flow: smallest {self.options.smallest} and step {self.options.step} must be "
                f"multiples of {multiple} for DenseFlow {flow.name}"
            )
        autocast(torch.device("cpu"), precision)  # refuses an unknown precision
        self._precision = precision
        self._align_corners = bool(self.options.align_corners)
        self._peak_lr = [group["lr"] for group in optimizer.param_groups]
        self._steps = 0
        self._drawn: _Drawn | None = None
        self._signals: list[_Signal] = []
        share_parameters(flow)

    def follow(self, network: nn.Module) -> FlowNegatives:
        """Adopts the segmenter's ``align_corners`` if the options give none; returns itself.

        Args:
            network: The segmenter, see :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        """
        if self.options.align_corners is None:
            self._align_corners = network.align_corners
        return self

    def prepare(self, batch: MixedBatch, generator: torch.Generator | None = None) -> MixedBatch:
        """Pass A: pastes samples into a batch for the segmenter to learn from.

        With one pass, the returned images are float32 and part of a graph, and :meth:`listening`
        must wrap the segmenter's loss.

        Args:
            batch: Batch on the flow's device.
            generator: Random generator on the CPU.

        Raises:
            ParameterError: The crop is too small for a sample.
        """
        if self.options.passes == 1:
            self._drawn = self._draw(batch, self.options.probability, generator)
            return self._drawn.rectangles.paste(batch, self._drawn.images)
        rectangles = self._rectangles(batch, self.options.probability, generator)
        with torch.no_grad():
            samples = self._sample(rectangles, generator)
        images = rectangles.fill(batch.images, samples.round().to(batch.images.dtype))
        return rectangles.paste(batch, images)

    def listening(
        self, loss: Callable[[NetworkOutput, Tensor, Tensor], LossTerms]
    ) -> Callable[[NetworkOutput, Tensor, Tensor], LossTerms]:
        """Wraps the segmenter's loss, to let the flow use its forward pass in one-pass mode.

        Args:
            loss: Maps (output, labels, outlier mask) to a loss; its value does not change.
        """

        def heard(output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> LossTerms:
            if self._drawn is not None and torch.is_grad_enabled():
                signal = _Signal(self._drawn, output.logits, self._align_corners, keep=True)
                self._signals.append(signal)
                self._drawn = None
            return loss(output, labels, ood_mask)

        return heard

    def after_step(
        self, model: nn.Module, batch: MixedBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Runs the optimizer step of the flow; includes pass B in two-pass mode.

        The segmenter's parameters, gradients and running statistics do not change.

        Args:
            model: The unwrapped segmenter, in training mode.
            batch: Batch without samples, on the flow's device.
            generator: Random generator on the CPU.

        Returns:
            ``flow_divergence`` (nats per pixel) and ``flow_bits_per_dim`` (of the replaced inlier
            patches), detached.

        Raises:
            TrainingError: A loss or gradient is not finite; the flow keeps its weights.
            ParameterError: :meth:`listening` was not used in one-pass mode.
        """
        signals = [self._ask(model, batch, generator)] if self.options.passes == 2 else []
        signals, self._signals = signals or self._signals, []
        if not signals:
            raise ParameterError(
                "flow: with passes 1 the segmenter's loss must be wrapped by "
                "FlowNegatives.listening"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms = [self._backward(signal, len(signals), generator) for signal in signals]
        average_gradients(self.flow)
        figures = {key: torch.stack([t[key] for t in terms]).mean() for key in terms[0]}
        self._check_finite(figures)
        self._set_learning_rate()
        self.optimizer.step()
        self._steps += 1
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimizer state and position in the schedule."""
        return {
            "name": self.flow.name,
            "flow": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            CheckpointError: It belongs to a flow of another size.
        """
        if state["name"] != self.flow.name:
            raise CheckpointError(
                f"the checkpoint has a DenseFlow {state['name']}, this run one of {self.flow.name}"
            )
        self.flow.load_state_dict(state["flow"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]

    def _rectangles(
        self, batch: MixedBatch, probability: float, generator: torch.Generator | None
    ) -> Rectangles:
        height, width = batch.images.shape[-2:]
        return draw_rectangles(
            len(batch.images), (height, width), self.options.sides, probability, generator
        )

    def _sample(self, rectangles: Rectangles, generator: torch.Generator | None) -> Tensor:
        return self.flow.sample(len(rectangles.images), rectangles.size, generator)

    def _draw(
        self, batch: MixedBatch, probability: float, generator: torch.Generator | None
    ) -> _Drawn:
        rectangles = self._rectangles(batch, probability, generator)
        return _Drawn(batch, rectangles, self._sample(rectangles, generator))

    def _ask(
        self, model: nn.Module, batch: MixedBatch, generator: torch.Generator | None
    ) -> _Signal:
        """Runs pass B up to the gradient at the samples, with a sample in every image."""
        drawn = self._draw(batch, 1.0, generator)
        with _bystander(model), autocast(drawn.images.device, self._precision):
            output: NetworkOutput = model(self.scaling(drawn.images))
            return _Signal(drawn, output.logits, self._align_corners, keep=False)

    def _backward(
        self, signal: _Signal, count: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Accumulates the gradient of one of ``count`` micro-batches; returns its terms."""
        drawn = signal.drawn
        # By the chain rule, its gradient with respect to the parameters is that of the divergence.
        attraction = (drawn.samples * signal.gradient).sum()
        bits = self.flow.bits_per_dim(drawn.replaced, generator)
        mean_bits = global_mean(bits, drawn.inlier)
        total = mean_bits + self.options.boundary_weight * attraction
        (total / count).backward()
        return {"flow_divergence": signal.divergence, "flow_bits_per_dim": mean_bits.detach()}

    def _check_finite(self, figures: dict[str, Tensor]) -> None:
        norm = nn.utils.get_total_norm([p.grad for p in self.flow.parameters()])
        if math.isfinite(float(sum(figures.values()) + norm)):
            return
        parts = ", ".join(f"{key} {float(value):g}" for key, value in figures.items())
        raise TrainingError(
            f"the flow's step {self._steps}: {parts}, norm of the gradient {float(norm):g}. "
            "The flow was not changed"
        )

    def _set_learning_rate(self) -> None:
        options = self.options
        epochs = self._steps // options.epoch_steps if options.epoch_steps else 0
        for group, peak in zip(self.optimizer.param_groups, self._peak_lr, strict=True):
            group["lr"] = peak * options.epoch_decay**epochs


def build_flow_negatives(
    config: dict[str, Any],
    dataset: Dataset,
    network: nn.Module,
    scaling: InputScaling,
    device: torch.device,
) -> FlowNegatives | None:
    """Builds the flow of a fine-tuning, or returns None if the configuration has none.

    Args:
        config: Configuration of the fine-tuning.
        dataset: Training samples, which initialise a flow that has no pre-trained weights.
        network: The segmenter.
        scaling: Input scaling of the segmenter.
        device: Training device.

    Raises:
        CheckpointError: The weights do not load.
        ParameterError: An unknown size or option, or crops too small for the samples.
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
    optimizer = flow_optimizer(flow, settings["lr"])
    return FlowNegatives(flow, optimizer, scaling, options, config["precision"]).follow(network)


def samples_picture(negatives: FlowNegatives) -> np.ndarray:
    """Draws small, medium and large samples as one picture, (H, W, 3) uint8 RGB."""
    sides = negatives.options.sides
    chosen = sorted({sides[0], sides[len(sides) // 2], sides[-1]})
    return sample_sheet(negatives.flow, [(side, side) for side in chosen])


def jensen_shannon_to_uniform(logits: Tensor) -> Tensor:
    """Boundary-attraction loss, ``KL(p || m) / 2 + KL(u || m) / 2`` with m = (p + u) / 2.

    The flow minimises it to draw what the segmenter is unsure of. The paper's "negative"
    divergence is a sign error, as its text and the public code show.

    Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", L_jsd of
    section 4.2.

    Args:
        logits: (N, K, H, W) float logits.

    Returns:
        (N, H, W) nats: 0 for a uniform posterior, 0.588665 for a certain one with K = 19.
    """
    log_p = torch.log_softmax(logits, 1)
    log_u = -math.log(logits.shape[1])
    log_m = torch.logaddexp(log_p, torch.full_like(log_p, log_u)) - math.log(2)
    from_p = (log_p.exp() * (log_p - log_m)).sum(1)
    from_u = (log_u - log_m).mean(1)
    return (from_p + from_u) / 2


@contextlib.contextmanager
def _bystander(network: nn.Module) -> Iterator[None]:
    """Lets a network run in training mode without changing it.

    Inside, no parameter requires a gradient. BatchNorm normalises by the batch as usual, but all
    buffers, with its running statistics, are restored afterwards.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    buffers = [(b, b.clone()) for b in network.buffers()]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _first_crops(dataset: Dataset) -> Tensor:
    """Crops the corners of the first samples: (N, 3, 64, 64) uint8."""
    return torch.stack(
        [dataset[i].images[:, :_FIRST_SIDE, :_FIRST_SIDE] for i in range(_FIRST_CROPS)]
    )
