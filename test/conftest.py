# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


LEFT_OUT = pytest.StashKey[Counter]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(REPOSITORY / "test").parts[0]
        item.config.stash[LEFT_OUT][folder] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of the processes that share the tests
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Each process was given all tests, so that they all leave out the same ones."""
    if found := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = Counter(found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What was left out by marker or keyword, and how to run it."""
    left_out = config.stash[LEFT_OUT]
    if left_out:
        where = ", ".join(f"{folder} {count}" for folder, count in sorted(left_out.items()))
        terminalreporter.write_line(
            f"left out {left_out.total()} tests (test/: {where}); `make test-all` runs all"
        )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images (see ../shared/data/README.md), or a skip."""
    folder = Path(os.environ.get("ANOMALY_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ANOMALY_SEG_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def public_weights(shared_data: Path) -> Path:
    """The folder of public checkpoints beside the real images, or a skip."""
    folder = shared_data.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no public checkpoints at {folder}")
    return folder


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Gives back the threads that a tool took: the last bits of a network depend on them."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs that other people stumbled over (``../shared/cases``), or a skip."""
    folder = REPOSITORY.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    return folder
