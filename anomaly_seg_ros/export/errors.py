"""The exception of exports, and what to quote of others."""

from __future__ import annotations

from anomaly_seg_ros.errors import AnomalySegError


class ExportError(AnomalySegError):
    """A network that cannot be exported, or an exported one that gives other outputs."""


def first_line(error: BaseException) -> str:
    """Of the message; torch's go on with whole graphs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
