"""The discriminator as the loop's second player (:class:`training.engine.loop.SecondPlayer`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.style.cameras import PairedCrops
from training.data.style.network import PatchDiscriminator, StyleTransfer, to_unit


class Opponent:
    """Learns to tell target crops from crops of other frames rendered in the exemplars' style.

    Args:
        lr: Its learning rate.
        every: It judges and learns on every n-th step.
        device: Where it lives.
    """

    def __init__(self, lr: float, every: int, device: torch.device) -> None:
        self.discriminator = PatchDiscriminator().to(device, memory_format=torch.channels_last)
        self.discriminator.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr, (0.5, 0.99))
        self.every = every
        self.steps = 0

    @property
    def due(self) -> bool:
        """Whether it takes part in the current step."""
        return self.steps % self.every == 0

    def prepare(self, batch: PairedCrops) -> PairedCrops:
        """Leaves the batch as it is."""
        return batch

    def after_step(self, model: StyleTransfer, batch: PairedCrops) -> dict[str, Tensor]:
        """Takes its own step where it is due.

        Args:
            model: After its step.
            batch: (N, 3, H, W) uint8 each.

        Returns:
            The hinge loss as "discriminator".
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
        """Everything that a resumed run needs."""
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
    """Hinge loss of the scores of as many real as generated images in [-1, 1], a scalar."""
    of_real, of_generated = discriminator(torch.cat([real, generated]))[-1].chunk(2)
    return F.relu(1 - of_real).mean() + F.relu(1 + of_generated).mean()
