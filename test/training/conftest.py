# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch


@pytest.fixture(autouse=True)
def _tf32_as_before() -> Iterator[None]:
    """The training entries switch TF32 off for their process."""
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes are neither written into the user's home nor found there."""
    monkeypatch.setenv("ANOMALY_SEG_CACHE", str(tmp_path / ".cache"))


@pytest.fixture(autouse=True)
def _opencv_without_threads() -> Iterator[None]:
    """As in a training with loader workers: they are forked, and would wait for its threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    yield
    cv2.setNumThreads(before)
