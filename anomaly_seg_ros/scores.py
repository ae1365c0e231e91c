"""Anomaly scores: pure functions of a network's outputs, higher = more anomalous.

Every function takes logits (N, K, h, w) of any float dtype and returns (N, h, w) float32 on the
same device. They are evaluated on the network's output grid and upsampled afterwards: one map
instead of K. That is not the same as scoring upsampled logits (a maximum does not commute with
interpolation), and it is this package's definition everywhere, in the node and in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput


@dataclass(frozen=True)
class ClassStatistics:
    """Mean and standard deviation of the maximum logit, by predicted class.

    Attributes:
        mean, std: (K,) float32; ``std`` is positive.
    """

    mean: Tensor
    std: Tensor


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


def entropy(logits: Tensor) -> Tensor:
    r"""Shannon entropy of the softmax, :math:`-\sum_c p_c \ln p_c`, in nats.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings"
    (ICML 2022), among the baselines.
    """
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def max_logit(logits: Tensor) -> Tensor:
    r"""Negative maximum logit, :math:`-\max_c l_c`.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings"
    (ICML 2022).
    """
    return -logits.amax(1).float()


def energy(logits: Tensor) -> Tensor:
    r"""Free energy at temperature 1, :math:`-\ln \sum_c \exp l_c`.

    Source: Liu et al., "Energy-based Out-of-distribution Detection" (NeurIPS 2020).
    """
    return -logits.float().logsumexp(1)


def max_min_logit(logits: Tensor) -> Tensor:
    r"""Negative logit range, :math:`-(\max_c l_c - \min_c l_c)`.

    Source: the score that the top-K one-vs-rest paper (style-aligned OoD augmentation) adds to the
    comparison; it cancels offsets that all logits share.
    """
    smallest, largest = logits.aminmax(dim=1)
    return smallest.float() - largest.float()


def standardized_max_logit(logits: Tensor, statistics: ClassStatistics) -> Tensor:
    r"""Negative standardized max logit, :math:`-(l_{\hat c} - \mu_{\hat c}) / \sigma_{\hat c}`.

    Source: Jung et al., "Standardized Max Logits" (ICCV 2021), without its boundary suppression
    and smoothing.

    Args:
        logits: (N, K, h, w).
        statistics: Of the maximum logit by predicted class, on in-distribution images.
    """
    largest, predicted = logits.max(1)
    mean = statistics.mean.to(logits.device)[predicted]
    std = statistics.std.to(logits.device)[predicted]
    return (mean - largest.float()) / std


def dense_hybrid(logits: Tensor, ood_logits: Tensor) -> Tensor:
    r"""Hybrid score :math:`\ln P(d_{out} | x) - \ln \hat p(x)`.

    The unnormalised density is :math:`\ln \hat p(x) = \ln \sum_c \exp l_c`.

    Source: Grcic et al., "DenseHybrid" (ECCV 2022), eq. 5; and "Hybrid Open-set Segmentation with
    Synthetic Negative Data" (2023).

    Args:
        logits: (N, K, h, w).
        ood_logits: (N, 2, h, w) of the outlier head; channel 1 is "outlier".
    """
    return ood_logits.float().log_softmax(1)[:, 1] - logits.float().logsumexp(1)


def outlier_head(ood_logits: Tensor) -> Tensor:
    r"""Log posterior of the outlier head, :math:`\ln P(d_{out} | x)`.

    The discriminative component of :func:`dense_hybrid`; the generative one is :func:`energy`.

    Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data" (2023),
    eq. 6 and Table 5.

    Args:
        ood_logits: (N, 2, h, w) of the outlier head; channel 1 is "outlier".
    """
    return ood_logits.float().log_softmax(1)[:, 1]


def outlier_head_msp(logits: Tensor, ood_logits: Tensor) -> Tensor:
    r"""One minus the probability of a known class, :math:`1 - P(d_{in} | x) \max_c p_c`.

    Computed as :math:`P(d_{out} | x) + P(d_{in} | x) (1 - \max_c p_c)`, which keeps the order of
    confident pixels.

    Source: Bevandic et al., "Dense open-set recognition based on training with noisy negative
    images" (IVC 2022); "OH*MSP" in Table 4 of the synthetic-negatives paper.

    Args:
        logits: (N, K, h, w).
        ood_logits: (N, 2, h, w) of the outlier head; channel 1 is "outlier".
    """
    p_in, p_out = ood_logits.float().softmax(1).unbind(1)
    return p_out + p_in * msp(logits)


OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "entropy": entropy,
    "max_logit": max_logit,
    "energy": energy,
    "max_min_logit": max_min_logit,
}
# Of (logits, logits of the outlier head).
OF_OUTLIER_HEAD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dense_hybrid": dense_hybrid,
    "outlier_head": lambda _logits, ood_logits: outlier_head(ood_logits),
    "outlier_head_msp": outlier_head_msp,
}
SCORE_NAMES: tuple[str, ...] = (*OF_LOGITS, "sml", *OF_OUTLIER_HEAD)


def missing_for(name: str, has_statistics: bool, has_outlier_head: bool) -> str | None:
    """Why a model cannot compute a score, or None if it can."""
    if name not in SCORE_NAMES:
        return f"unknown score {name!r}, expected one of {', '.join(SCORE_NAMES)}"
    if name == "sml" and not has_statistics:
        return "score 'sml' needs class statistics, which the model's metadata lacks"
    if name in OF_OUTLIER_HEAD and not has_outlier_head:
        return f"score {name!r} needs an outlier head, which the model lacks"
    return None


@torch.inference_mode()
def compute(name: str, output: NetworkOutput, statistics: ClassStatistics | None = None) -> Tensor:
    """Computes a score by name.

    Args:
        name: One of :data:`SCORE_NAMES`.
        output: Of a network.
        statistics: For ``sml``.

    Returns:
        (N, h, w) float32.

    Raises:
        ValueError: The name is unknown or the model lacks what the score needs.
    """
    reason = missing_for(name, statistics is not None, output.ood_logits is not None)
    if reason:
        raise ValueError(reason)
    if name == "sml":
        return standardized_max_logit(output.logits, statistics)
    if name in OF_OUTLIER_HEAD:
        return OF_OUTLIER_HEAD[name](output.logits, output.ood_logits)
    return OF_LOGITS[name](output.logits)
