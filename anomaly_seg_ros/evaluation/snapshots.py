# SPDX-License-Identifier: Apache-2.0
"""Saved states of unfinished runs, and the processes that share a run.

A run keeps its states in a folder: ``configuration.json`` says what it evaluates, ``files.json``
has the fingerprint of the files that it started with, and ``PASS-RANK-NUMBER/`` holds what a
process had counted in a pass. States are written under a temporary name and then renamed, so they
are always complete; the newest of each process counts. Once everything is counted and published,
``finished.json`` replaces the states.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from anomaly_seg_ros.errors import OutputError, ParameterError
from anomaly_seg_ros.evaluation.accumulate import FramePass
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.io.safe_yaml_json import read_json, short_repr
from anomaly_seg_ros.system.process_group import leave_process_group

# Version of the states' files; states of other versions are not read.
VERSION = 1
_CONFIGURATION = "configuration.json"
_FILES = "files.json"
_FINISHED = "finished.json"
# Shares of the frames take different times, and the others wait while one process merges.
_PATIENCE = timedelta(days=1)


class Snapshots:
    """The states of one run.

    Args:
        folder: Their folder; created when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check_configuration(self, configuration: dict[str, Any]) -> bool:
        """Whether a run with the same configuration was started in the folder.

        Raises:
            ParameterError: One with another configuration was; names what differs.
            OutputError: It cannot be read.
        """
        path = self.folder / _CONFIGURATION
        if not path.is_file():
            return False
        try:
            old = read_json(path, OutputError)
        except OutputError as error:
            raise OutputError(f"cannot read {error}; use --fresh") from error
        new = json.loads(json.dumps({"version": VERSION, **configuration}))
        if changed := _differences(old, new):
            raise ParameterError(
                f"{self.folder}: was begun with another configuration ({'; '.join(changed)}); "
                "--fresh starts anew, another --out keeps both"
            )
        return True

    def begin(self, configuration: dict[str, Any], fingerprint: str) -> None:
        """Writes what the run evaluates, and marks it as unfinished.

        Args:
            configuration: JSON-like.
            fingerprint: Fingerprint of the files, taken before any of them is read.

        Raises:
            OutputError: It cannot be written.
        """
        self._end.unlink(missing_ok=True)
        write_atomically(self.folder / _FILES, json.dumps(fingerprint).encode())
        text = json.dumps({"version": VERSION, **configuration}, indent=1)
        write_atomically(self.folder / _CONFIGURATION, text.encode())

    def finish(self) -> None:
        """Marks the run as finished and removes all states: what they counted is published.

        Raises:
            OutputError: It cannot be written.
        """
        write_atomically(self._end, b"true")
        self.clear()

    @property
    def is_finished(self) -> bool:
        """Whether :meth:`finish` was called and nothing began since."""
        return self._end.is_file()

    def is_of(self, fingerprint: str) -> bool:
        """Whether the run was started with files of this fingerprint."""
        try:
            return read_json(self.folder / _FILES, OutputError) == fingerprint
        except OutputError:
            return False

    def start_over(self) -> None:
        """Discards all that was counted, and that the run was finished."""
        self._end.unlink(missing_ok=True)
        self.clear()

    @property
    def _end(self) -> Path:
        return self.folder / _FINISHED

    def clear(self, configuration: bool = False) -> None:
        """Removes all states and, if requested, the configuration."""
        if configuration:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.is_dir():
                    # Other processes may remove their own temporary files meanwhile.
                    shutil.rmtree(path, ignore_errors=True)

    def newest(self, name: str) -> list[Path]:
        """Returns the newest state of each process in a pass."""
        newest: dict[str, tuple[int, Path]] = {}
        for path in self.folder.glob(f"{name}-*"):
            if found := re.fullmatch(rf"{name}-(\d+)-(\d+)", path.name):
                number = int(found[2])
                if number > newest.get(found[1], (-1, path))[0]:
                    newest[found[1]] = number, path
        return sorted(path for _, path in newest.values())

    def save(self, name: str, rank: int, frames: FramePass, only: bool = False) -> None:
        """Writes a process's state and removes its older ones.

        Args:
            name: Name of the pass.
            rank: Number of the process.
            frames: The state.
            only: Remove the states of all processes, because this one includes their frames.

        Raises:
            OutputError: It cannot be written; the older one stays.
        """
        old = list(self.folder.glob(f"{name}-{'*' if only else rank}-*"))
        numbers = [int(path.name.rpartition("-")[2]) for path in old]
        path = self.folder / f"{name}-{rank}-{max(numbers, default=0) + 1}"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.mkdir(parents=True)
            try:
                frames.save(partial)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            for stale in old:
                shutil.rmtree(stale)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Describes how two JSON values differ, a phrase for each difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{where}: {short_repr(old)} before, {short_repr(new)} now"]


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the frames.

    They also share the output folder: states are exchanged as files there, so only :meth:`barrier`
    uses the network.

    Attributes:
        rank: Number of this process.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process merges and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            distributed.barrier()

    def set_threads(self, wanted: int | None) -> None:
        """Sets the number of CPU threads of this process.

        The order of a network's sums on the CPU depends on it, and with that the last digits of
        its scores. So it is the same with and without torchrun: all cores, unless OMP_NUM_THREADS
        or ``wanted`` say otherwise. torchrun itself sets OMP_NUM_THREADS to 1, so that value is
        ignored under it.
        """
        told = os.environ.get("OMP_NUM_THREADS", "")
        if wanted is None and told.isdigit() and not (self.world > 1 and told == "1"):
            wanted = int(told)
        torch.set_num_threads(wanted or len(os.sched_getaffinity(0)))

    def device(self, name: str) -> str:
        """Resolves ``auto`` on a host with several GPUs: one for each process."""
        if name == "auto" and self.world > 1 and torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            return f"cuda:{local % torch.cuda.device_count()}"
        return name


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """The processes that torchrun started; without it, this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        leave_process_group()
