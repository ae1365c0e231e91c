"""JSON files of annotations: their content, or an error that says what is wrong with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import DatasetError, first_line

# zip, gzip, xz and bzip2.
_PACKED = (b"PK", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")


def read_annotations(path: Path, lenient: bool = False) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        lenient: Put a replacement character where a text is not UTF-8.

    Raises:
        DatasetError: Not found, not readable, packed, cut short or not JSON; names the file.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except MemoryError:
        raise DatasetError(f"{path}: does not fit into memory") from None
    if data.startswith(_PACKED):
        raise DatasetError(f"{path}: a packed file and not JSON; unpack it")
    try:
        text = data.decode("utf-8-sig", "replace" if lenient else "strict")
        return json.loads(text)
    except json.JSONDecodeError as error:
        ends_there = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        reason = "; the file ends too early: it was cut short" if ends_there else ""
        raise DatasetError(f"{path}: not JSON ({error}){reason}") from error
    except RecursionError:
        raise DatasetError(f"{path}: not JSON (nested too deeply)") from None
    except (ValueError, MemoryError) as error:  # not UTF-8; a number of thousands of digits
        raise DatasetError(f"{path}: not JSON ({first_line(error)})") from error
