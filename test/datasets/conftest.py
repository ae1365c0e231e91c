# SPDX-License-Identifier: Apache-2.0
"""Miniature data sets on disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def put(tmp_path):
    """Writes an array as an image (grey, RGB or RGBA), or a mapping as JSON, under tmp_path."""

    def write(relative: str, content) -> Path:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            path.write_text(json.dumps(content))
        else:
            array = np.asarray(content)
            if array.ndim == 3:  # OpenCV writes BGR, or BGRA
                array = array[..., [2, 1, 0, 3][: array.shape[-1]]]
            assert cv2.imwrite(str(path), array)
        return path

    return write


@pytest.fixture
def picture() -> np.ndarray:
    """(4, 6, 3) uint8 RGB."""
    return np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture
def camera_json() -> dict:
    """A Cityscapes camera file's content."""
    return {
        "extrinsic": {"baseline": 0.21, "pitch": 0.05, "x": 1.7},
        "intrinsic": {"fx": 2262.5, "fy": 2265.25, "u0": 1096.0, "v0": 513.5},
    }


@pytest.fixture
def put_frame(put, picture, camera_json):
    """Writes one frame of a Cityscapes-like tree, with disparity and camera if wanted."""

    def write(coarseness: str, split: str, folder: str, name: str, ids, stereo=False) -> None:
        place = f"{split}/{folder}/{name}"
        put(f"leftImg8bit/{place}_leftImg8bit.png", picture)
        put(f"{coarseness}/{place}_{coarseness}_labelIds.png", ids)
        if stereo:
            put(f"disparity/{place}_disparity.png", np.full((4, 6), 2560, np.uint16))
            put(f"camera/{place}_camera.json", camera_json)

    return write
