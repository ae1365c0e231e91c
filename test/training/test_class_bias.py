"""Offsets are found again, and a balanced decision is left alone."""

from __future__ import annotations

import numpy as np
import torch

from training.class_bias import fit_class_bias


def clean_logits() -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (20_000,), generator=generator)
    logits = torch.randn(20_000, 4, generator=generator)
    logits[torch.arange(20_000), labels] += 3
    return logits, labels.numpy()


def accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    return float((logits.argmax(1).numpy() == labels).mean())


def test_undoes_a_shift() -> None:
    logits, labels = clean_logits()
    shifted = logits + torch.tensor([0.0, 1.6, -0.8, 0.0])
    bias, figure = fit_class_bias(shifted, labels)
    assert accuracy(shifted, labels) < accuracy(logits, labels) - 0.05
    assert abs(accuracy(shifted + bias, labels) - accuracy(logits, labels)) < 0.005
    assert figure > 0.9
    assert abs(float(bias.mean())) < 1e-6


def test_leaves_a_balanced_decision_alone() -> None:
    logits, labels = clean_logits()
    bias, _ = fit_class_bias(logits, labels)
    assert bias.abs().max() < 0.3
