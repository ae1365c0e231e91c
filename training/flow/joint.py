"""Synthetic negatives: the flow draws them, the segmenter learns from them, the flow from both.

The flow maximises the likelihood of the inlier patches that its samples replace, and minimises
the divergence between the segmenter's posterior on its samples and the uniform one. It gets
nothing else: no gradient of an anomaly loss ever reaches it, and none of its losses reaches the
segmenter.

Two passes (the default, as in the public code): pass A pastes rounded samples for the segmenter's
step; then pass B draws fresh ones, and runs them through the segmenter as it is after that step.
One pass: the segmenter's own forward pass serves both. It saves the second one, and differs in
three ways: the flow learns from the samples that the segmenter saw rather than from fresh ones,
from the posterior before the segmenter's step rather than after it, and those samples are pasted
unrounded.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import CheckpointError, ParameterError, TrainingError
from training.data.batches import MixedBatch
from training.engine.steps import autocast
from training.flow.averaging import average_gradients, share_parameters
from training.flow.boundary import jensen_shannon_to_uniform
from training.flow.bystander import bystander
from training.flow.dense_flow import DenseFlow
from training.flow.rectangles import Rectangles, draw_rectangles
from training.losses.base import LossTerms
from training.losses.grids import resize_logits
from training.losses.reduction import global_count, global_mean, world_size

_PASSES = (1, 2)


@dataclass(frozen=True)
class FlowOptions:
    """How the flow takes part.

    Attributes:
        smallest, largest, step: Heights and widths of the samples, in pixels.
        probability: Of each image to receive a sample. Below 1 the others keep what they have,
            such as pasted real objects: that mixes synthetic with real negatives.
        boundary_weight: lambda of the divergence, beside the likelihood in bits per dimension.
        passes: 1 or 2, see the module.
        align_corners: Of the upsampling of the logits to the crop.
        epoch_steps: Steps after which the learning rate falls by ``epoch_decay``; 0 = never. 186
            is the public setting (2975 images in batches of 16).
        epoch_decay: That factor.

    Raises:
        ParameterError: A value out of range; names the option.
    """

    smallest: int = 16
    largest: int = 216
    step: int = 8
    probability: float = 1.0
    boundary_weight: float = 0.03
    passes: int = 2
    align_corners: bool = True
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
        """Heights and widths to choose from."""
        return range(self.smallest, self.largest + 1, self.step)


def flow_optimizer(flow: DenseFlow, lr: float = 1e-5) -> torch.optim.Optimizer:
    """Adamax with the public settings: 1e-5 for a pre-trained flow, 1e-3 from scratch."""
    return torch.optim.Adamax(flow.parameters(), lr, betas=(0.9, 0.999), eps=1e-7)


class _Drawn:
    """Samples in a batch, on their way through the segmenter.

    Attributes:
        rectangles: Where they are.
        samples: (n, 3, h, w) with the graph to the flow.
        replaced: (n, 3, h, w), what was there before.
        inlier: (n,) bool: ``replaced`` shows no outlier (nor the rim of one).
        images: (N, 3, H, W) float, the images with the samples: a leaf that collects a gradient
            of its own, which keeps the segmenter's graph and the flow's apart.
    """

    def __init__(self, batch: MixedBatch, rectangles: Rectangles, samples: Tensor) -> None:
        self.rectangles = rectangles
        self.samples = samples
        self.replaced = rectangles.cut(batch.images)
        self.inlier = (rectangles.cut(batch.ood_mask) == 0).flatten(1).all(1)
        filled = rectangles.fill(batch.images.to(samples.dtype), samples.detach())
        self.images = filled.requires_grad_()


class _Signal:
    """What the segmenter says of some samples.

    Attributes:
        drawn: The samples.
        divergence: Scalar, its mean over their pixels (of all processes), for the log.
        gradient: (n, 3, h, w) of that mean by the samples.
    """

    def __init__(self, drawn: _Drawn, logits: Tensor, align_corners: bool, keep: bool) -> None:
        """Differentiates.

        Args:
            drawn: The samples.
            logits: The segmenter's, with a graph to ``drawn.images``.
            align_corners: Of the upsampling.
            keep: Leave the graph for someone else's backward pass.
        """
        self.drawn = drawn
        size = drawn.images.shape[-2:]
        full = resize_logits(logits.float(), size, align_corners)
        pixels = drawn.rectangles.cut(jensen_shannon_to_uniform(full))
        # The sum's gradient has a magnitude that half precision can hold; the mean's has not.
        total = pixels.sum()
        gradient = torch.zeros_like(drawn.images)
        if len(drawn.samples):
            (gradient,) = torch.autograd.grad(total, drawn.images, retain_graph=keep)
        count = global_count(torch.ones_like(pixels)).clamp(min=1)
        scale = (world_size() / count).to(gradient.dtype)
        self.divergence = total.detach() * scale
        self.gradient = drawn.rectangles.cut(gradient) * scale


class FlowNegatives:
    """The flow beside the segmenter; a :class:`~training.engine.loop.SecondPlayer`.

    Random numbers come from torch's global generators, which the loop seeds at every step, unless
    a generator is given. Under several processes each draws its own samples, and the gradients
    are averaged. The flow works in its own precision (float32; see :class:`DenseFlow` for TF32)
    inside of any autocast.

    Args:
        flow: On the device of the training; all processes take the first one's weights.
        optimizer: Of its parameters, such as :func:`flow_optimizer`.
        scaling: From images of 0..255 to the network's input; lets gradients through.
        options: See :class:`FlowOptions`.
        precision: Of the segmenter in pass B: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ParameterError: The sizes of the samples are no multiples of what the flow needs, or an
            unknown precision.
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
        self._peak_lr = [group["lr"] for group in optimizer.param_groups]
        self._steps = 0
        self._drawn: _Drawn | None = None
        self._signals: list[_Signal] = []
        share_parameters(flow)

    # The loop's interface.

    def prepare(self, batch: MixedBatch, generator: torch.Generator | None = None) -> MixedBatch:
        """Pass A: pastes samples into a batch, for the segmenter to learn from.

        With one pass the images come back as float32 with a graph, and :meth:`listening` must
        stand around the segmenter's loss.

        Args:
            batch: On the flow's device.
            generator: On the CPU.

        Raises:
            ParameterError: The crop has no room for a sample.
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
        """Wraps the segmenter's loss: with one pass, its forward pass tells the flow, too.

        Args:
            loss: Maps (output, labels, outlier mask) to a loss; its value is not changed.
        """

        def heard(output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> LossTerms:
            if self._drawn is not None and torch.is_grad_enabled():
                corners = self.options.align_corners
                self._signals.append(_Signal(self._drawn, output.logits, corners, keep=True))
                self._drawn = None
            return loss(output, labels, ood_mask)

        return heard

    def after_step(
        self, model: nn.Module, batch: MixedBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The flow's step; with two passes this is pass B.

        Neither the parameters nor the gradients nor the running statistics of the segmenter
        change.

        Args:
            model: The segmenter, without a wrapper, in its training mode.
            batch: Without samples, on the flow's device.
            generator: On the CPU.

        Returns:
            ``flow_divergence`` (nats a pixel) and ``flow_bits_per_dim`` (of the replaced inlier
            patches), detached.

        Raises:
            TrainingError: A loss or gradient that is not finite; the flow keeps its weights.
            ParameterError: With one pass, :meth:`listening` was left out.
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
        """Weights, optimizer and position in the schedule."""
        return {
            "name": self.flow.name,
            "flow": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            CheckpointError: It is of a flow of another size.
        """
        if state["name"] != self.flow.name:
            raise CheckpointError(
                f"the checkpoint has a DenseFlow {state['name']}, this run one of {self.flow.name}"
            )
        self.flow.load_state_dict(state["flow"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]

    # The parts of a step.

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
        """Pass B up to the gradient at the samples; every image gets one, whatever pass A did."""
        drawn = self._draw(batch, 1.0, generator)
        with bystander(model), autocast(drawn.images.device, self._precision):
            output: NetworkOutput = model(self.scaling(drawn.images))
            return _Signal(drawn, output.logits, self.options.align_corners, keep=False)

    def _backward(
        self, signal: _Signal, count: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Adds the gradient of one micro-batch out of ``count``; returns its terms."""
        drawn = signal.drawn
        # Its gradient by the parameters is the divergence's: the chain rule, in two pieces.
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
