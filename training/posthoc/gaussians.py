# SPDX-License-Identifier: Apache-2.0
"""One Gaussian for each class of pre-logits: GDM and GMM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import OutputScore, on_logits_grid
from training.posthoc.principal import axes_for, principal_axes
from training.posthoc.training_pixels import TrainingPixels


class ClassGaussians(OutputScore):
    r"""Minus the log-density of Gaussians that are fitted to the predicted classes' pixels.

    The pre-logits are reduced to principal components, which are scaled to variance 1, so the
    density is that of the scaled components.

    Args:
        pixels: What the network says on in-distribution images. A class that it predicts nowhere
            gets no Gaussian.
        shared: One covariance for all classes, that of the pixels around their class's mean.
            Otherwise each class has its own.
        mixture: :math:`\ln \sum_c \pi_c N_c(z)`, with the classes' shares of the pixels.
            Otherwise the density of the most likely class, :math:`\max_c \ln N_c(z)`.
        variance: Share of the variance that the components hold; 1 keeps them all.
        shrinkage: A class's own covariance is averaged with the shared one, as if that came from
            so many more of its pixels: rare classes need it.

    Raises:
        ParameterError: An option is out of range, or there are too few pixels for a covariance.
    """

    def __init__(
        self,
        pixels: TrainingPixels,
        shared: bool,
        mixture: bool,
        variance: float,
        shrinkage: float = 0.0,
    ) -> None:
        if shrinkage < 0:
            raise ParameterError(f"option 'shrinkage' is {shrinkage}, expected at least 0")
        features = pixels.pre_logits.double()
        mean = features.mean(0)
        values, axes = principal_axes(features - mean)
        count = axes_for(values, variance)
        whiten = axes[:, :count] / values[:count].sqrt()
        z = (features - mean) @ whiten
        classes, which = pixels.predicted.unique(return_inverse=True)
        member = F.one_hot(which, len(classes)).double()
        sizes = member.sum(0)
        means = member.T @ z / sizes[:, None]
        around = z - means[which]
        scatter = torch.stack([x.T @ x for x in (around[which == c] for c in range(len(classes)))])
        covariances = scatter.sum(0)[None] / len(z)
        if not shared:
            covariances = (scatter + shrinkage * covariances) / (sizes + shrinkage)[:, None, None]
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():
            raise ParameterError(
                f"{len(z)} training pixels, of one class only {int(sizes.min())}, are too few for "
                f"covariances of {count} components; lower option 'variance'"
            )
        inverses = torch.linalg.solve_triangular(
            factors, torch.eye(count, dtype=torch.float64).expand_as(factors), upper=False
        )
        inverses = inverses.expand(len(classes), -1, -1)
        offsets = inverses.diagonal(dim1=1, dim2=2).log().sum(1) - count / 2 * math.log(
            2 * math.pi
        )
        if mixture:
            offsets = offsets + (sizes / len(z)).log()
        self.mixture = mixture
        self.mean, self.whiten = mean.float(), whiten.float()
        self.means, self.inverses, self.offsets = means.float(), inverses.float(), offsets.float()

    def of(self, output: NetworkOutput) -> Tensor:
        """See the class."""
        z = output.pre_logits.float().movedim(1, -1)
        z = (z - self.mean.to(z.device)) @ self.whiten.to(z.device)
        densities = []
        for mean, inverse, offset in zip(self.means, self.inverses, self.offsets, strict=True):
            standard = (z - mean.to(z.device)) @ inverse.T.to(z.device)
            densities.append(float(offset) - standard.square().sum(-1) / 2)
        every = torch.stack(densities)
        return on_logits_grid(-(every.logsumexp(0) if self.mixture else every.amax(0)), output)


def gdm(pixels: TrainingPixels, variance: float = 1.0) -> ClassGaussians:
    r"""Gaussian discriminant: the nearest class, in one Mahalanobis distance for all.

    Half of :math:`\min_c (z - \mu_c)^T \Sigma^{-1} (z - \mu_c)`, and a constant. Without the
    paper's perturbation of the input and its features of other layers, and with predicted classes
    in place of labels.

    Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks" (NeurIPS 2018), eq. 1-2; "GDM" in Table 3 of the synthetic-negatives
    paper.

    Args:
        pixels: What the network says on in-distribution images.
        variance: Share of the variance that is kept.

    Raises:
        ParameterError: See :class:`ClassGaussians`.
    """
    return ClassGaussians(pixels, shared=True, mixture=False, variance=variance)


def gmm(pixels: TrainingPixels, variance: float = 0.99, shrinkage: float = 32.0) -> ClassGaussians:
    r"""Gaussian mixture, one component a class: :math:`-\ln \sum_c \pi_c N(z; \mu_c, \Sigma_c)`.

    Source: Kong & Ramanan, "An Empirical Exploration of Open-Set Recognition via Lightweight
    Statistical Pipelines" (2021): Gaussians on the closed-set network's features, reduced by PCA;
    "GMM" in Table 3 of the synthetic-negatives paper.

    Args:
        pixels: What the network says on in-distribution images.
        variance: Share of the variance that the principal components keep.
        shrinkage: See :class:`ClassGaussians`.

    Raises:
        ParameterError: See :class:`ClassGaussians`.
    """
    return ClassGaussians(
        pixels, shared=False, mixture=True, variance=variance, shrinkage=shrinkage
    )
