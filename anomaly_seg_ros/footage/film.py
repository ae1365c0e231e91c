# SPDX-License-Identifier: Apache-2.0
"""Writes films: H.264 in MP4, which browsers and players read.

OpenCV's wheels carry no H.264 encoder, so the frames go through a pipe to ffmpeg: the one of the
imageio-ffmpeg wheel, or where that is not installed the one on the PATH.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from anomaly_seg_ros import drawing
from anomaly_seg_ros.errors import ImageError, OutputError

# Near-lossless to the eye, about 1 MB for ten seconds of street at 1536 x 256.
_QUALITY = "21"
_FINISH_TIMEOUT_S = 120.0
_MAX_WIDTH = 1920


class OverlayVideo:
    """Writes an MP4 file frame by frame; a context manager.

    The file appears under its name when the block ends without an error, and not otherwise.

    Args:
        path: The target, ``*.mp4``; folders above it are made.
        size: (height, width) of the frames; odd sizes are padded to even ones, as the format's
            colour subsampling needs.
        fps: Frames per second.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float) -> None:
        height, width = size
        if height < 1 or width < 1:
            raise ImageError(f"{path}: a film needs a size of at least 1 x 1, got {size}")
        if not 0 < fps <= 1000:
            raise OutputError(f"{path}: frames per second must be in (0, 1000], got {fps}")
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._size = height, width
        self._fps = fps
        self._encoder: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None
        self.frames = 0

    def __enter__(self) -> OverlayVideo:
        """Starts the encoder.

        Raises:
            OutputError: There is no ffmpeg, or the folder cannot be made.
        """
        command = self._command()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A file, not a pipe: nobody reads a pipe while frames are written, so a talkative
            # encoder would block on it.
            self._messages = tempfile.TemporaryFile()
            self._encoder = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                # Ctrl-C is for us: a film that is stopped still gets its end.
                start_new_session=True,
            )
        except OSError as error:
            self._close_messages()
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame.

        Args:
            frame: (H, W, 3) uint8 RGB of the film's size, any strides.

        Raises:
            ImageError: Another shape or type.
            OutputError: The encoder stopped, for example on a full disk.
        """
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ImageError(
                f"frame {self.frames} of {self._path}: {frame.shape} {frame.dtype}; "
                f"needs {(*self._size, 3)} uint8"
            )
        if self._encoder is None:
            raise OutputError(f"{self._path} is not open; write frames inside its with block")
        height, width = self._size
        padded = cv2.copyMakeBorder(
            np.ascontiguousarray(frame), 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE
        )
        try:
            self._pipe.write(padded.data)
        except OSError as error:
            reason = self._stop()
            raise OutputError(f"cannot write {self._path}: {reason or error}") from error
        self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finishes the file and gives it its name, or removes it after an error.

        Raises:
            OutputError: There was no frame, or the encoder failed.
        """
        if kind is not None:
            self._stop()
            return
        if not self.frames:
            self._stop()
            raise OutputError(f"cannot write {self._path}: a film needs at least one frame")
        assert self._encoder is not None  # noqa: S101 - set by __enter__
        try:
            self._encoder.communicate(timeout=_FINISH_TIMEOUT_S)
            if self._encoder.returncode:
                reason = self._complaint() or f"ffmpeg ended with {self._encoder.returncode}"
                raise OutputError(f"cannot write {self._path}: {reason}")
            self._partial.replace(self._path)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise OutputError(f"cannot write {self._path}: {failure}") from failure
        finally:
            self._stop()

    def _command(self) -> list[str]:
        height, width = (length + length % 2 for length in self._size)
        return [
            *(find_ffmpeg(), "-loglevel", "error", "-nostdin", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", f"{self._fps:g}", "-i", "pipe:0"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "fast", "-crf", _QUALITY),
            # A whole picture so often, so that a browser can step back without much decoding.
            *("-g", "15"),
            # So that a browser can start before it has the whole file.
            *("-movflags", "+faststart", "-f", "mp4", str(self._partial.absolute())),
        ]

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._encoder is not None  # noqa: S101 - callers look first
        assert self._encoder.stdin is not None  # noqa: S101 - it was opened as a pipe
        return self._encoder.stdin

    def _stop(self) -> str:
        """Ends the encoder, removes an unfinished file; returns what the encoder complained of."""
        if self._encoder is not None:
            self._encoder.kill()
            # What a dead encoder has not taken cannot be flushed into its pipe, and need not be.
            with contextlib.suppress(BrokenPipeError):
                self._pipe.close()
            self._encoder.wait()
            self._encoder = None
        message = self._complaint()
        self._close_messages()
        self._partial.unlink(missing_ok=True)
        return message

    def _complaint(self) -> str:
        """The encoder's first message: the cause; those after it are consequences."""
        if self._messages is None:
            return ""
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        # Without the part of the encoder that speaks, "[out#0/mp4 @ 0x7f...] ".
        return re.sub(r"^(\[[^]]*\] )+", "", lines[0]) if lines else ""

    def _close_messages(self) -> None:
        if self._messages is not None:
            self._messages.close()
            self._messages = None


class StreamFilm:
    """A film of pictures of any size and pace, begun with the first; a context manager.

    Args:
        path: The file, or None for no film.
        frame_rate: Frames per second.
        live: Pictures come when they come: each is shown until the next one's time.
    """

    def __init__(self, path: Path | None, frame_rate: float, live: bool) -> None:
        self._path, self._frame_rate, self._live = path, frame_rate, live
        self._stack = contextlib.ExitStack()
        self._video: OverlayVideo | None = None
        self._size = (0, 0)
        self._last: np.ndarray | None = None

    def __enter__(self) -> StreamFilm:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, picture: np.ndarray, time_s: float | None) -> None:
        """Adds a picture of any size; those of another size than the first get bars.

        Raises:
            OutputError: The film cannot be written.
        """
        if self._path is None:
            return
        if picture.shape[1] > _MAX_WIDTH:
            picture = drawing.fit_width(picture, _MAX_WIDTH)
        if self._video is None:
            self._size = picture.shape[0], picture.shape[1]
            film = OverlayVideo(self._path, self._size, self._frame_rate)
            self._video = self._stack.enter_context(film)
        picture = letterbox(picture, self._size)
        if self._live and time_s is not None:
            due = math.floor(time_s * self._frame_rate)
            while self._last is not None and self._video.frames < due:
                self._video.write(self._last)
            self._last = picture
            if self._video.frames > due:  # the camera is faster than the film
                return
        self._video.write(picture)


