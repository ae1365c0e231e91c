# SPDX-License-Identifier: Apache-2.0
"""A report of a real run: tiny model, tiny frames, a few seconds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny_model

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.safetensors", True)


@pytest.fixture(scope="session")
def report_path(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored report of one case."""
    path = tmp_path_factory.mktemp("benchmark") / "report.json"
    command = [sys.executable, "-m", "benchmarks.online", "--models", str(tiny_model)]
    command += ["--frame-sizes", "96x128", "--frames", "6", "--seconds", "1"]
    command += ["--load-seconds", "1", "--transport", "default", "--out", str(path)]
    # Small frames: UDP carries them, and no shared memory of a killed test is in the way.
    environment = {
        "ROS_DOMAIN_ID": str(random.randint(1, 101)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def report(report_path: Path) -> dict[str, Any]:
    """The report's content, fresh for each test."""
    return json.loads(report_path.read_text(encoding="utf-8"))
