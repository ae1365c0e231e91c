"""The labelled road scenes of ``../shared/data``, split into training and held-out frames.

Held out: ``cityscapes256/val``, ``camvid/val`` (one continuous drive; also where ``camvid960``
shows the same frame in full size), and every sixth BDD100K frame.
"""

from __future__ import annotations

import functools
from pathlib import Path

from anomaly_seg_ros.datasets import Sample, open_dataset
from training.data.corpora import Corpus, load_corpus

BDD_HELD_OUT = 6
# The 256x256 frames were 2048x1024.
_SQUEEZED = 2.0


@functools.lru_cache(maxsize=1)
def training_corpora(data: Path) -> list[Corpus]:
    """All frames that the default model learns from; decoded once a process.

    Args:
        data: The shared data folder.
    """
    camvid_val = {sample.name for sample in open_dataset("camvid", data / "camvid", split="val")}
    camvid = [s for part in ("train", "test") for s in _camvid(data, part)]
    camvid960 = [s for s in open_dataset("camvid", data / "camvid960") if s.name not in camvid_val]
    bdd = [s for i, s in enumerate(_bdd(data)) if i % BDD_HELD_OUT]
    return [
        load_corpus("cityscapes256", _cityscapes256(data, "train"), 12, _SQUEEZED),
        load_corpus(
            "cityscapes", open_dataset("cityscapes", data / "cityscapes", split="train"), 1.5
        ),
        load_corpus("camvid", camvid, 1.0),
        load_corpus("camvid960", camvid960, 1.0),
        load_corpus("bdd100k", bdd, 1.5),
    ]


def cityscapes256_val(data: Path, every: int = 1) -> Corpus:
    """The 500 validation frames, squeezed to 256x256, or every n-th of them."""
    samples = _cityscapes256(data, "val")[::every]
    return load_corpus("cityscapes256/val", samples, aspect=_SQUEEZED)


def calibration_corpora(data: Path) -> list[Corpus]:
    """In-distribution frames that no training saw."""
    return [
        cityscapes256_val(data, every=5),
        load_corpus("bdd100k", _bdd(data)[::BDD_HELD_OUT]),
        load_corpus("camvid/val", _camvid(data, "val")[::2]),
    ]


def unknown_corpus(data: Path) -> Corpus:
    """CamVid frames in full size whose masks mark things that belong to no Cityscapes class.

    These pixels carry no label in training. Some of the frames around them were trained on.
    """
    return load_corpus("camvid960", open_dataset("camvid", data / "camvid960"), masks=True)


def _cityscapes256(data: Path, split: str) -> list[Sample]:
    return list(open_dataset("folder", data / "cityscapes256", split=split, labels="classes"))


def _camvid(data: Path, split: str) -> list[Sample]:
    return list(open_dataset("camvid", data / "camvid", split=split))


def _bdd(data: Path) -> list[Sample]:
    return list(open_dataset("folder", data / "bdd100k", labels="classes"))
