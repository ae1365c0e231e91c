# SPDX-License-Identifier: Apache-2.0
"""Small real files: pictures, videos whole and broken."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.footage.film import find_ffmpeg


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures whose names sort wrongly as text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / f"frame_{index}.png"), noise(index))
    (folder / "notes.txt").write_text("no picture\n")
    return folder


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """Writes frames of noise, which cannot be compressed away, as a video."""

    def write(name: str, count: int = 20, height: int = 48, width: int = 64) -> Path:
        path = tmp_path / name
        command = [
            *(find_ffmpeg(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", "10", "-i", "pipe:0", "-c:v", "libx264"),
            *("-g", "5", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)),
        ]
        content = b"".join(noise(index, height, width).tobytes() for index in range(count))
        subprocess.run(command, input=content, check=True)
        return path

    return write
