# SPDX-License-Identifier: Apache-2.0
"""The data sets of the papers in miniature, each in the layout of its release."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tiny_images import palette_png

SIZE = (96, 192)
# trainIds of Cityscapes, and its labelIds.
ROAD, SKY, CAR = 0, 10, 13
LABEL_IDS = {ROAD: 7, SKY: 23, CAR: 26}
_CAMERA = {
    "extrinsic": {"baseline": 0.21},
    "intrinsic": {"fx": 226.0, "fy": 226.0, "u0": 96.0, "v0": 48.0},
}


def scene(seed: int, meanings: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Sky above road with a car on it, in noise; labels as ``meanings`` of the trainIds."""
    labels = np.full(SIZE, meanings[ROAD], np.uint8)
    labels[: SIZE[0] // 2] = meanings[SKY]
    labels[40:70, 20:60] = meanings[CAR]
    noise = np.random.default_rng(seed).integers(0, 40, (*SIZE, 3))
    return (labels[..., None].astype(int) * 3 % 200 + noise).astype(np.uint8), labels


def anomaly(other: int = 0, value: int = 1) -> np.ndarray:
    """A mask with one object of some 500 pixels, and a corner that is ignored."""
    mask = np.full(SIZE, other, np.uint8)
    mask[60:85, 100:120] = value
    mask[:4, :4] = 255
    return mask


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 80, 3), np.uint8)


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        array = np.asarray(content)
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def cityscapes(root: Path) -> None:
    for split, city, count in (("train", "aachen", 3), ("val", "munster", 2)):
        for number in range(count):
            image, labels = scene(number, LABEL_IDS)
            labels[80:90, 150:170] = 4  # static
            name = f"{city}_00000{number}_000019"
            put(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", image)
            put(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", labels)


def lost_and_found(root: Path) -> None:
    place = "test/04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000030"
    put(root / f"leftImg8bit/{place}_leftImg8bit.png", scene(7, LABEL_IDS)[0])
    put(
        root / f"gtCoarse/{place}_gtCoarse_labelIds.png",
        np.where(anomaly() == 1, 5, 1).astype(np.uint8),
    )
    put(root / f"disparity/{place}_disparity.png", np.full(SIZE, 1000, np.uint16))  # 12 m
    put(root / f"camera/{place}_camera.json", _CAMERA)


def fishyscapes(root: Path) -> None:
    put(root / "0000_04_Maurener_Weg_8_000000_000030_labels.png", anomaly())


def fishyscapes_static(root: Path) -> None:
    put(root / "0000_munster_000000_000019_labels.png", anomaly())
    overlay = np.where(anomaly()[..., None] == 1, 90, 0).repeat(3, -1).astype(np.int16)
    np.savez_compressed(root / "0000_munster_000000_000019_rgb.npz", rgb=overlay)


def road_anomaly(root: Path) -> None:
    put(root / "frames/animals01.jpg", scene(8, LABEL_IDS)[0])
    put(root / "frames/animals01.labels/labels_semantic.png", anomaly(value=2))


def segment_me(root: Path) -> None:
    put(root / "images/validation0000.jpg", scene(9, LABEL_IDS)[0])
    put(root / "labels_masks/validation0000_labels_semantic.png", anomaly())


def vistas(root: Path) -> None:
    names = {ROAD: "construction--flat--road", SKY: "nature--sky", CAR: "object--vehicle--car"}
    labels = [{"name": name, "color": [9 * i, 1, 1]} for i, name in enumerate(names.values())]
    put(root / "config.json", {"labels": labels})
    image, indices = scene(10, {train_id: i for i, train_id in enumerate(names)})
    put(root / "training/images/key.jpg", image)
    colours = np.arange(768, dtype=np.uint8).reshape(256, 3)
    put(root / "training/labels/key.png", palette_png(indices, colours))


def wilddash(root: Path) -> None:
    image, labels = scene(11, LABEL_IDS)
    put(root / "images/aa0001_100000.jpg", image)
    put(root / "labels/aa0001_100000.png", labels)


def street_hazards(root: Path) -> None:
    meanings = {ROAD: 8, SKY: 1, CAR: 11}
    for part, count in (("training/t1-2", 3), ("validation/t4", 2)):
        for number in range(count):
            image, labels = scene(number, meanings)
            put(root / f"train/images/{part}/{number}.png", image)
            put(root / f"train/annotations/{part}/{number}.png", labels)
    for town in ("t5", "t6"):
        image, labels = scene(12, meanings)
        put(root / f"test/images/test/{town}/1.png", image)
        put(root / f"test/annotations/test/{town}/1.png", np.where(anomaly() == 1, 14, labels))


def coco(root: Path, kinds: Sequence[tuple[int, str]] = ((18, "dog"),)) -> None:
    """An object of each kind, by default a dog, in each split."""
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        for number, (category, _) in enumerate(kinds, 1):
            put(root / split / f"{number}.jpg", noise(number - 1))
            images.append({"id": number, "file_name": f"{number}.jpg", "height": 80, "width": 80})
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "bbox": [20, 20, 40, 40],
                    "area": 1600,
                    "segmentation": [[20, 20, 60, 20, 60, 60, 20, 60]],
                }
            )
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": key, "name": name} for key, name in kinds]
        put(root / "annotations" / f"instances_{split}.json", content)


def ade20k(root: Path) -> None:
    """An armchair and a car in each split."""
    for split, short in (("training", "train"), ("validation", "val")):
        folder, name = root / "images" / "ADE" / split / "urban" / "street", f"ADE_{short}_1"
        put(folder / f"{name}.jpg", noise(1))
        objects = []
        for k, kind in enumerate(("armchair", "car, auto, automobile, machine, motorcar")):
            mask = np.zeros((80, 80), np.uint8)
            mask[20:60, 5 + 38 * k : 35 + 38 * k] = 255
            put(folder / name / f"instance_{k:03d}_{name}.png", mask)
            objects.append(
                {
                    "id": k,
                    "name": kind,
                    "raw_name": kind,
                    "occluded": "no",
                    "parts": {"hasparts": [], "ispartof": [], "part_level": 0},
                    "instance_mask": f"{name}/instance_{k:03d}_{name}.png",
                }
            )
        annotation = {"imsize": [80, 80, 3], "object": objects}
        put(folder / f"{name}.json", {"annotation": annotation})


# By the folders that the recipes name.
DATA: dict[str, Callable[[Path], None]] = {
    "ADE20K_2021_17_01": ade20k,
    "cityscapes": cityscapes,
    "coco": coco,
    "dataset_AnomalyTrack": segment_me,
    "dataset_ObstacleTrack": segment_me,
    "fishyscapes_lostandfound": fishyscapes,
    "fs_val_v3": fishyscapes_static,
    "lost_and_found": lost_and_found,
    "road_anomaly": road_anomaly,
    "street_hazards": street_hazards,
    "vistas": vistas,
    "wilddash2": wilddash,
}


def write_all(folder: Path) -> Path:
    """Writes every data set into its folder; returns the data folder."""
    for name, write in DATA.items():
        write(folder / name)
    return folder
