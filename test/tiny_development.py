# SPDX-License-Identifier: Apache-2.0
"""The development data in miniature, in the layout that ``training/configs/data`` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_papers import CAR, ROAD, SKY, anomaly, cityscapes, coco, noise, put, scene

TRAIN_IDS = {ROAD: ROAD, SKY: SKY, CAR: CAR}
CAMVID_11 = {ROAD: 3, SKY: 0, CAR: 8}
CAMVID_32 = {"Road": ROAD, "Sky": SKY, "Car": CAR, "Animal": 20}


def frames(root: Path, meanings: dict[int, int], count: int = 2) -> None:
    """Labelled scenes in ``images`` and ``labels``."""
    for number in range(count):
        image, labels = scene(number, meanings)
        put(root / f"images/{number}.png", image)
        put(root / f"labels/{number}.png", labels)


def unknown(root: Path) -> None:
    """A scene with an anomaly mask."""
    put(root / "images/000.png", scene(7, TRAIN_IDS)[0])
    put(root / "labels/000.png", anomaly())


def objects(root: Path) -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[20:60, 20:60] = 255
    for split in ("train", "val"):
        put(root / split / "images/1.jpg", noise(2))
        put(root / split / "masks/1.png", mask)


def write_all(folder: Path) -> Path:
    """Writes every data set into its folder; returns the data folder."""
    cityscapes(folder / "cityscapes")
    coco(folder / "coco", ((18, "dog"), (3, "car")))  # unknown, and a decoy
    objects(folder / "objects")
    for split in ("train", "val"):
        frames(folder / "cityscapes256" / split, TRAIN_IDS)
    for split in ("train", "test", "val"):
        frames(folder / "camvid" / split, CAMVID_11)
    frames(folder / "bdd100k", TRAIN_IDS)
    image, labels = scene(3, TRAIN_IDS)
    labels[60:85, 100:120] = CAMVID_32["Animal"]
    put(folder / "camvid960/images/full.png", image)
    put(folder / "camvid960/labels/full.png", labels)
    put(folder / "camvid960/classes.json", {str(i): name for name, i in CAMVID_32.items()})
    for number in range(2):
        put(folder / f"unlabelled/drive/{number}.png", scene(4 + number, TRAIN_IDS)[0])
    for name in (
        "fishyscapes_lostandfound",
        "fishyscapes_static",
        "road_anomaly",
        "smiyc_obstacle",
    ):
        unknown(folder / "anomaly" / name)
    return folder
