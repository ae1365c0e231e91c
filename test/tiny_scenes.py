"""Made-up road scenes, for tests that train on anything."""

from __future__ import annotations

import numpy as np

from training.data.corpora import Corpus

ROAD, SKY = 0, 10


def scenes(name: str, seed: int, count: int = 3) -> Corpus:
    """Sky above road, in noise; 72 x 108."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (72, 108, 3)).astype(np.uint8) for _ in range(count)]
    label = np.full((72, 108), ROAD, np.uint8)
    label[:36] = SKY
    return Corpus(name, images, [label.copy() for _ in images])
