# SPDX-License-Identifier: Apache-2.0
"""Held-out frames with outliers: pasted objects not used in training, or natural ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX
from training.data.corpora import Corpus, TrainingData
from training.data.mixing.mixer import Mixer, build_mixer, outlier_mask

# Seed of the mixed frames. Runs with the same mixing get the same frames, to be comparable.
HELD_OUT_SEED = 2026


class MaskedFrame(NamedTuple):
    """A frame with known outliers.

    Attributes:
        name: Name for error messages.
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
        corpora: Held-out corpora, used in turn, with evenly spaced frames of each.
        mixer: Mixer that pastes held-out objects.
        count: Number of frames.
        seed: Seed; the same corpora, mixer and seed give the same frames in every run.

    Returns:
        Frames in which labelled pixels are in-distribution and unlabelled ones are ignored.
    """
    frames = []
    each = -(-count // len(corpora))
    for i in range(count):
        corpus = corpora[i % len(corpora)]
        position = (i // len(corpora)) * len(corpus) // each
        rng = np.random.default_rng([seed, i])
        mixed, target = mixer(*corpus.load(position), rng, corpus.squeeze(position))
        name = f"{corpus.name} {corpus.frames.name(position)} mixed with seed [{seed}, {i}]"
        mask = outlier_mask(target)
        mask[target == IGNORE_INDEX] = IGNORE_INDEX
        frames.append(MaskedFrame(name, mixed, mask))
    return frames


def mixed_held_out(mixing: Mapping[str, Any], data: TrainingData, count: int) -> list[MaskedFrame]:
    """Pastes held-out objects into the calibration's frames.

    Args:
        mixing: Section "mixing" of a fine-tuning's configuration. Runs that differ there get
            different frames, except for ``probability`` and ``scene_texture``, which are not used.
        data: Frames and objects of the run.
        count: Number of frames; nothing is read if it is 0.
    """
    if not count:
        return []
    # Every frame gets outliers, and all of them are real objects.
    mixing = {**mixing, "probability": 1.0, "scene_texture": 0.0}
    mixer = build_mixer(mixing, data, held_out=True)
    return mixed_frames(data.calibration, mixer, count, HELD_OUT_SEED)


class NaturalFrames(Sequence[MaskedFrame]):
    """Frames that show natural unknown things, read when they are needed.

    Args:
        corpora: Corpora with anomaly masks, such as ``TrainingData.unknown``; frames without an
            anomaly are left out.

    Raises:
        DatasetError: A corpus has no frame with an anomaly.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._where: list[tuple[Corpus, int]] = []
        for corpus in corpora:
            shown = np.flatnonzero(corpus.index.counts[:, ANOMALY])
            if not shown.size:
                raise DatasetError(f"data.unknown.{corpus.name}: no mask holds an anomaly")
            self._where += [(corpus, position) for position in shown.tolist()]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> MaskedFrame:
        corpus, position = self._where[index]
        image, mask = corpus.load(position)
        return MaskedFrame(f"{corpus.name} {corpus.frames.name(position)}", image, mask)
