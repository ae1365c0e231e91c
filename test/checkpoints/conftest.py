# SPDX-License-Identifier: Apache-2.0
"""Files of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes with torch.save and returns the path."""

    def write(content: object, name: str = "weights.pth", **options: object) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write
