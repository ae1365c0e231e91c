# SPDX-License-Identifier: Apache-2.0
"""Trains the toy's models and measures their scores.

Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data", section 3.1
and Fig. 2. The paper shows a picture, without data or models; these are this package's own. A
point is a pixel to them, so that scores, flow and metrics are those of the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from training.flow.fit_pointwise import FitOptions, fit_pointwise
from training.flow.pointwise_flow import PointwiseFlow, flow_density, flow_hybrid
from training.toy_hybrid.points import CLASSES, Points, draw_points

# Steps of the flow that the picture shows, and a weaker and a stronger one.
FLOW = 4
FLOWS = (2, FLOW, 8)
_WIDTH_PER_STEP = 4  # of the flows' coupling networks

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ToyOptions:
    """Settings of the toy.

    Attributes:
        seeds: Number of repetitions, each with points and weights of its own.
        train_inliers, train_negatives: Points to train on.
        test_inliers, test_outliers: Points to measure on; outliers of each kind.
        width: Width of the classifier's two hidden layers.
        steps: Optimizer steps of the classifier.
        batch: Inliers of each, and as many negatives.
        lr: Peak learning rate of AdamW, with cosine decay.
        weight_decay: Weight decay of AdamW.
        likelihood_weight: Weight of the likelihood term, beta.
        flow_steps: Optimizer steps of a flow.
    """

    seeds: int = 5
    train_inliers: int = 1500
    train_negatives: int = 500
    test_inliers: int = 2000
    test_outliers: int = 500
    width: int = 32
    steps: int = 400
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.01
    likelihood_weight: float = 0.03
    flow_steps: int = 200


class ToyNetwork(nn.Module):
    """Points as pixels: (1, 2, 1, n) to class logits and outlier logits.

    Its hidden layers are bounded (tanh). With ReLUs the logits, and with them the certainty, would
    grow in proportion to the distance from the classes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (2, width, width):
            layers += [nn.Conv2d(inputs, width, 1), nn.Tanh()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(width, CLASSES, 1)
        self.outlier_head = nn.Conv2d(width, 2, 1)

    def forward(self, points: Tensor) -> NetworkOutput:
        """Maps points; their coordinates take the place of the pre-logits, for the flow."""
        features = self.features(points)
        return NetworkOutput(points, self.classifier(features), self.outlier_head(features))


def as_pixels(points: np.ndarray) -> Tensor:
    """Reshapes (n, 2) to (1, 2, 1, n) float32."""
    return torch.from_numpy(points).float().T[None, :, None]


def compound_loss(output: NetworkOutput, classes: Tensor, beta: float) -> Tensor:
    r"""The sum of equations 9 and 16, and beta times the upper bound of equation 14.

    Equation 17 leaves out the bound's inlier part, :math:`-E_{in}[s_y]`. It stays here:
    cross-entropy is the same when all logits fall together, so the logits of all points would.

    Args:
        output: Output for n inliers and m negatives, in this order.
        classes: (n,) int64.
        beta: Weight of the likelihood.
    """
    logits, head = output.logits[0, :, 0].T, output.ood_logits[0, :, 0].T
    inlier, negative = logits.tensor_split([len(classes)])
    is_negative = (torch.arange(len(logits)) >= len(classes)).long()
    head_terms = F.cross_entropy(head, is_negative, reduction="none").tensor_split([len(classes)])
    true = inlier.gather(1, classes[:, None])
    return (
        F.cross_entropy(inlier, classes)
        + sum(term.mean() for term in head_terms)
        + beta * (negative.logsumexp(1).mean() - true.mean())
    )


def train_network(points: Points, options: ToyOptions, seed: int) -> ToyNetwork:
    """Trains classes, outlier head and unnormalised likelihood on inliers and negatives."""
    torch.manual_seed(seed)
    network = ToyNetwork(options.width)
    inliers, negatives = as_pixels(points.inliers), as_pixels(points.outliers["between"])
    classes = torch.from_numpy(points.classes)
    optimizer = torch.optim.AdamW(
        network.parameters(), options.lr, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in range(options.steps):
        inlier = torch.randint(inliers.shape[-1], (options.batch,))
        negative = torch.randint(negatives.shape[-1], (options.batch,))
        batch = torch.cat([inliers[..., inlier], negatives[..., negative]], -1)
        loss = compound_loss(network(batch), classes[inlier], options.likelihood_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def train_flow(points: Points, size: int, options: ToyOptions, seed: int) -> PointwiseFlow:
    """Fits a density to the inliers alone."""
    torch.manual_seed(seed)
    flow = PointwiseFlow(2, steps=size, width=_WIDTH_PER_STEP * size)
    fit = FitOptions(steps=options.flow_steps, batch=2 * options.batch, lr=0.01, seed=seed)
    fit_pointwise(flow, torch.from_numpy(points.inliers).float(), options=fit)
    return flow.eval()


def train_scores(options: ToyOptions, seed: int) -> dict[str, Score]:
    """Trains the models of one seed; returns scores by name, (1, 2, 1, n) to (n,)."""
    points = draw_points("train", seed, options.train_inliers, options.train_negatives)
    network = train_network(points, options, seed)

    def of_network(name: str) -> Score:
        return lambda x: score_functions.compute(name, network(x))

    found = {name: of_network(name) for name in ("msp", "outlier_head", "energy", "dense_hybrid")}
    for size in FLOWS:
        flow = train_flow(points, size, options, seed)
        found[f"flow_density_{size}"] = lambda x, flow=flow: flow_density(network(x), flow)
        found[f"flow_hybrid_{size}"] = lambda x, flow=flow: flow_hybrid(network(x), flow)
    return {name: _flat(score) for name, score in found.items()}


def _flat(score: Score) -> Score:
    @torch.no_grad()
    def flat(points: Tensor) -> Tensor:
        return score(points).flatten()

    return flat


def measure(score: Score, points: Points) -> dict[str, float]:
    """Computes the figures of one score.

    Returns:
        ``AUROC``, ``AP`` and ``FPR95`` against all outliers, and AUROC against each kind, by its
        name; fractions.
    """
    inliers = score(as_pixels(points.inliers)).numpy()
    outliers = {kind: score(as_pixels(x)).numpy() for kind, x in points.outliers.items()}
    metrics = _metrics(inliers, np.concatenate(list(outliers.values())))
    figures = {name: getattr(metrics, name) for name in ("AUROC", "AP", "FPR95")}
    return figures | {kind: _metrics(inliers, x).AUROC for kind, x in outliers.items()}


def _metrics(inliers: np.ndarray, outliers: np.ndarray) -> Any:
    pixels = PixelScores()
    mask = np.repeat(np.array([0, 1], np.uint8), [len(inliers), len(outliers)])
    pixels.update(np.concatenate([inliers, outliers])[None], mask[None], "toy")
    return pixels.compute()
