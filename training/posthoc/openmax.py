# SPDX-License-Identifier: Apache-2.0
"""OpenMax: logits that lose to an unknown class what lies far from their class's mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import OutputScore
from training.posthoc.training_pixels import TrainingPixels
from training.posthoc.weibull import fit_weibull

# A tail starts this far below its smallest distance, as in the authors' code for the fit.
_MARGIN = 1.0


class OpenMax(OutputScore):
    r"""Log-odds of the unknown class among recalibrated logits.

    For each class, a Weibull distribution :math:`W_c` is fitted to the largest distances of its
    training pixels' logits to their mean :math:`\mu_c`. A pixel's logits, from the largest
    (i = 1) to the smallest, become

    .. math:: \hat l_i = l_i \left(1 - \frac{(t + 1 - i)^+}{t} W_i(\|l - \mu_i\|)\right), \quad
        \hat l_0 = \sum_i (l_i - \hat l_i),

    and the score is :math:`\hat l_0 - \ln \sum_{c > 0} \exp \hat l_c`: the order of the paper's
    probability of the unknown class, without its saturation.

    Source: Bendale & Boult, "Towards Open Set Deep Networks" (CVPR 2016), algorithms 1 and 2, with
    the weights :math:`(t + 1 - i) / t` and the Euclidean distance of their public code. There, a
    mean is over images that are classified correctly; here, over pixels of the predicted class.

    Args:
        pixels: What the network says on in-distribution images.
        tail: Distances to fit a distribution to. A class with fewer pixels keeps its logit.
        top: t, how many of the largest logits are recalibrated: the paper's 10 (of 1000 classes).
            With a road scene's 19, where most logits are negative and the formula raises those,
            fewer may be better; only anomaly sets could tell, and nothing is chosen on them.

    Raises:
        ParameterError: An option is out of range, or no class has ``tail`` pixels.
    """

    def __init__(self, pixels: TrainingPixels, tail: int = 20, top: int = 10) -> None:
        if tail < 2 or top < 1:
            raise ParameterError(
                f"options tail {tail}, top {top}: expected at least 2 distances and 1 logit"
            )
        logits, predicted = pixels.logits.double(), pixels.predicted
        classes = logits.shape[1]
        counts = predicted.bincount(minlength=classes)
        modelled = (counts >= tail).nonzero()[:, 0]
        if not len(modelled):
            raise ParameterError(
                f"option 'tail' is {tail}, but no class has more than {int(counts.max())} of the "
                "training pixels"
            )
        self.top = top
        self.means = torch.zeros(classes, classes)
        # Start, shape and scale; a class without a distribution has W = 0 at every distance.
        self._weibull = (
            torch.full((classes,), math.inf),
            torch.ones(classes),
            torch.ones(classes),
        )
        tails = []
        for which in modelled.tolist():
            own = logits[predicted == which]
            mean = own.mean(0)
            self.means[which] = mean
            tails.append((own - mean).norm(dim=1).topk(tail).values)
        distances = torch.stack(tails)
        start = distances.amin(1) - _MARGIN
        fitted = (start, *fit_weibull(distances - start[:, None]))
        for values, of_modelled in zip(self._weibull, fitted, strict=True):
            values[modelled] = of_modelled.float()

    def of(self, output: NetworkOutput) -> Tensor:
        """See the class."""
        logits = output.logits.float()
        largest, which = logits.topk(min(self.top, logits.shape[1]), dim=1)
        distances = torch.stack(
            [
                # Rank by rank: all means of all ranks at once would be K maps for each.
                (logits - self.means.to(logits.device)[rank].movedim(-1, 1)).norm(dim=1)
                for rank in which.unbind(1)
            ],
            1,
        )
        start, shape, scale = (x.to(logits.device)[which] for x in self._weibull)
        unusual = -torch.expm1(-(((distances - start).clamp(min=0) / scale) ** shape))
        ranks = torch.arange(len(which[0]), device=logits.device)[:, None, None]
        lost = largest * (1 - ranks / self.top) * unusual
        return lost.sum(1) - logits.scatter(1, which, largest - lost).logsumexp(1)
