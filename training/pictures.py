"""Pictures of what a network is trained on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from anomaly_seg_ros import drawing
from training.engine.storage import write_atomically


def mixed_samples(dataset: Dataset, indices: range, palette: np.ndarray) -> np.ndarray:
    """Samples with their labels: image, outliers on the image, classes, mask.

    Args:
        dataset: Yields :class:`~training.data.batches.MixedBatch` samples.
        indices: Which.
        palette: (K, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = []
    for index in indices:
        sample = dataset[index]
        image = np.ascontiguousarray(sample.images.permute(1, 2, 0).numpy())
        labels = sample.labels.numpy().astype(np.uint8)
        mask = sample.ood_mask.numpy()
        rows.append(
            (
                image,
                drawing.overlay(image, labels, palette, 0.0, mask == 1),
                drawing.colourise(labels, palette),
                drawing.anomaly_mask(mask),
            )
        )
    return drawing.grid(rows, ("image", "outliers", "labels", "outlier mask"), cell_width=360)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB picture as PNG.

    Raises:
        OutputError: It cannot be written.
    """
    _, coded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_atomically(path, lambda file: file.write(coded.tobytes()), coded.nbytes)
