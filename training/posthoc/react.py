# SPDX-License-Identifier: Apache-2.0
"""ReAct: rectified activations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import logit_score


class React:
    r"""A logit score after clipping the pre-logits, :math:`\min(z, c)`.

    Source: Sun, Guo & Li, "ReAct: Out-of-distribution Detection With Rectified Activations"
    (NeurIPS 2021), with the energy score.

    Args:
        threshold: c; see :func:`activation_percentile`.
        score: Name of a score that reads the logits alone.

    Raises:
        ParameterError: Unknown score.
    """

    def __init__(self, threshold: float, score: str = "energy") -> None:
        self.threshold = float(threshold)
        self._score = logit_score(score)

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, h, w) float32 on the logits' grid."""
        clipped = network(inputs).pre_logits.clamp(max=self.threshold)
        return self._score(network.classify(clipped))


@torch.inference_mode()
def activation_percentile(
    network: nn.Module,
    batches: Iterable[Tensor],
    percentile: float = 99.0,
    per_batch: int = 100_000,
    seed: int = 0,
) -> float:
    """The percentile of the pre-logits on in-distribution images: ReAct's threshold.

    Args:
        network: A network in eval mode.
        batches: (N, 3, H, W) inputs, as the network expects them.
        percentile: In (0, 100]. The ReAct paper has 90 for images; the synthetic-negatives paper
            found 99 best for dense prediction (Table 4).
        per_batch: Most activations to use of a batch; drawn with ``seed``.
        seed: Seeds the draw.

    Raises:
        ParameterError: The percentile is out of range or there is no batch.
    """
    if not 0 < percentile <= 100:
        raise ParameterError(f"option 'percentile' is {percentile}, expected 0 < p <= 100")
    rng = np.random.default_rng(seed)
    samples = []
    for inputs in batches:
        values = network(inputs).pre_logits.float().flatten().cpu().numpy()
        if len(values) > per_batch:
            values = values[rng.integers(0, len(values), per_batch)]
        samples.append(values)
    if not samples:
        raise ParameterError("ReAct's threshold needs at least one batch of images")
    return float(np.percentile(np.concatenate(samples), percentile))
