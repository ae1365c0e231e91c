"""Unpacks what recorders compress, within limits: some kilobytes may stand for gigabytes."""

from __future__ import annotations

import sys
from binascii import crc32

from lz4.frame import LZ4FrameDecompressor

from anomaly_seg_ros.errors import BagError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

__all__ = ["ZSTD_MAGIC", "ZstdDecompressor", "ZstdError", "unpacked_chunk", "unpacked_message"]

# Unpacked, in bytes: far above a chunk (1 MB as most recorders write it) or an image.
LARGEST_CHUNK = 1 << 29
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def unpacked_message(data: bytes) -> bytes:
    """A message as it was serialised, whether the recorder compressed it or not.

    No serialised message starts like compressed data: its first byte is 0.

    Raises:
        BagError: Incomplete, or larger than any message.
        ZstdError: Damaged.
    """
    return _unpack_zstd(data, LARGEST_CHUNK) if data[:4] == ZSTD_MAGIC else data


def unpacked_chunk(data: bytes, compression: str, size: int, crc: int) -> bytes:
    """The records of an MCAP chunk.

    Args:
        data: As stored.
        compression: "zstd", "lz4" or "".
        size: That the chunk states; no more is unpacked.
        crc: Of the records; 0 where there is none.

    Raises:
        BagError: Of another size or checksum, larger than any chunk, or an unknown compression.
        ZstdError, RuntimeError: Damaged.
    """
    if compression and size > LARGEST_CHUNK:
        raise BagError(f"a chunk of {size} bytes, more than {LARGEST_CHUNK}")
    if compression == "zstd":
        records = _unpack_zstd(data, size)
    elif compression == "lz4":
        records = _unpack_lz4(data, size)
    elif not compression:
        records = data
    else:
        raise BagError(f"unsupported compression {compression!r} (supported: zstd, lz4)")
    if len(records) != size:
        raise BagError(f"damaged (a chunk of {len(records)} bytes states {size})")
    if crc and crc32(records) != crc:
        raise BagError("damaged (checksum of a chunk)")
    return records


def _unpack_zstd(data: bytes, most: int) -> bytes:
    """Unpacks all frames of ``data``, up to ``most`` bytes."""
    parts, left, size = [], data, 0
    while left:
        decompressor = ZstdDecompressor()
        parts.append(decompressor.decompress(left, max_length=most + 1 - size))
        size += len(parts[-1])
        if size > most:
            raise BagError(f"compressed data unpack to more than the {most} bytes stated")
        if not decompressor.eof:
            raise BagError("damaged (compressed data end too early)")
        left = decompressor.unused_data
    return b"".join(parts)


def _unpack_lz4(data: bytes, most: int) -> bytes:
    decompressor = LZ4FrameDecompressor()
    unpacked = decompressor.decompress(data, max_length=most + 1)
    if len(unpacked) > most:
        raise BagError(f"compressed data unpack to more than the {most} bytes stated")
    return unpacked
