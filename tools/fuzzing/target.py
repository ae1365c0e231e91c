# SPDX-License-Identifier: Apache-2.0
"""A reader under attack: bytes in, an answer or one of our errors out."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg_ros.errors import AnomalySegError
from tools.fuzzing.watch import OUTSIDE, Forbidden, Watch

_MEMORY = Path("/dev/shm")  # noqa: S108
_LONGEST_MESSAGE = 20_000


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: Its name on the command line.
        reads: What the bytes are, for people.
        attempt: Reads the bytes; may write into the folder that it is given.
        seeds: Makes valid inputs and known attacks, to mutate.
        area: Its group on the command line, set by the registry.
    """

    name: str
    reads: str
    attempt: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    area: str = ""


class Attack:
    """Inputs for one target, in a folder of its own.

    Args:
        target: The reader.
        folder: An empty folder; what the target writes is removed after each input.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self._inside = folder / "inside"
        self._watch = Watch(self._inside, folder / OUTSIDE)
        # A file outside that is valid YAML and JSON; nobody may open it.
        (folder / OUTSIDE).mkdir()
        (folder / OUTSIDE / "secret.yaml").write_text("{}\n", encoding="utf-8")
        for seed in target.seeds():  # imports and caches, before anything is forbidden
            self._attempt(seed, contextlib.nullcontext())

    def __call__(self, data: bytes) -> bool:
        """Runs the target once.

        Returns:
            True if the bytes were accepted, False if one of our errors refused them.

        Raises:
            Forbidden: The target ran, wrote or opened something that it must not.
            BaseException: Whatever else leaves the reader.
        """
        accepted = self._attempt(data, self._watch)
        self._watch.verify()
        return accepted

    def _attempt(self, data: bytes, watch: contextlib.AbstractContextManager) -> bool:
        self._inside.mkdir()
        refusal = None
        try:
            with watch:
                self.target.attempt(data, self._inside)
        except AnomalySegError as error:
            refusal = str(error)
        finally:
            shutil.rmtree(self._inside)
        if refusal is not None and len(refusal) > _LONGEST_MESSAGE:
            raise Forbidden(f"a message of {len(refusal)} characters")
        return refusal is None


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, in memory where that is possible: each input becomes a file."""
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir=place) as folder:
        yield Path(folder)
