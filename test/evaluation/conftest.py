# SPDX-License-Identifier: Apache-2.0
"""Miniature data sets on disk, and a model small enough to run on them in no time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import load_taxonomy

SHAPE = (40, 60)


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def picture(seed: int) -> np.ndarray:
    """Smooth noise: neighbouring pixels differ in their scores."""
    noise = np.random.default_rng(seed).integers(0, 256, (10, 15, 3)).astype(np.uint8)
    return cv2.resize(noise, SHAPE[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 classes, calibrated."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def uncalibrated_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """StreetHazards' 12 classes, without calibration."""
    taxonomy = load_taxonomy("streethazards")
    arguments = {**ARGUMENTS, "num_classes": 12}
    torch.manual_seed(3)
    network = build_network("deeplab_v3plus_lite", arguments).eval()
    metadata = replace(
        tiny_metadata(),
        arguments=arguments,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        calibration={},
        statistics=None,
    )
    path = tmp_path_factory.mktemp("model") / "streets.safetensors"
    save_model(path, network, metadata)
    return path


@pytest.fixture(scope="session")
def obstacles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with anomaly masks; the last one has no anomaly."""
    root = tmp_path_factory.mktemp("data") / "obstacles"
    for index in range(5):
        mask = np.zeros(SHAPE, np.uint8)
        mask[:4] = 255
        if index < 4:
            mask[15:27, 8 + 5 * index : 20 + 5 * index] = 1
        write_png(root / "images" / f"f{index}.png", picture(index))
        write_png(root / "labels" / f"f{index}.png", mask)
    return root


@pytest.fixture(scope="session")
def lost_and_found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames with disparity and camera: distances from 5 to 60 m, the top unmeasured."""
    root = tmp_path_factory.mktemp("data") / "laf"
    camera = {
        "extrinsic": {"baseline": 0.25},
        "intrinsic": {"fx": 200.0, "fy": 200.0, "u0": 30.0, "v0": 20.0},
    }
    for index in range(3):
        name = f"test/town/a_{index}"
        labels = np.ones(SHAPE, np.uint8)
        labels[:5] = 0
        labels[10 + 5 * index : 22 + 5 * index, 20:40] = 7
        metres = np.linspace(60, 5, SHAPE[0])[:, None].repeat(SHAPE[1], 1)
        disparity = np.round(256 * 0.25 * 200 / metres).astype(np.uint16)
        disparity[:8] = 0
        write_png(root / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(10 + index))
        write_png(root / "gtCoarse" / f"{name}_gtCoarse_labelIds.png", labels)
        write_png(root / "disparity" / f"{name}_disparity.png", disparity)
        path = root / "camera" / f"{name}_camera.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(camera))
    return root


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """StreetHazards: two frames of t5, three of t6."""
    root = tmp_path_factory.mktemp("data") / "streets"
    for town, frames in (("t5", 2), ("t6", 3)):
        for index in range(frames):
            rng = np.random.default_rng([len(town), frames, index])
            labels = rng.integers(1, 14, (8, 12)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
            labels[20:32, 10:30] = 14
            write_png(root / "test/images/test" / town / f"{index}.png", picture(20 + index))
            write_png(root / "test/annotations/test" / town / f"{index}.png", labels)
    return root


@pytest.fixture(scope="session")
def void_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cityscapes: labelIds of known classes, and some that are unknown."""
    root = tmp_path_factory.mktemp("data") / "cityscapes"
    for index in range(3):
        rng = np.random.default_rng(40 + index)
        labels = rng.choice([7, 8, 11, 21, 26], (8, 12)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
        labels[20:32, 10:30] = 5
        name = f"val/town/town_{index}"
        write_png(root / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(30 + index))
        write_png(root / "gtFine" / f"{name}_gtFine_labelIds.png", labels)
    return root
