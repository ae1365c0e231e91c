# SPDX-License-Identifier: Apache-2.0
"""The folder that ``segment`` fills: pictures by frame, and a record of what is finished.

While a run goes on, ``progress.jsonl`` holds its settings and a line for each finished frame; at
its end ``objects.json`` replaces it. Other files get their names only once they are whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from anomaly_seg_ros.errors import OutputError, ParameterError
from anomaly_seg_ros.footage.frame_browser import BROWSER
from anomaly_seg_ros.footage.sources import Frame
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.io.images import read_image
from anomaly_seg_ros.io.safe_yaml_json import read_json, short_repr

OBJECTS, PROGRESS, FILM = "objects.json", "progress.jsonl", "overlay.mp4"
VIDEO, OVERLAYS = "video", "overlays"
# What can be written: name, which is its folder's, -> suffix and options of the encoder. Level 1
# makes score maps 3 % larger than the usual level, in a quarter of the time.
ENCODINGS: dict[str, tuple[str, list[int]]] = {
    OVERLAYS: (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92]),
    "masks": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
    "scores": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "labels": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
}
KINDS = (*ENCODINGS, VIDEO)
DEFAULT_KINDS = (OVERLAYS, "masks", "scores", VIDEO)

# As io/atomic.py and film.py name unfinished files.
_PARTIAL = ".*.partial*"

FORMAT = 1
SCORE_STEPS = 65535

Record = dict[str, Any]
"""One frame in ``objects.json``."""


class OutputFolder:
    """An output folder.

    Args:
        folder: Made where it is missing; a folder with files must be one of ours.
        kinds: What is written, of :data:`KINDS`.
        settings: Everything that the pictures depend on; JSON-like.
        resumes: Whether frames that were finished before are kept.
        fresh: Discard what the folder's record lists.

    Raises:
        OutputError: The folder cannot be used, holds foreign files, or its record is damaged.
        ParameterError: It was begun with other settings.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        settings: Mapping[str, Any],
        resumes: bool,
        fresh: bool = False,
    ) -> None:
        self.path = folder
        self._kinds = tuple(kind for kind in ENCODINGS if kind in kinds)
        self._film = VIDEO in kinds
        self._settings = json.loads(json.dumps(settings))
        self._progress: IO[str] | None = None
        self._records: dict[str, Record] = {}
        self._last: list[str] = []
        found = self._listed()
        if OBJECTS in found or PROGRESS in found:
            self._take_over(resumes, fresh)
        elif found:
            names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise OutputError(f"{folder}: holds other files ({names}); name a new or empty folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.rglob(_PARTIAL):  # of a process that was killed
                partial.unlink()
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}") from error

    @property
    def film(self) -> Path | None:
        """Where the overlay video goes, if there is to be one."""
        return self.path / FILM if self._film else None

    def kept(self, frame: Frame) -> Record | None:
        """The record of a frame whose files are all there and up to date, else None."""
        record = self._records.get(frame.name)
        if record is None or frame.file is None or record.get("file") != list(frame.file):
            return None
        needed = [*self._kinds, *([OVERLAYS] if self._film else [])]
        return record if all(self._file(kind, frame.name).is_file() for kind in needed) else None

    def complete(self, frames: Sequence[Frame]) -> list[Record] | None:
        """The records of an earlier run that finished exactly these frames; else None."""
        kept = [record for frame in frames if (record := self.kept(frame)) is not None]
        same = len(kept) == len(frames) and [frame.name for frame in frames] == self._last
        return kept if same and (self.film is None or self.film.is_file()) else None

    def overlay_of(self, frame: Frame) -> np.ndarray:
        """The overlay of a frame that is kept.

        Raises:
            ImageError: It cannot be read.
        """
        return read_image(self._file(OVERLAYS, frame.name))

    def write(self, record: Record, maps: Mapping[str, np.ndarray]) -> None:
        """Writes the files of a frame, then its record.

        Args:
            record: JSON-like, with its name.
            maps: By kind: overlay (H, W, 3) uint8 RGB, and maps (H, W) uint8 or uint16. Those that
                are not asked for are left out.

        Raises:
            OutputError: A file cannot be written, for example on a full disk.
        """
        path = self.path / PROGRESS
        try:
            self._progress = self._progress or self._begin()
            for kind in self._kinds:
                suffix, options = ENCODINGS[kind]
                stored = maps[kind][..., ::-1] if maps[kind].ndim == 3 else maps[kind]
                content = cv2.imencode(suffix, np.ascontiguousarray(stored), options)[1]
                write_atomically(self._file(kind, record["name"]), content.tobytes())
            self._progress.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._progress.flush()
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    def finish(self, document: Mapping[str, Any]) -> None:
        """Writes ``objects.json`` and removes what only an unfinished run needs.

        Raises:
            OutputError: It cannot be written.
        """
        whole = {"format": FORMAT, "settings": self._settings, **document}
        frames = whole.pop("frames")
        # A line for each frame: short enough for long videos, and readable in an editor.
        head = json.dumps(whole, indent=1, ensure_ascii=False)[:-2]
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in frames)
        write_atomically(self.path / OBJECTS, f'{head},\n "frames": [\n{lines}\n]}}\n'.encode())
        self.close()
        (self.path / PROGRESS).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the record; what is finished stays finished."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _file(self, kind: str, name: str) -> Path:
        return self.path / kind / f"{name}{ENCODINGS[kind][0]}"

    def _listed(self) -> list[str]:
        if not self.path.exists():
            return []
        try:
            entries = sorted(self.path.iterdir())
            return [path.name for path in entries if not path.match(_PARTIAL)]
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}") from error

    def _take_over(self, resumes: bool, fresh: bool) -> None:
        """Reads the record of an earlier run, and keeps or discards what it lists."""
        document: dict[str, Any] = {}
        if (path := self.path / OBJECTS).is_file():
            document = read_json(path, OutputError)
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise OutputError(f"{path}: not of this version of segment; name another folder")
        lines = list(self._lines())
        begun = lines[0].get("settings") if lines else document.get("settings")
        finished = [*document.get("frames", ()), *lines[1:]]
        records = {r["name"]: r for r in finished if isinstance(r, dict) and "name" in r}
        if fresh:
            self._discard(records)
            return
        if changed := _differences(begun, self._settings):
            raise ParameterError(
                f"{self.path}: was begun with other settings ({'; '.join(changed)}); --fresh "
                "discards it, another --out keeps both"
            )
        if not resumes:
            raise OutputError(
                f"{self.path}: holds an earlier run; --fresh discards it, another --out keeps both"
            )
        self._records = records
        self._last = [] if lines else [record["name"] for record in document.get("frames", ())]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines of an unfinished run's record."""
        try:
            text = (self.path / PROGRESS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{self.path / PROGRESS}: cannot be read ({error})") from error
        for line in text.splitlines():
            try:
                content = json.loads(line)
            except ValueError:  # cut off where the process was killed
                return
            if not isinstance(content, dict):
                return
            yield content

    def _discard(self, records: Mapping[str, Record]) -> None:
        """Removes what was written, and nothing else that may lie there."""
        for name in records:
            for kind in ENCODINGS:
                self._file(kind, name).unlink(missing_ok=True)
        for name in (FILM, BROWSER, OBJECTS, PROGRESS):
            (self.path / name).unlink(missing_ok=True)

    def _begin(self) -> IO[str]:
        """Opens the record; before the first file, so that the folder is known for ours."""
        # Anew, not appended: the last line of an earlier run may be cut off.
        lines = [{"settings": self._settings}, *self._records.values()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(self.path / PROGRESS, text.encode())
        return (self.path / PROGRESS).open("a", encoding="utf-8")


def score_steps(unit_score: np.ndarray) -> np.ndarray:
    """The unit score on the 16-bit scale of ``scores/``.

    ``value / 65535`` is the score to a 131070th; half is rounded up, so that 32768 and more is
    exactly where the score reaches 0.5, the calibrated threshold.

    Args:
        unit_score: (H, W) float32 in [0, 1].

    Returns:
        (H, W) uint16.
    """
    return (unit_score * np.float32(SCORE_STEPS) + np.float32(0.5)).astype(np.uint16)


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Phrases for what differs between two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            phrase
            for key in sorted({*old, *new})
            for phrase in _differences(old.get(key), new.get(key), f"{where} {key}".strip())
        ]
    if old == new:
        return []
    return [f"{where or 'all'}: {short_repr(old)} before, {short_repr(new)} now"]
