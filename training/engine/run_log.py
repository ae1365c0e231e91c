# SPDX-License-Identifier: Apache-2.0
"""The log in a run's folder: ``log.jsonl``, text files, pictures and TensorBoard files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from torch import Tensor

from anomaly_seg_ros.errors import OutputError, ParameterError
from training.engine.storage import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Writes figures and pictures by step, and texts.

    Args:
        run_dir: Folder for ``log.jsonl``, texts and ``tensorboard/``.
        enabled: False on all ranks except the main one, where nothing is written.
        tensorboard: Also write TensorBoard files.
    """

    def __init__(self, run_dir: Path, enabled: bool = True, tensorboard: bool = False) -> None:
        self.path = run_dir / "log.jsonl"
        self._enabled = enabled
        self._folder = run_dir / "tensorboard" if tensorboard and enabled else None
        self._writer: SummaryWriter | None = None

    def rewind(self, step: int) -> None:
        """Removes everything after ``step``, which a resumed run writes again."""
        if self._folder is not None:
            self._writer = _open_writer(self._folder, purge_step=step + 1)
        if not self._enabled or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
        write_atomically(self.path, lambda file: file.write(kept.encode()))

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line of figures.

        Raises:
            OutputError: The disk is full or the folder is gone.
        """
        if not self._enabled:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error
        if writer := self._open():
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows an (H, W, 3) uint8 RGB picture in TensorBoard."""
        if writer := self._open():
            writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        """Writes ``NAME.txt`` and shows it in TensorBoard.

        Raises:
            OutputError: The file cannot be written.
        """
        if not self._enabled:
            return
        content = f"{text}\n".encode()
        path = self.path.with_name(f"{name}.txt")
        write_atomically(path, lambda file: file.write(content), len(content))
        if writer := self._open():
            writer.add_text(name, text)

    def close(self) -> None:
        """Flushes and closes TensorBoard."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> SummaryWriter | None:
        if self._writer is None and self._folder is not None:
            self._writer = _open_writer(self._folder)
        return self._writer


class RunningMeans:
    """Means of loss and terms since the last log line, accumulated on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._started = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds the scalars of one step; steps may have different terms."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Returns means and speed since the last call, and resets them."""
        means = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        means["steps_per_s"] = self._steps / (time.monotonic() - self._started)
        self._sums.clear()
        self._counts.clear()
        self.restart_clock()
        return means

    def restart_clock(self) -> None:
        """Restarts the measurement of the speed, to exclude time spent elsewhere."""
        self._steps = 0
        self._started = time.monotonic()


def _open_writer(folder: Path, purge_step: int | None = None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ParameterError(
            f"tensorboard: true needs the package tensorboard ({error}); install it "
            "(requirements/dev.txt) or set tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)


def _step_of(line: str) -> int:
    """Step of a ``log.jsonl`` line; a truncated line counts as being after every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB picture as PNG.

    Raises:
        OutputError: The file cannot be written.
    """
    _, coded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_atomically(path, lambda file: file.write(coded.tobytes()), coded.nbytes)
