# SPDX-License-Identifier: Apache-2.0
"""The stamp of a message as a number, and the other way round."""

from __future__ import annotations

from std_msgs.msg import Header


def nanoseconds_of(header: Header) -> int:
    """The stamp of a header in nanoseconds, exact."""
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


def seconds_of(header: Header) -> float:
    """The stamp of a header in seconds."""
    return float(header.stamp.sec + header.stamp.nanosec / 1e9)


def header_at(stamp_ns: int, frame_id: str) -> Header:
    """A header with this stamp, in nanoseconds."""
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return header
