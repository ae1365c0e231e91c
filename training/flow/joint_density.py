# SPDX-License-Identifier: Apache-2.0
"""Trains the point-wise flow beside the segmenter, on its pre-logits and with its negatives.

The flow's density p(z) takes the place of the unnormalised one in DenseHybrid's compound loss.
That of outlier pixels falls, as in eq. 17: ``beta E_out[ln p(z)]``. A normalised density also
needs the inlier part of eq. 11, ``-E_in[ln p(z)]``, which the class posterior implies only for the
unnormalised one. For the hybrid score, use a loss that trains an outlier head.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 6.3
(Table 5, bottom): "end-to-end", with negatives. What of this reaches the segmenter is not said. By
default only the outlier term does: the inlier term could be raised without end by shrinking the
pre-logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.labels import IGNORE_INDEX
from training.data.mixing.mixed_views import MixedBatch
from training.engine.config import chosen, to_dataclass
from training.engine.distributed import average_gradients, share_parameters
from training.engine.schedule import SCHEDULES
from training.engine.steps import warming_ema
from training.flow.pointwise_flow import (
    PointwiseFlow,
    density_terms,
    load_pointwise_flow,
    save_pointwise_flow,
)
from training.losses.base import LossTerms
from training.losses.grids import nearest

# The outlier term comes first, so the place in this list is the number of terms.
REACHES = ("none", "outliers", "both")
Loss = Callable[[NetworkOutput, Tensor, Tensor], LossTerms]


@dataclass(frozen=True)
class DensityOptions:
    """Settings of the joint training.

    Attributes:
        pixels: Inlier pixels, and outlier pixels, of a micro-batch and process, at most; a random
            choice.
        outlier_weight: Weight of the outlier term, beta: 0.03 with real negatives, 0.01 with
            synthetic ones.
        outlier_floor: Outlier pixels this many nats per channel below the inliers' mean are not
            pushed further. Without a floor the term would diverge.
        reaches_network: Terms whose gradient reaches the segmenter: ``none``,
            ``outliers`` or ``both``.
        clip_norm: Maximum norm of the flow's gradient.

    Raises:
        ParameterError: A value is out of range; the message names the option.
    """

    pixels: int = 4096
    outlier_weight: float = 0.03
    outlier_floor: float = 2.0
    reaches_network: str = "outliers"
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        reaches = dict.fromkeys(REACHES)
        chosen(reaches, "pointwise_flow: reaches_network", self.reaches_network)
        if self.pixels < 1 or self.clip_norm <= 0:
            raise ParameterError(
                f"pointwise_flow: pixels {self.pixels} and clip_norm {self.clip_norm} must be "
                "positive"
            )
        if self.outlier_weight < 0 or self.outlier_floor < 0:
            raise ParameterError(
                f"pointwise_flow: outlier_weight {self.outlier_weight} and outlier_floor "
                f"{self.outlier_floor} must not be negative"
            )


class JointDensity:
    """Trains the flow alongside the segmenter; a :class:`~training.engine.loop.SecondPlayer`.

    The flow has an Adam of its own, whose rate falls like that of the segmenter, and averaged
    weights. It keeps those of the last validations, so that the flow written in the end is that of
    the model written in the end.

    Args:
        flow: The flow, on the training device; all processes take the first one's weights.
        lr: Peak learning rate.
        lr_factor: Maps the step to its share of the peak.
        ema_decay: Decay of the averaged weights.
        options: See :class:`DensityOptions`.
        initialised: Whether the flow is fitted already; otherwise its ActNorms are set from the
            first batch.
    """

    def __init__(
        self,
        flow: PointwiseFlow,
        lr: float,
        lr_factor: Callable[[int], float],
        ema_decay: float,
        options: DensityOptions | None = None,
        initialised: bool = False,
    ) -> None:
        self.flow = flow
        self.options = options or DensityOptions()
        self._optimizer = torch.optim.Adam(flow.parameters(), lr)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lr_factor)
        self._average = torch.optim.swa_utils.AveragedModel(
            flow, multi_avg_fn=warming_ema(ema_decay)
        )
        self._initialised = initialised
        self._heard: list[dict[str, Tensor]] = []
        self._kept: dict[int, dict[str, Tensor]] = {}
        share_parameters(flow)

    def prepare(self, batch: MixedBatch) -> MixedBatch:
        """Returns the batch as it is."""
        return batch

    def listening(self, loss: Loss) -> Loss:
        """Wraps the segmenter's loss: adds the terms that reach it, and collects the flow's.

        Args:
            loss: Maps (output, labels, outlier mask) to a loss.
        """

        def heard(output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> LossTerms:
            found = loss(output, labels, ood_mask)
            if not torch.is_grad_enabled():
                return found
            weighted, terms = self._terms(output.pre_logits, labels, ood_mask)
            self._heard.append(terms)
            return LossTerms(found.total + weighted, {**found.terms, **terms})

        return heard

    def after_step(self, model: nn.Module, batch: MixedBatch) -> dict[str, Tensor]:
        """Runs the flow's optimizer step; the gradients were collected with the segmenter's.

        Raises:
            TrainingError: A loss or gradient is not finite; the flow keeps its weights.
        """
        heard, self._heard = self._heard, []
        for parameter in self.flow.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(heard)
        average_gradients(self.flow)
        norm = nn.utils.clip_grad_norm_(self.flow.parameters(), self.options.clip_norm)
        if not math.isfinite(float(sum(sum(terms.values()) for terms in heard) + norm)):
            parts = ", ".join(f"{k} {float(v):g}" for terms in heard for k, v in terms.items())
            raise TrainingError(
                f"the point-wise flow's step {self._schedule.last_epoch}: {parts}, norm of the "
                f"gradient {float(norm):g}. The flow was not changed"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        self._average.update_parameters(self.flow)
        return {}

    def keep(self, step: int, best: int | None) -> None:
        """Keeps the averaged flow of a validation, and forgets all earlier ones but the best.

        Args:
            step: Step of the validation, which may turn out to be the best.
            best: Step of the best model so far, or None.
        """
        self._kept = {k: v for k, v in self._kept.items() if k == best}
        if self._initialised:
            state = self._average.module.state_dict()
            self._kept[step] = {key: value.cpu().clone() for key, value in state.items()}

    def write(self, path: Path, model: str, best: int | None) -> bool:
        """Writes the flow that belongs to the best model, or that of the last step.

        Args:
            path: File to write.
            model: Name of the model, for the file's provenance.
            best: Step of the best model; None if the last was taken.

        Returns:
            Whether there is one: the untrained model may have been the best.
        """
        if best is not None and best not in self._kept:
            return False
        flow = PointwiseFlow(**self.flow.arguments)
        flow.load_state_dict(
            self._average.module.state_dict() if best is None else self._kept[best]
        )
        provenance = {"model": model, "step": best, "options": asdict(self.options)}
        save_pointwise_flow(path, flow, provenance)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, averaged weights, optimizer state and position in the schedule."""
        return {
            "flow": self.flow.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "initialised": self._initialised,
            "kept": self._kept,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.flow.load_state_dict(state["flow"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._initialised = state["initialised"]
        self._kept = state["kept"]

    def _terms(
        self, pre_logits: Tensor, labels: Tensor, ood_mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Accumulates the flow's gradient; returns the segmenter's part of the loss, and terms."""
        inliers, outliers = self._chosen(pre_logits, labels, ood_mask)
        if not self._initialised:
            self.flow.initialise(pre_logits)
            share_parameters(self.flow)
            self._initialised = True
        # The segmenter's loss may be scaled for half precision. So the flow's own graph ends at
        # copies of the pixels, and the segmenter's part goes on from the gradients of these.
        copies = [pixels.detach().float().requires_grad_() for pixels in (inliers, outliers)]
        inlier, outlier = density_terms(self.flow, *copies, self.options.outlier_floor)
        parts = [
            (outliers, copies[1], self.options.outlier_weight * outlier),
            (inliers, copies[0], -inlier),
        ]
        (parts[0][2] + parts[1][2]).backward()
        total = torch.zeros((), device=pre_logits.device)
        for pixels, copy, term in parts[: REACHES.index(self.options.reaches_network)]:
            linear = (pixels.float() * copy.grad).sum()
            total = total + term.detach() + linear - linear.detach()
        return total, {"density_inlier": inlier.detach(), "density_outlier": outlier.detach()}

    def _chosen(
        self, pre_logits: Tensor, labels: Tensor, ood_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Chooses inlier and outlier pixels at random: (n, C) and (m, C), attached."""
        size = pre_logits.shape[-2:]
        mask = nearest(ood_mask, size)
        inlier = (nearest(labels, size) != IGNORE_INDEX) & (mask == 0)
        pixels = pre_logits.movedim(1, -1)
        kinds = []
        for where in (inlier, mask == 1):
            rows = where.flatten().nonzero()[:, 0]
            keep = torch.randperm(len(rows), device=rows.device)[: self.options.pixels]
            kinds.append(pixels.flatten(0, 2)[rows[keep]])
        return kinds[0], kinds[1]


def build_joint_density(
    config: dict[str, Any], network: nn.Module, device: torch.device
) -> JointDensity | None:
    """Builds the point-wise flow of a fine-tuning, or returns None if the configuration has none.

    Args:
        config: Configuration of the fine-tuning.
        network: The segmenter.
        device: Training device.

    Raises:
        CheckpointError: The weights do not load.
        ParameterError: An unknown option, a value out of range, or a flow for other pre-logits.
    """
    settings = config["pointwise_flow"]
    if not settings["train"]:
        return None
    schedule = chosen(SCHEDULES, "schedule", config["schedule"])
    options: DensityOptions = to_dataclass(DensityOptions, settings["options"])
    channels = network.pre_logits_channels
    if settings["weights"]:
        flow = load_pointwise_flow(Path(settings["weights"])).train()
        if flow.arguments["channels"] != channels:
            raise ParameterError(
                f"pointwise_flow.weights {settings['weights']}: a flow of "
                f"{flow.arguments['channels']} channels, but the network's pre-logits have "
                f"{channels}"
            )
    else:
        flow = PointwiseFlow(channels)

    def lr_factor(step: int) -> float:
        return schedule(step / config["steps"], config["poly_power"])

    return JointDensity(
        flow.to(device),
        settings["lr"],
        lr_factor,
        config["ema_decay"],
        options,
        initialised=bool(settings["weights"]),
    )
