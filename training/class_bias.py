# SPDX-License-Identifier: Apache-2.0
"""Per-class logit offsets that correct the bias of a class-weighted loss.

A loss with larger weights for rare classes makes the network predict them too often. Adding a
constant to each class's logit corrects the decision without changing the features ("logit
adjustment", Menon et al., ICLR 2021). The constants are fitted to the mean IoU on training images
and added to the classifier's bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from training.data.corpora import Corpus
from training.networks import class_bias
from training.validation import Viewer

# The offsets are fitted to every tenth image of a corpus.
_EVERY = 10
STEPS = (0.8, 0.4, 0.2, 0.1)


@torch.inference_mode()
def collect_logits(
    model: nn.Module,
    frames: Iterable[tuple[np.ndarray, np.ndarray]],
    to_input: Callable[[np.ndarray], Tensor],
) -> tuple[Tensor, np.ndarray]:
    """Collects logits and labels of all labelled pixels, on the network's output grid.

    Args:
        model: The network, in eval mode.
        frames: (H, W, 3) uint8 RGB images with (H, W) uint8 trainIds.
        to_input: Maps an image to the network's input (1, 3, h, w).

    Returns:
        (n, K) float32 logits and (n,) uint8 trainIds.
    """
    kept_logits, kept_labels = [], []
    for image, label in tqdm(frames, "collecting logits", unit="frame"):
        logits = model(to_input(image)).logits.float()
        target = torch.from_numpy(label)[None, None].float()
        target = F.interpolate(target, size=logits.shape[-2:], mode="nearest-exact")[0, 0].byte()
        valid = target.cpu() < logits.shape[1]
        kept_logits.append(logits[0].permute(1, 2, 0).cpu()[valid])
        kept_labels.append(target[valid].numpy())
    return torch.cat(kept_logits), np.concatenate(kept_labels)


def fit_class_bias(logits: Tensor, labels: np.ndarray, rounds: int = 2) -> tuple[Tensor, float]:
    """Maximises the mean IoU of ``argmax(logits + bias)`` by coordinate ascent.

    Args:
        logits: (n, K) float32.
        labels: (n,) trainIds below K.
        rounds: Passes over the classes for each step size.

    Returns:
        (K,) float32 offsets with mean 0, and the mean IoU reached, never below that without
        offsets.
    """
    num_classes = logits.shape[1]

    def mean_iou(bias: Tensor) -> float:
        matrix = ConfusionMatrix(num_classes)
        predicted = (logits + bias).argmax(1).to(torch.uint8).numpy()
        matrix.update(labels[None], predicted[None])
        return matrix.mean_iou()

    bias = torch.zeros(num_classes)
    best = mean_iou(bias)
    for step in STEPS:
        for _ in range(rounds):
            improved = False
            for c in range(num_classes):
                for delta in (-step, step):
                    candidate = bias.clone()
                    candidate[c] += delta
                    if (figure := mean_iou(candidate)) > best:
                        bias, best, improved = candidate, figure, True
                        break
            if not improved:
                break
    return bias - bias.mean(), best


def balance_classes(model: nn.Module, corpus: Corpus, viewer: Viewer) -> None:
    """Adds fitted offsets to the bias of the classifier.

    Args:
        model: The network, in eval mode; changed in place.
        corpus: Training images; every tenth is used.
        viewer: Prepares the images for the network.

    Raises:
        ParameterError: The model's last layer has no bias.
    """
    layer_bias = class_bias(model)
    if corpus.size:
        viewer = replace(viewer, size=corpus.size)
    logits, labels = collect_logits(model, corpus.every(_EVERY), viewer.to_input)
    bias, mean_iou = fit_class_bias(logits, labels)
    with torch.no_grad():
        # Outputs behind those of the classes are no classes.
        layer_bias[: len(bias)] += bias.to(viewer.device)
    print("class offsets " + " ".join(f"{b:.2f}" for b in bias.tolist()))
    print(f"mIoU {mean_iou:.4f} on the training images that they were fitted to")
