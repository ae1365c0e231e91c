# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout: what stochastic passes disagree about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError

SCORES = ("predictive_entropy", "mutual_information")
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class McDropout:
    r"""Predictive entropy or mutual information over T passes with dropout, in nats.

    :math:`H[\bar p]` and :math:`H[\bar p] - \frac1T \sum_t H[p_t]`, where :math:`\bar p` is the
    mean softmax. Only dropout modules are in train mode; BatchNorm keeps its running statistics.

    Source: Gal & Ghahramani, "Dropout as a Bayesian Approximation" (ICML 2016); Kendall & Gal,
    "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?" (NeurIPS 2017).

    Args:
        passes: T.
        score: ``predictive_entropy`` or ``mutual_information``.
        pre_logits_dropout: Rate of an elementwise dropout on the pre-logits in place of the
            network's own; the way for networks that were trained without any.
        seed: Seeds the masks: the same call gives the same scores. None uses the global generator.

    Raises:
        ParameterError: An option out of range.
    """

    def __init__(
        self,
        passes: int = 8,
        score: str = "predictive_entropy",
        pre_logits_dropout: float | None = None,
        seed: int | None = 0,
    ) -> None:
        if passes < 1:
            raise ParameterError(f"option 'passes' is {passes}, expected at least 1")
        if score not in SCORES:
            raise ParameterError(f"option 'score' is {score!r}, expected {' or '.join(SCORES)}")
        if pre_logits_dropout is not None and not 0 < pre_logits_dropout < 1:
            raise ParameterError(
                f"option 'pre_logits_dropout' is {pre_logits_dropout}, expected 0 < p < 1"
            )
        self.passes = passes
        self.score = score
        self.pre_logits_dropout = pre_logits_dropout
        self.seed = seed

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, h, w) float32 on the logits' grid.

        Raises:
            ParameterError: The network has no dropout, and ``pre_logits_dropout`` is not set.
        """
        mean, mean_entropy = 0.0, 0.0
        with _random_state(self.seed, inputs.device):
            for log_p in self._passes(network, inputs):
                mean = mean + log_p.exp() / self.passes
                mean_entropy = mean_entropy - (log_p.exp() * log_p).sum(1) / self.passes
        predictive = -torch.xlogy(mean, mean).sum(1)
        if self.score == "predictive_entropy":
            return predictive
        return (predictive - mean_entropy).clamp(min=0)

    def _passes(self, network: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
        """Log-probabilities (N, K, h, w) of each pass."""
        if self.pre_logits_dropout is not None:
            pre_logits = network(inputs).pre_logits
            for _ in range(self.passes):
                dropped = F.dropout(pre_logits, self.pre_logits_dropout, training=True)
                yield network.classify(dropped).float().log_softmax(1)
            return
        with _dropout_active(network):
            for _ in range(self.passes):
                yield network(inputs).logits.float().log_softmax(1)


@contextlib.contextmanager
def _dropout_active(network: nn.Module) -> Iterator[None]:
    modules = [m for m in network.modules() if isinstance(m, _DROPOUT) and m.p > 0]
    if not modules:
        raise ParameterError(
            f"{type(network).__name__} has no dropout; set 'pre_logits_dropout' to drop pre-logits"
        )
    modes = [m.training for m in modules]
    try:
        for module in modules:
            module.training = True
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextlib.contextmanager
def _random_state(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seeds inside, and restores outside, the generators of the CPU and of ``device``."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
