# SPDX-License-Identifier: Apache-2.0
"""Encoded images with what cameras put beside the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Notes an EXIF orientation (1 to 8) in a JPEG."""
    entry = struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def palette_png(indices: np.ndarray, colours: np.ndarray) -> bytes:
    """An 8-bit PNG with a palette.

    Args:
        indices: (H, W) uint8.
        colours: (N, 3) uint8 RGB.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)  # 0: no filter
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", colours.tobytes())
        + chunk(b"tRNS", b"\0")  # the first colour is transparent
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
