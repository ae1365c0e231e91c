# SPDX-License-Identifier: Apache-2.0
"""Targets: the conversion of image messages, and the readers of image files."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from anomaly_seg_ros.io.images import read_disparity, read_image, read_label
from anomaly_seg_ros.io.pixel_formats import ENCODINGS, rgb_from_compressed, rgb_from_raw
from tools.fuzzing.target import Target

_READERS = (read_image, read_label, read_disparity, partial(read_label, palette=True))
_FIELDS = struct.Struct("<BIIIB")
_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS: dict[str, tuple[int, ...]] = {
    ".jpg": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    ".jpeg": (),
    ".png": (),
    ".webp": (),
    ".ppm": (),
    ".bmp": (),
    ".tiff": (),
}


def _picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 14, 3), np.uint8)


def encoded_images() -> list[bytes]:
    """A small picture in each format, in colour and grey, and headers that promise too much."""
    pictures = []
    for suffix, options in _FORMATS.items():
        for array in (_picture(), np.ascontiguousarray(_picture()[..., 0])):
            target = ".pgm" if suffix == ".ppm" and array.ndim == 2 else suffix
            pictures.append(cv2.imencode(target, array, options)[1].tobytes())
    deep = cv2.imencode(".png", _picture()[..., 0].astype(np.uint16) * 256)[1].tobytes()
    return [*pictures, deep, png_of(60000, 60000), b"P5" + b" " * 40 + b"x", b""]


def png_of(width: int, height: int) -> bytes:
    """A PNG of any size that holds next to nothing; its checksums are right."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    return _PNG + b"".join(_chunk(kind, data) for kind, data in chunks)


def _palette_png() -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in _picture()[..., 0])
    header = struct.pack(">IIBBBBB", 14, 9, 8, 3, 0, 0, 0)
    chunks = (b"IHDR", header), (b"PLTE", bytes(768)), (b"IDAT", zlib.compress(rows))
    return _PNG + b"".join(_chunk(kind, data) for kind, data in (*chunks, (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right, so that mutations of its chunks reach the decoder."""
    if not data.startswith(_PNG):
        return data
    parts, position = [_PNG], len(_PNG)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if length > len(data):
            break
        parts.append(_chunk(data[position + 4 : position + 8], data[position + 8 :][:length]))
        position += 12 + length
    return b"".join(parts) + data[position:]


def raw_message(data: bytes) -> SimpleNamespace:
    """An image message out of bytes: fields first, then the encoding's text, then pixels."""
    kind, height, width, step, flags = _FIELDS.unpack_from(data.ljust(_FIELDS.size, b"\0"))
    rest = data[_FIELDS.size :]
    if kind < len(ENCODINGS):
        encoding = ENCODINGS[kind]
    else:
        encoding, _, rest = rest.partition(b"\0")
        encoding = encoding.decode("utf-8", "replace")
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=flags & 1,
        data=np.frombuffer(rest, np.uint8) if flags & 2 else rest,
    )


def _raw_messages() -> list[bytes]:
    sizes = ((2, 4, 32), (4, 2, 2**31), (2**31, 2**31, 2), (2**32 - 1, 1, 1), (3, 3, 9))
    return [
        _FIELDS.pack(kind, *size, flags) + bytes(range(128))
        for kind in (*range(len(ENCODINGS)), 255)
        for size, flags in ((sizes[kind % len(sizes)], kind % 4), (sizes[0], 1))
    ]


def _check(rgb: np.ndarray, size: tuple[int, ...]) -> None:
    if rgb.dtype != np.uint8 or rgb.shape != (*size, 3):
        raise TypeError(f"an image of {rgb.dtype} and shape {rgb.shape}, not {size}")


def _raw(data: bytes, folder: Path) -> None:
    message = raw_message(data)
    _check(rgb_from_raw(message), (message.height, message.width))


def _compressed(data: bytes, folder: Path) -> None:
    message = SimpleNamespace(format="jpeg", data=np.frombuffer(with_checksums(data), np.uint8))
    rgb = rgb_from_compressed(message)
    _check(rgb, rgb.shape[:2])


def _file(data: bytes, folder: Path) -> None:
    path = folder / "image.png"
    path.write_bytes(with_checksums(data[1:]))
    _READERS[data[0] % len(_READERS) if data else 0](path)


TARGETS = (
    Target("raw_image", "sensor_msgs/Image, all fields", _raw, _raw_messages),
    Target("compressed_image", "sensor_msgs/CompressedImage", _compressed, encoded_images),
    Target(
        "image_file",
        "image, label and disparity files",
        _file,
        lambda: [
            bytes([kind]) + data
            for kind in range(len(_READERS))
            for data in (*encoded_images(), _palette_png())
        ],
    ),
)
