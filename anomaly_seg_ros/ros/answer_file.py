"""Keeps a node's answers in a file: those of a minute of film would not fit into memory."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.ros.replay import Answer


class AnswerFile:
    """Labels and scores of answers by stamp, in a file that is gone when it is closed.

    Args:
        folder: In which there is room for 5 bytes a pixel and answer.

    Raises:
        OutputError: No file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until __exit__
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of what could not be written, which was told then
            self._file.close()

    def __contains__(self, stamp_ns: int) -> bool:
        return stamp_ns in self._places

    def __len__(self) -> int:
        return len(self._places)

    def put(self, stamp_ns: int, answer: Answer) -> None:
        """Stores an answer; a second one of the same stamp takes the place of the first.

        Raises:
            OutputError: It cannot be written, such as for want of room.
        """
        try:
            place = self._file.seek(0, 2)
            for array in (answer.labels, answer.unit_score):
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._places[stamp_ns] = place, answer.labels.shape

    def get(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and score as they were put.

        Returns:
            (H, W) uint8 and (H, W) float32.
        """
        place, shape = self._places[stamp_ns]
        pixels = int(np.prod(shape))
        self._file.seek(place)
        content = self._file.read(5 * pixels)
        labels = np.frombuffer(content, np.uint8, pixels)
        score = np.frombuffer(content, np.float32, pixels, offset=pixels)
        return labels.reshape(shape), score.reshape(shape)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot keep the node's answers in {self._folder}: {error.strerror or error}"
        )
