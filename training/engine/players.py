# SPDX-License-Identifier: Apache-2.0
"""Several second players of one training, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from training.engine.steps import Batch, SecondPlayer


def joined(players: Sequence[SecondPlayer]) -> SecondPlayer | None:
    """Joins second players: None for none, a single one as it is."""
    return Players(players) if len(players) > 1 else next(iter(players), None)


class Players:
    """Second players that take their turns in a fixed order; itself a ``SecondPlayer``.

    Args:
        players: The players; their logs must have different names.
    """

    def __init__(self, players: Sequence[SecondPlayer]) -> None:
        self.players = tuple(players)

    def prepare(self, batch: Batch) -> Batch:
        """Lets each player change the batch."""
        for player in self.players:
            batch = player.prepare(batch)
        return batch

    def after_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Lets each player take its step."""
        figures: dict[str, Tensor] = {}
        for player in self.players:
            figures |= player.after_step(model, batch)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Returns every player's state."""
        return {"players": [player.state_dict() for player in self.players]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        for player, part in zip(self.players, state["players"], strict=True):
            player.load_state_dict(part)
