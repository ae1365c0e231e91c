# SPDX-License-Identifier: Apache-2.0
"""What can be segmented: pictures, folders of them, a video file, a camera or a stream."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES, read_image

PICTURES, VIDEO, CAMERA = "pictures", "video", "camera"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One frame, not decoded yet where it is a file of its own.

    Attributes:
        name: Path of its outputs below their folders, without a suffix.
        read: Returns the image, (H, W, 3) uint8 RGB; raises ImageError where it is unreadable.
        time_s: Seconds since the first frame; None for pictures.
        file: (bytes, time of the last change in ns) of its file, which tell whether it is still
            the same; None for videos and cameras.
    """

    name: str
    read: Callable[[], np.ndarray]
    time_s: float | None = None
    file: tuple[int, int] | None = None


def decoded(image: np.ndarray) -> Callable[[], np.ndarray]:
    """The ``read`` of a frame that is in memory already."""
    return lambda: image


class Source(Protocol):
    """Frames in order.

    Attributes:
        kind: :data:`PICTURES`, :data:`VIDEO` or :data:`CAMERA`.
        name: What it is, for people.
        count: Number of frames, as far as it is known before they are read.
        frame_rate: Frames per second, where they have one.
        dropped: Frames that nobody had time for.
        notes: What was wrong with it, complete once :meth:`frames` has ended; a line each.
    """

    kind: str
    name: str
    count: int | None
    frame_rate: float | None
    dropped: int
    notes: list[str]

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """Yields the frames; one that waits for the next ends soon after ``stopped`` is true."""
        ...


class Pictures:
    """Picture files, read when asked for.

    Args:
        paths: Files, and folders whose pictures are taken in the order of their names (2 before
            10). A folder without pictures stands for the folder ``images`` in it.

    Raises:
        ImageError: There is no such file, or no picture in a folder.
    """

    kind = PICTURES
    count: int | None
    frame_rate: float | None = None
    dropped = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self.name = ", ".join(str(path.absolute()) for path in paths)
        self.notes: list[str] = []
        listed = [_pictures_of(path) for path in paths]
        self._files = list(dict.fromkeys(file for files in listed for file in files))
        self.count = len(self._files)
        self._names = _names(self._files)

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """See :class:`Source`."""
        for file, name in zip(self._files, self._names, strict=True):
            yield Frame(name, partial(read_image, file), file=_identity(file))


def open_source(inputs: Sequence[str]) -> Source:
    """Opens what the user named.

    Args:
        inputs: Pictures and folders, or one video, camera (its number or device) or URL.

    Raises:
        ImageError: One of them does not exist, or cannot be read as any of these.
        ParameterError: A video or a camera beside something else.
    """
    # Not above: either needs a process or a device, which pictures do not.
    from anomaly_seg_ros.footage.camera import Camera
    from anomaly_seg_ros.footage.video_file import VideoFile

    paths = [Path(text).expanduser() for text in inputs]
    makers: list[Callable[[], Source]] = []
    for text, path in zip(inputs, paths, strict=True):
        if text.isascii() and text.isdigit() and not path.exists():
            makers.append(partial(Camera, int(text)))
        elif _URL.match(text) or _is_device(path):
            makers.append(partial(Camera, text))
        elif path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
            makers.append(partial(VideoFile, path))
    if not makers:
        return Pictures(paths)
    if len(inputs) > 1:
        raise ParameterError(
            f"{', '.join(inputs)}: a video or a camera is segmented alone; several inputs must be "
            "pictures or folders"
        )
    return makers[0]()


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def _pictures_of(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise ImageError(f"{path}: no such file or folder")
        return [path]
    files = _pictures_in(path)
    if not files and (path / "images").is_dir():
        files = _pictures_in(path / "images")
    if not files:
        below = sorted(child.name for child in path.iterdir() if child.is_dir())
        hint = f"; name one of its folders: {', '.join(below[:5])}" if below else ""
        raise ImageError(f"{path}: no picture in this folder{hint}")
    return files


def _pictures_in(folder: Path) -> list[Path]:
    try:
        found = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
    except OSError as error:
        raise ImageError(f"{folder}: {error.strerror}") from error
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _names(files: Sequence[Path]) -> list[str]:
    """Names of the outputs: unique, and the files' own as far as they are.

    Files of one folder keep their name without its suffix, or with it where two differ by that
    alone; those of several folders keep the folders' names below the first common one.
    """
    parents = {file.parent.resolve() for file in files}
    common = next(iter(parents))
    while any(common != parent and common not in parent.parents for parent in parents):
        common = common.parent
    full = [(file.parent.resolve() / file.name).relative_to(common) for file in files]
    stems = [str(path.with_suffix("")) for path in full]
    twice = {stem for stem in stems if stems.count(stem) > 1} if _has_twins(stems) else set()
    return [str(path) if stem in twice else stem for path, stem in zip(full, stems, strict=True)]


def _has_twins(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
