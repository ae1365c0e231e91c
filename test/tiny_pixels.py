# SPDX-License-Identifier: Apache-2.0
"""Pixels and outputs for tests of scores that are fitted to training frames."""

from __future__ import annotations

import numpy as np
import torch

from anomaly_seg_ros.contract import NetworkOutput
from training.posthoc import TrainingPixels

CLASSES, CHANNELS = 4, 6


def clustered(count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Pre-logits (n, C) float64 around the mean of each class, and the classes."""
    geometry = np.random.default_rng(0)
    means = geometry.normal(size=(CLASSES, CHANNELS)) * 4 + 1
    mixing = geometry.normal(size=(CLASSES, CHANNELS, CHANNELS)) * np.linspace(1, 0.2, CHANNELS)
    rng = np.random.default_rng(seed)
    classes = rng.choice(CLASSES, count, p=[0.4, 0.3, 0.2, 0.1])
    noise = rng.normal(size=(count, CHANNELS)) * spread
    features = means[classes] + np.einsum("ncd,nd->nc", mixing[classes], noise)
    return features.astype(np.float32).astype(np.float64), classes


def classifier() -> tuple[np.ndarray, np.ndarray]:
    """Weight (K, C) and bias (K,) of a linear classifier."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(CLASSES, CHANNELS)), rng.normal(size=CLASSES)


def pixels(count: int = 600, seed: int = 1) -> TrainingPixels:
    """Training pixels whose largest logit is that of the class that they were drawn from."""
    features, classes = clustered(count, seed)
    weight, bias = classifier()
    logits = features @ weight.T + bias
    logits[np.arange(count), classes] += 1 + logits.max(1) - logits[np.arange(count), classes]
    return TrainingPixels(torch.from_numpy(features).float(), torch.from_numpy(logits).float())


def outputs(shape: tuple[int, int] = (5, 8), upsampled: int = 1) -> NetworkOutput:
    """Two frames, half of whose pre-logits lie far from any class."""
    height, width = shape
    features, _ = clustered(2 * height * width, 2)
    strange, _ = clustered(2 * height * width, 3, spread=6.0)
    features[::2] = strange[::2]
    weight, bias = classifier()
    maps = [
        torch.from_numpy(x.reshape(2, height, width, -1)).float().permute(0, 3, 1, 2)
        for x in (features, features @ weight.T + bias)
    ]
    logits = maps[1].repeat_interleave(upsampled, 2).repeat_interleave(upsampled, 3)
    return NetworkOutput(maps[0], logits)


def rows(maps: torch.Tensor) -> np.ndarray:
    """(N, C, h, w) as (N h w, C) float64."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
