# SPDX-License-Identifier: Apache-2.0
"""Anomaly scores: pure functions of a network's outputs, higher = more anomalous.

Every function takes logits (N, K, h, w) of any float dtype and returns (N, h, w) float32 on the
same device. Scores are computed on the network's output grid and upsampled afterwards: one map
instead of K. That is not the same as scoring upsampled logits (a maximum does not commute with
interpolation); this package defines scores this way everywhere, in the node and in evaluation.

To add a score, write its function here and register it with :func:`_score`; nothing else changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration

if TYPE_CHECKING:  # command lines list the scores, and do not wait for torch
    from torch import Tensor

    from anomaly_seg_ros.contract import NetworkOutput

ScoreInput = Literal["logits", "ood_logits", "statistics"]


@dataclass(frozen=True)
class ClassStatistics:
    """Mean and standard deviation of the maximum logit, by predicted class.

    Attributes:
        mean, std: (K,) float32; ``std`` is positive.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Score:
    """One anomaly score and everything the package knows about it.

    Attributes:
        name: Key of :data:`SCORES`.
        formula: Pure function of ``inputs``, in this order; returns (N, h, w) float32.
        inputs: What the formula reads.
        provisional: Constants for models that were never calibrated: of the order of magnitude of
            a Cityscapes model's, and without rates. The map to [0, 1] keeps the order of scores,
            so AP and AUROC do not depend on them; a threshold means nothing until the model is
            calibrated.
    """

    name: str
    formula: Callable[..., Tensor]
    inputs: tuple[ScoreInput, ...]
    provisional: ScoreCalibration

    @property
    def needs_statistics(self) -> bool:
        """Whether it needs :class:`ClassStatistics`."""
        return "statistics" in self.inputs

    @property
    def needs_outlier_head(self) -> bool:
        """Whether the network must have an outlier head."""
        return "ood_logits" in self.inputs

    @property
    def needs_logits_only(self) -> bool:
        """Whether the logits are enough, so that every model offers it."""
        return self.inputs == ("logits",)

    @property
    def description(self) -> str:
        """The first line of the formula's docstring."""
        return (inspect.getdoc(self.formula) or "").partition("\n")[0]

    @property
    def source(self) -> str:
        """The paper: what follows ``Source:`` in the formula's docstring."""
        paragraph = (inspect.getdoc(self.formula) or "").partition("Source: ")[2]
        return " ".join(paragraph.partition("\n\n")[0].split())


# By name, in the order of this file.
SCORES: dict[str, Score] = {}
_Formula = TypeVar("_Formula", bound=Callable[..., Any])


def _score(
    name: str,
    provisional: tuple[float, float],
    inputs: tuple[ScoreInput, ...] = ("logits",),
) -> Callable[[_Formula], _Formula]:
    """Registers a function as a score.

    Args:
        name: Key of :data:`SCORES`.
        provisional: Raw score called unknown, and scale, see :attr:`Score.provisional`.
        inputs: The function's arguments.
    """

    def register(formula: _Formula) -> _Formula:
        constants = ScoreCalibration(*provisional, RateTable((), ()))
        SCORES[name] = Score(name, formula, inputs, constants)
        return formula

    return register


@_score("msp", provisional=(0.5, 0.25))
def msp(logits: Tensor) -> Tensor:
    r"""One minus the maximum softmax probability, :math:`1 - \max_c p_c`.

    Computed as the sum of the other probabilities, so that confident pixels keep their order where
    ``1 - p`` would round to 0.

    Source: Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks" (ICLR 2017).
    """
    largest, top = logits.float().max(1, keepdim=True)
    # Relative to the winner's exp(0) = 1.
    others = (logits.float() - largest).scatter(1, top, float("-inf")).exp().sum(1)
    return others / (1 + others)


@_score("entropy", provisional=(1.0, 0.5))
def entropy(logits: Tensor) -> Tensor:
    r"""Shannon entropy of the softmax, :math:`-\sum_c p_c \ln p_c`, in nats.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings"
    (ICML 2022), among the baselines.
    """
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


@_score("max_logit", provisional=(-8.0, 4.0))
def max_logit(logits: Tensor) -> Tensor:
    r"""Negative maximum logit, :math:`-\max_c l_c`.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings"
    (ICML 2022).
    """
    return -logits.amax(1).float()


@_score("energy", provisional=(-8.0, 4.0))
def energy(logits: Tensor) -> Tensor:
    r"""Free energy at temperature 1, :math:`-\ln \sum_c \exp l_c`.

    Source: Liu et al., "Energy-based Out-of-distribution Detection" (NeurIPS 2020).
    """
    return -logits.float().logsumexp(1)


@_score("max_min_logit", provisional=(-14.0, 6.0))
def max_min_logit(logits: Tensor) -> Tensor:
    r"""Negative logit range, :math:`-(\max_c l_c - \min_c l_c)`.

    Source: the score that the top-K one-vs-rest paper (style-aligned OoD augmentation) adds to the
    comparison; it cancels offsets that all logits share.
    """
    smallest, largest = logits.aminmax(dim=1)
    return smallest.float() - largest.float()