def find_ffmpeg() -> str:
    """Path of an ffmpeg executable.

    Raises:
        OutputError: There is none.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        found = shutil.which("ffmpeg")
    else:
        try:
            found = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:
            found = None
    if found is None:
        raise OutputError("no ffmpeg: pip install imageio-ffmpeg, or apt install ffmpeg")
    return found


def compose_frame(
    image: np.ndarray, overlay: np.ndarray, heat_map: np.ndarray, width: int = 1920
) -> np.ndarray:
    """One frame of the film: input, overlay and heat map side by side.

    Args:
        image: (H, W, 3) uint8 RGB.
        overlay: (H, W, 3) uint8 RGB.
        heat_map: (H, W, 3) uint8 RGB.
        width: Width of the whole; each panel gets a third of it.

    Returns:
        (H', 3 * (width // 3), 3) uint8 RGB; the same size for every frame of a stream whose
        frames have one size.

    Raises:
        ImageError: The three have not one size.
    """
    panels = (image, overlay, heat_map)
    return drawing.beside(*(drawing.fit_width(panel, width // len(panels)) for panel in panels))


def letterbox(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a picture into a fixed size with black bars, for streams whose size changes.

    Args:
        picture: (H, W, 3) uint8 RGB.
        size: (height, width) of the result.

    Returns:
        (height, width, 3) uint8 RGB; the picture itself where it has that size.

    Raises:
        ImageError: Not a picture.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or picture.dtype != np.uint8:
        raise ImageError(f"{picture.shape} {picture.dtype}; needs (H, W, 3) uint8, not empty")
    if picture.shape[:2] == tuple(size):
        return picture
    scale = min(full / own for full, own in zip(size, picture.shape, strict=False))
    height, width = (max(1, round(scale * own)) for own in picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = scaled
    return canvas
