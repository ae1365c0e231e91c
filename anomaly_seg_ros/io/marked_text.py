# SPDX-License-Identifier: Apache-2.0
"""Documents of which a tool writes the part between two marks."""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.errors import OutputError


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces the text between two marks of a document.

    Raises:
        OutputError: The document cannot be read or written, or lacks the marks.
    """
    try:
        before, found, rest = path.read_text(encoding="utf-8").partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise OutputError(f"{path}: no lines {begin} and {end}")
        path.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error
