# SPDX-License-Identifier: Apache-2.0
"""Loss of the learned style transfer, and the discriminator that is trained against it.

The terms and their weights are ISSA's (perceptual 10, adversarial .1, feature .2, noise .1, w .1),
except for mse with 20 instead of 1, because here the colours are nearly right from the start.
Differences:

* "mse" and "perceptual" compare with the target of a supervised pair (``style.cameras``). If both
  cameras are the same, this is ISSA's reconstruction.
* The perceptual distance is LPIPS with the first stages of EfficientNet-Lite0, whose ImageNet
  weights this project uses anyway; the published LPIPS weights would be another download.
* "adversarial" judges crops of other frames, which represent foreign objects.
* "feature" matches the discriminator's features of output and target (pix2pixHD, Wang 2018).
* "noise" compares the content maps of one crop under two cameras, relative to the map's variance;
  "w" compares the style code of the output with the exemplar's, in the same way.
* "feature", "noise", "w" and "adversarial" double the cost of a step, so they are evaluated every
  few steps only, like StyleGAN2's regularisers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.models.efficientnet_lite import EfficientNetLite
from training.data.style.cameras import PairedCrops
from training.data.style.network import PatchDiscriminator, StyleTransfer, mask_with_noise, to_unit
from training.losses.base import LossTerms

TERMS = ("mse", "perceptual", "adversarial", "feature", "noise", "w")


class PerceptualDistance(nn.Module):
    """Distance of unit-length features, summed over channels (Zhang et al. 2018, LPIPS).

    Without learned weights per channel; the two layers, both of stride 2, are weighted equally.
    Deeper layers represent the content, which does not change here.

    Args:
        backbone: Backbone with ImageNet weights; it is frozen and kept in eval mode.
    """

    def __init__(self, backbone: EfficientNetLite) -> None:
        super().__init__()
        self.layers = nn.ModuleList([backbone.stem, backbone.stages[0]])
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean distance, a scalar.

        Args:
            images: (N, 3, H, W) in [-1, 1], the backbone's input range.
            targets: Images to compare with, in the same format.
        """
        # In float32: bfloat16 depthwise convolutions are slower on the CPU (training/networks.py).
        with torch.autocast(images.device.type, enabled=False):
            x, y = images.float(), targets.float()
            total = torch.zeros((), device=images.device)
            for layer in self.layers:
                x, y = layer(x), layer(y)
                total = total + (_unit(x) - _unit(y)).square().sum(1).mean()
        return total / len(self.layers)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()


class StyleObjective:
    """Loss of encoder and generator.

    Args:
        weights: Weight of each term in :data:`TERMS`.
        perceptual: See :class:`PerceptualDistance`.
        opponent: Judges the output, in the steps that it takes part in.
        mask_probability: Share of the crops whose content map is masked with noise. ISSA masks
            all; here the others teach the detail that the transfer should keep.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        perceptual: PerceptualDistance,
        opponent: Opponent,
        mask_probability: float,
    ) -> None:
        self.weights = {name: float(weights[name]) for name in TERMS}
        self.perceptual = perceptual
        self.opponent = opponent
        self.mask_probability = mask_probability

    def __call__(self, network: StyleTransfer, batch: PairedCrops) -> LossTerms:
        """Evaluates a batch; draws the masks from torch's global generator.

        Args:
            network: The network to train.
            batch: Crops of (N, 3, H, W) uint8 each.
        """
        content, exemplar, target, foreign = (to_unit(x) for x in batch)
        encoded = network.encoder(content)
        style = network.encoder.style(exemplar)
        masked = torch.rand(len(content)) < self.mask_probability
        hidden = encoded._replace(content=mask_with_noise(encoded.content, masked))
        rendered = network.generator(content, hidden, style)
        terms = {
            "mse": F.mse_loss(rendered, target),
            "perceptual": self.perceptual(rendered, target),
        }
        if self.opponent.due:
            mixed = network.generator(foreign, network.encoder(foreign), style)
            terms |= self._judge(rendered, mixed, target)
            terms["noise"] = _relative(network.encoder(target).content, encoded.content)
            terms["w"] = _relative(network.encoder.style(mixed), style.detach())
        total = sum(self.weights[name] * term for name, term in terms.items())
        return LossTerms(total, {name: term.detach() for name, term in terms.items()})

    def _judge(self, rendered: Tensor, mixed: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Computes the terms that need the discriminator."""
        judged = self.opponent.discriminator(torch.cat([rendered, mixed]))
        with torch.no_grad():
            wanted = self.opponent.discriminator(target)
        return {
            "adversarial": -judged[-1].chunk(2)[1].float().mean(),
            "feature": sum(
                F.l1_loss(found.chunk(2)[0].float(), feature.float())
                for found, feature in zip(judged[:-1], wanted[:-1], strict=True)
            ),
        }


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error relative to the variance, so that shrinking the codes does not help."""
    found, wanted = found.float(), wanted.float()
    variance = wanted.var(dim=[i for i in range(wanted.ndim) if i != 1]).mean()
    return F.mse_loss(found, wanted) / (variance + 1e-6)


class Opponent:
    """Discriminator, as a :class:`~training.engine.steps.SecondPlayer` of the training loop.

    It learns to tell target crops from crops of other frames rendered in the exemplars' style.

    Args:
        lr: Learning rate.
        every: It takes part in every n-th step.
        device: Device of the discriminator.
    """

    def __init__(self, lr: float, every: int, device: torch.device) -> None:
        self.discriminator = PatchDiscriminator().to(device, memory_format=torch.channels_last)
        self.discriminator.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr, (0.5, 0.99))
        self.every = every
        self.steps = 0

    @property
    def due(self) -> bool:
        """True if it takes part in the current step."""
        return self.steps % self.every == 0

    def prepare(self, batch: PairedCrops) -> PairedCrops:
        """Returns the batch unchanged."""
        return batch

    def after_step(self, model: StyleTransfer, batch: PairedCrops) -> dict[str, Tensor]:
        """Runs its own step if it is due.

        Args:
            model: The model, after its step.
            batch: Crops of (N, 3, H, W) uint8 each.

        Returns:
            The hinge loss as "discriminator", if due.
        """
        due = self.due
        self.steps += 1
        if not due:
            return {}
        with torch.no_grad():
            mixed = model(to_unit(batch.foreign), to_unit(batch.exemplar))
        self.discriminator.requires_grad_(True)
        loss = hinge_loss(self.discriminator, to_unit(batch.target), mixed)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.discriminator.requires_grad_(False)
        return {"discriminator": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that a resumed run needs."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def hinge_loss(discriminator: PatchDiscriminator, real: Tensor, generated: Tensor) -> Tensor:
    """Scalar hinge loss for equally many real and generated images in [-1, 1]."""
    of_real, of_generated = discriminator(torch.cat([real, generated]))[-1].chunk(2)
    return F.relu(1 - of_real).mean() + F.relu(1 + of_generated).mean()
