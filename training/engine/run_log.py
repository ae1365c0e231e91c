"""What a run writes for people, in its folder: ``log.jsonl``, texts and TensorBoard's files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from anomaly_seg_ros.errors import OutputError, ParameterError
from training.engine.storage import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Figures and pictures by step, and texts.

    Args:
        run_dir: Receives ``log.jsonl``, texts and ``tensorboard/``.
        enabled: False on all ranks but the main one: nothing is written.
        tensorboard: Whether to write TensorBoard's files, too.
    """

    def __init__(self, run_dir: Path, enabled: bool = True, tensorboard: bool = False) -> None:
        self.path = run_dir / "log.jsonl"
        self._enabled = enabled
        self._folder = run_dir / "tensorboard" if tensorboard and enabled else None
        self._writer: SummaryWriter | None = None

    def rewind(self, step: int) -> None:
        """Forgets everything after ``step``: a resumed run writes it again."""
        if self._folder is not None:
            self._writer = _open_writer(self._folder, purge_step=step + 1)
        if not self._enabled or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
        write_atomically(self.path, lambda file: file.write(kept.encode()))

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Writes one line of figures.

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
        """Writes ``NAME.txt``, and shows it in TensorBoard.

        Raises:
            OutputError: It cannot be written.
        """
        if not self._enabled:
            return
        content = f"{text}\n".encode()
        path = self.path.with_name(f"{name}.txt")
        write_atomically(path, lambda file: file.write(content), len(content))
        if writer := self._open():
            writer.add_text(name, text)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> SummaryWriter | None:
        if self._writer is None and self._folder is not None:
            self._writer = _open_writer(self._folder)
        return self._writer


class RunningMeans:
    """Running sums of loss and terms since the last line of the log, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._started = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds one step's scalars; not every step need have every term."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Means and the speed since the last call."""
        means = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        means["steps_per_s"] = self._steps / (time.monotonic() - self._started)
        self._sums.clear()
        self._counts.clear()
        self.restart_clock()
        return means

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the speed."""
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
    """The step of a line of ``log.jsonl``; a line cut off by a kill counts as the future."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
