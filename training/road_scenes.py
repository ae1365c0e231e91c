"""The labelled road scenes of ``../shared/data`` as training and validation corpora."""

from __future__ import annotations

import json
from pathlib import Path

from training.corpora import (
    CAMVID11,
    CAMVID32,
    CAMVID_UNKNOWN,
    CITYSCAPES_IDS,
    Corpus,
    cityscapes_pairs,
    folder_pairs,
    load_corpus,
    lookup_table,
)

# Every sixth BDD100K frame is kept back for calibration.
BDD_HELD_OUT = 6


def _camvid32_table(root: Path) -> dict[int, int]:
    names = json.loads((root / "classes.json").read_text())
    return {int(i): CAMVID32[name] for i, name in names.items() if name in CAMVID32}


def training_corpora(data: Path) -> list[Corpus]:
    """All frames that the default model learns from.

    ``camvid/val`` (one continuous drive), ``cityscapes256/val`` and every sixth BDD100K frame are
    kept back, also where ``camvid960`` shows the same frame in full size.

    Args:
        data: The shared data folder.
    """
    camvid_val = frozenset(p.stem for p in (data / "camvid/val/images").glob("*"))
    bdd = list(folder_pairs(data / "bdd100k"))
    bdd_train = [pair for i, pair in enumerate(bdd) if i % BDD_HELD_OUT]
    identity = lookup_table(None)
    camvid11 = lookup_table(CAMVID11)
    camvid_pairs = [p for s in ("train", "test") for p in folder_pairs(data / "camvid" / s)]
    camvid960 = data / "camvid960"
    return [
        load_corpus(
            "cityscapes256", folder_pairs(data / "cityscapes256/train"), identity, 12, 2.0
        ),
        load_corpus(
            "cityscapes",
            cityscapes_pairs(data / "cityscapes", "train"),
            lookup_table(CITYSCAPES_IDS),
            1.5,
        ),
        load_corpus("camvid", iter(camvid_pairs), camvid11, 1.0),
        load_corpus(
            "camvid960",
            folder_pairs(camvid960, camvid_val),
            lookup_table(_camvid32_table(camvid960)),
            1.0,
        ),
        load_corpus("bdd100k", iter(bdd_train), identity, 1.5),
    ]


def calibration_corpora(data: Path) -> list[Corpus]:
    """In-distribution frames that no training saw: every fifth of Cityscapes-256 val, the others
    in full.
    """
    identity = lookup_table(None)
    city = list(folder_pairs(data / "cityscapes256/val"))[::5]
    bdd = list(folder_pairs(data / "bdd100k"))[::BDD_HELD_OUT]
    camvid = folder_pairs(data / "camvid/val")
    return [
        load_corpus("cityscapes256/val", iter(city), identity),
        load_corpus("bdd100k", iter(bdd), identity),
        load_corpus("camvid/val", camvid, lookup_table(CAMVID11)),
    ]


def unknown_corpus(data: Path) -> Corpus:
    """CamVid frames in full size; label 1 where a thing belongs to no Cityscapes class.

    These pixels carry no label in training. Some of the frames around them were trained on.
    """
    root = data / "camvid960"
    names = json.loads((root / "classes.json").read_text())
    table = {int(i): 1 if name in CAMVID_UNKNOWN else 0 for i, name in names.items()}
    return load_corpus("camvid960 unknowns", folder_pairs(root), lookup_table(table))


def cityscapes256_val(data: Path) -> Corpus:
    """The 500 validation frames, squeezed to 256x256."""
    return load_corpus(
        "cityscapes256/val", folder_pairs(data / "cityscapes256/val"), lookup_table(None), 1, 2.0
    )