@_score("sml", provisional=(3.0, 3.0), inputs=("logits", "statistics"))
def standardized_max_logit(logits: Tensor, statistics: ClassStatistics) -> Tensor:
    r"""Negative standardized max logit, :math:`-(l_{\hat c} - \mu_{\hat c}) / \sigma_{\hat c}`.

    Source: Jung et al., "Standardized Max Logits" (ICCV 2021), without its boundary suppression
    and smoothing.

    Args:
        logits: (N, K, h, w).
        statistics: The maximum logit by predicted class, on in-distribution images.
    """
    largest, predicted = logits.max(1)
    mean = statistics.mean.to(logits.device)[predicted]
    std = statistics.std.to(logits.device)[predicted]
    return (mean - largest.float()) / std


@_score("dense_hybrid", provisional=(-8.0, 4.0), inputs=("logits", "ood_logits"))
def dense_hybrid(logits: Tensor, ood_logits: Tensor) -> Tensor:
    r"""Hybrid score :math:`\ln P(d_{out} | x) - \ln \hat p(x)`.

    The unnormalised density is :math:`\ln \hat p(x) = \ln \sum_c \exp l_c`.

    Source: Grcic et al., "DenseHybrid" (ECCV 2022), eq. 5; and "Hybrid Open-set Segmentation with
    Synthetic Negative Data" (2023).

    Args:
        logits: (N, K, h, w).
        ood_logits: (N, 2, h, w), outputs of the outlier head; channel 1 is "outlier".
    """
    return ood_logits.float().log_softmax(1)[:, 1] - logits.float().logsumexp(1)


@_score("outlier_head", provisional=(-0.7, 1.0), inputs=("ood_logits",))
def outlier_head(ood_logits: Tensor) -> Tensor:
    r"""Log posterior of the outlier head, :math:`\ln P(d_{out} | x)`.

    The discriminative component of :func:`dense_hybrid`; the generative one is :func:`energy`.

    Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data" (2023),
    eq. 6 and Table 5.

    Args:
        ood_logits: (N, 2, h, w), outputs of the outlier head; channel 1 is "outlier".
    """
    return ood_logits.float().log_softmax(1)[:, 1]


@_score("outlier_head_msp", provisional=(0.5, 0.25), inputs=("logits", "ood_logits"))
def outlier_head_msp(logits: Tensor, ood_logits: Tensor) -> Tensor:
    r"""One minus the probability of a known class, :math:`1 - P(d_{in} | x) \max_c p_c`.

    Computed as :math:`P(d_{out} | x) + P(d_{in} | x) (1 - \max_c p_c)`, which keeps the order of
    confident pixels.

    Source: Bevandic et al., "Dense open-set recognition based on training with noisy negative
    images" (IVC 2022); "OH*MSP" in Table 4 of the synthetic-negatives paper.

    Args:
        logits: (N, K, h, w).
        ood_logits: (N, 2, h, w), outputs of the outlier head; channel 1 is "outlier".
    """
    p_in, p_out = ood_logits.float().softmax(1).unbind(1)
    return p_out + p_in * msp(logits)


@_score("k_plus_1", provisional=(0.0, 4.0), inputs=("logits", "ood_logits"))
def k_plus_1(logits: Tensor, ood_logits: Tensor) -> Tensor:
    r"""Log-odds of an outlier class beside the known ones, :math:`o - \ln \sum_c \exp l_c`.

    The outlier class's logit o is the head's, :math:`o_1 - o_0`. The order is that of its
    probability in one softmax over all K + 1; 0 is a probability of 1/2. It is meant for models
    that were trained with the loss of this name, or whose head was scaled to the logits after
    the training (``fuse_scores``).

    Source: the (K + 1)-way classifier of Kong & Ramanan, "OpenGAN" (ICCV 2021); "K+1 classifier"
    in Table 3 of the synthetic-negatives paper.

    Args:
        logits: (N, K, h, w).
        ood_logits: (N, 2, h, w), outputs of the outlier head; channel 1 is "outlier".
    """
    return ood_logits.float().diff(dim=1)[:, 0] - logits.float().logsumexp(1)


def missing_for(name: str, has_statistics: bool, has_outlier_head: bool) -> str | None:
    """Says why a model cannot compute a score; None if it can."""
    if name not in SCORES:
        return f"unknown score {name!r}, expected one of {', '.join(SCORES)}"
    if SCORES[name].needs_statistics and not has_statistics:
        return f"score {name!r} needs class statistics, which the model's metadata lacks"
    if SCORES[name].needs_outlier_head and not has_outlier_head:
        return f"score {name!r} needs an outlier head, which the model lacks"
    return None


def compute(name: str, output: NetworkOutput, statistics: ClassStatistics | None = None) -> Tensor:
    """Computes a score by name.

    Args:
        name: Key of :data:`SCORES`.
        output: A network's outputs.
        statistics: Needed only by scores with ``needs_statistics`` (``sml``).

    Returns:
        (N, h, w) float32.

    Raises:
        ValueError: The name is unknown, or what the score needs is missing.
    """
    reason = missing_for(name, statistics is not None, output.ood_logits is not None)
    if reason:
        raise ValueError(reason)
    given = {
        "logits": output.logits,
        "ood_logits": output.ood_logits,
        "statistics": statistics,
    }
    score = SCORES[name]
    import torch  # see the top of the file

    with torch.inference_mode():
        return score.formula(*(given[name] for name in score.inputs))
