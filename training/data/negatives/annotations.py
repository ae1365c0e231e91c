# SPDX-License-Identifier: Apache-2.0
"""What a data set of annotated images offers to the selection, and a reader of JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anomaly_seg_ros.errors import DatasetError, first_line
from training.data.negatives.quality import Instance

# Signatures of zip, gzip, xz and bzip2.
_PACKED = (b"PK", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")


@dataclass(frozen=True)
class AnnotatedImage:
    """Annotations of one image.

    Attributes:
        path: Path relative to the image folder.
        size: (height, width) of the annotated image.
        categories: Class names of the instances.
        instance: Decodes the k-th instance.
    """

    path: str
    size: tuple[int, int]
    categories: tuple[str, ...]
    instance: Callable[[int], Instance]


@dataclass(frozen=True)
class Unusable:
    """An annotation without a valid image or category.

    Attributes:
        rule: Reason for leaving it out.
        name: Name of the annotation.
    """

    rule: str
    name: str


class Annotations(Protocol):
    """Annotations of a data set; image ``i`` is a pure function of ``i``."""

    def __len__(self) -> int:
        """Number of images, or of files with images."""
        ...

    def read(self, index: int) -> Iterator[AnnotatedImage | Unusable]:
        """Reads the annotations of an image."""
        ...


def read_annotations(path: Path, lenient: bool = False) -> Any:
    """Reads a JSON file of annotations.

    Args:
        path: The file.
        lenient: Use replacement characters for text that is not UTF-8.

    Raises:
        DatasetError: The file is missing, unreadable, compressed, truncated or not JSON; the
            message names it.
    """
    return parse_annotations(read_file(path), path, lenient)


def read_file(path: Path) -> bytes:
    """Reads a file that may be too large or packed.

    Raises:
        DatasetError: The file is missing, unreadable or compressed.
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
    return data


def parse_annotations(data: bytes, path: Path, lenient: bool = False) -> Any:
    """Parses the content of a file, see :func:`read_annotations`.

    Raises:
        DatasetError: It is not JSON, is nested too deeply, or ends too early.
    """
    try:
        text = data.decode("utf-8-sig", "replace" if lenient else "strict")
        return json.loads(text)
    except json.JSONDecodeError as error:
        ends_there = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        reason = "; the file ends too early: it was cut short" if ends_there else ""
        raise DatasetError(f"{path}: not JSON ({error}){reason}") from error
    except RecursionError:
        raise DatasetError(f"{path}: not JSON (nested too deeply)") from None
    except (ValueError, MemoryError) as error:  # not UTF-8, or a number with thousands of digits
        raise DatasetError(f"{path}: not JSON ({first_line(error)})") from error
