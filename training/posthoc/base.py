"""What every post-hoc score promises: a network and its input in, a score map out."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class PosthocScore(Protocol):
    """A score that needs more than one pass's outputs; higher = more anomalous."""

    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Scores a batch.

        Args:
            network: In eval mode, and in it again afterwards; see
                :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
            inputs: (N, 3, H, W), normalised as the network expects, on its device.

        Returns:
            (N, h, w) float32; each score says on which grid.
        """
        ...
