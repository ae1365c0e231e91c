"""Encoded images with what cameras put beside the pixels."""

from __future__ import annotations

import struct


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Notes an EXIF orientation (1 to 8) in a JPEG."""
    entry = struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
