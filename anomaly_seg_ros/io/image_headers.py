# SPDX-License-Identifier: Apache-2.0
"""Reads format and size of an encoded image, before anything is decoded or allocated.

A decoder trusts the header: a PNG of a few bytes makes OpenCV allocate gigabytes. And OpenCV knows
more formats than cameras and data sets use, some of them by old libraries.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

# More than any camera's: 400 MB as RGB.
MOST_PIXELS = 1 << 27
# Pixels times passes over them; a progressive JPEG may ask for thousands of passes.
MOST_WORK = 1 << 30

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# One space at a time: \s+ in a repeated group would backtrack exponentially.
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,10})(?:\s|#[^\n]*\n)+(\d{1,10})\s")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
# TIFF field type -> struct code: 16, 32 and 64 bits.
_TIFF_INTEGERS = {3: "H", 4: "I", 16: "Q"}
# JPEG markers that start a frame: all of C0 to CF but three.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class ImageHeader:
    """Format and size of an encoded image.

    Attributes:
        kind: JPEG, PNG, WebP, PNM, BMP or TIFF.
        width: Columns.
        height: Rows.
        passes: Most passes of the decoder over the pixels.
    """

    kind: str
    width: int
    height: int
    passes: int = 1

    @property
    def fault(self) -> str | None:
        """Why it must not be decoded; None if it may."""
        size = f"{self.kind} of {self.width} x {self.height} pixels"
        pixels = self.width * self.height
        if pixels == 0:
            return f"{size}, which is none"
        if pixels > MOST_PIXELS:
            return f"{size}, more than {MOST_PIXELS / 1e6:.0f} million"
        if pixels * self.passes > MOST_WORK and self.passes > 1:
            return f"{size} in {self.passes} scans, too many"
        return None


def read_header(data: bytes) -> ImageHeader | None:
    """Reads format and size.

    Args:
        data: A whole encoded image.

    Returns:
        None if the format is none of the six, or the header is truncated or damaged.
    """
    try:
        if data.startswith(JPEG_MAGIC):
            return _jpeg(data)
        if data.startswith(PNG_MAGIC):
            is_first = data[12:16] == b"IHDR"
            return ImageHeader("PNG", *struct.unpack_from(">II", data, 16)) if is_first else None
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith((b"II", b"MM")):
            return _tiff(data)
        if match := _PNM.match(data):
            return ImageHeader("PNM", int(match[1]), int(match[2]))
    except (struct.error, IndexError, OverflowError):
        pass
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            position += 2
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Also counts the scans of a thumbnail; a few more do no harm.
            return ImageHeader("JPEG", width, height, max(1, data.count(b"\xff\xda", position)))
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return ImageHeader("WebP", width, height)
    return None


def _bmp(data: bytes) -> ImageHeader:
    (header,) = struct.unpack_from("<I", data, 14)
    # The oldest header has 16-bit sizes; a negative height means rows from the top.
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return ImageHeader("BMP", abs(width), abs(height))


def _tiff(data: bytes) -> ImageHeader | None:
    order = "<" if data.startswith(b"II") else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 42:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        first, length, place = start + 2, 12, 8
    elif version == 43:  # BigTIFF
        (start,) = struct.unpack_from(f"{order}Q", data, 8)
        (entries,) = struct.unpack_from(f"{order}Q", data, start)
        first, length, place = start + 8, 20, 12
    else:
        return None
    sizes: dict[int, int] = {}
    for entry in range(first, min(first + entries * length, len(data)), length):
        tag, field = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and field in _TIFF_INTEGERS:
            code = f"{order}{_TIFF_INTEGERS[field]}"
            value = struct.unpack_from(code, data, entry + place)[0]
            sizes[tag] = max(value, sizes.get(tag, 0))
    if len(sizes) < 2:
        return None
    return ImageHeader("TIFF", sizes[_TIFF_WIDTH], sizes[_TIFF_HEIGHT])
