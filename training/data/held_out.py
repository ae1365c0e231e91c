"""Held-out frames with outliers: pasted objects that no training saw, or natural ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.corpora import Corpus
from training.data.mixing.mixer import Mixer, outlier_mask
from training.data.outlier_data import build_mixer
from training.data.road_scenes import calibration_corpora, unknown_corpus

# Of the mixes. Runs with the same mixing see the same frames, so that figures can be compared.
HELD_OUT_SEED = 2026


class MaskedFrame(NamedTuple):
    """A frame whose outliers are known.

    Attributes:
        name: For errors.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray


def mixed_frames(
    corpora: Sequence[Corpus], mixer: Mixer, count: int, seed: int
) -> list[MaskedFrame]:
    """Pastes objects into held-out frames.

    Args:
        corpora: Taken in turn, each evenly spread over its frames.
        mixer: Pastes held-out objects.
        count: Number of frames.
        seed: With the same corpora and mixer it gives the same frames, in every run.

    Returns:
        Frames in which labelled pixels are in-distribution and unlabelled ones ignored.
    """
    frames = []
    each = -(-count // len(corpora))
    for i in range(count):
        corpus = corpora[i % len(corpora)]
        position = (i // len(corpora)) * len(corpus) // each
        image, labels = corpus.images[position], corpus.labels[position]
        rng = np.random.default_rng([seed, i])
        mixed, target = mixer(image, labels, rng, corpus.squeeze(position))
        name = f"{corpus.name}[{position}] mixed with seed [{seed}, {i}]"
        mask = outlier_mask(target)
        mask[target == IGNORE_INDEX] = IGNORE_INDEX
        frames.append(MaskedFrame(name, mixed, mask))
    return frames


def mixed_held_out(
    mixing: Mapping[str, Any], data: Path, taxonomy: Taxonomy, count: int
) -> list[MaskedFrame]:
    """Frames that no training saw, with objects that no training saw.

    Args:
        mixing: The part "mixing" of a fine-tuning's configuration. Runs that differ there get
            other frames; its ``probability`` and ``scene_texture`` alone do not count.
        data: Folder of the data sets.
        taxonomy: Of the labels.
        count: Number of frames; for 0 nothing is read.
    """
    if not count:
        return []
    corpora = calibration_corpora(data)
    # Every frame gets outliers, and none of them is a mere piece of another scene.
    mixing = {**mixing, "probability": 1.0, "scene_texture": 0.0}
    mixer = build_mixer(mixing, data, mixing["held_out_split"], taxonomy, corpora)
    return mixed_frames(corpora, mixer, count, HELD_OUT_SEED)


def natural_frames(data: Path) -> list[MaskedFrame]:
    """The frames of CamVid that show things of no Cityscapes class; see ``unknown_corpus``."""
    corpus = unknown_corpus(data)
    pairs = zip(corpus.images, corpus.labels, strict=True)
    return [
        MaskedFrame(f"{corpus.name}[{i}]", image, mask)
        for i, (image, mask) in enumerate(pairs)
        if (mask == ANOMALY).any()
    ]
