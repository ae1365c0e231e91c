# SPDX-License-Identifier: Apache-2.0
"""Partial results in files: evaluate anywhere, add up later.

A file is a zip archive, whose checksums reveal damage. It holds ``header.json`` (version, number
of pixels, the frames' own figures) and for each kind of pixels ``<kind>.index.npy`` and
``<kind>.pages``, the pages of :mod:`count_pages`. Equal pixels give equal bytes, however they were
collected. Nothing in it is code: no pickle.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.io.array_files import DAMAGED, read_stream
from anomaly_seg_ros.io.atomic import replacing
from anomaly_seg_ros.io.safe_yaml_json import parse_json
from anomaly_seg_ros.metrics.count_pages import INDEX, read_page, write_pages
from anomaly_seg_ros.metrics.exact_counts import (
    DEFAULT_MEMORY_LIMIT,
    HIGHEST_KEY,
    LOWEST_KEY,
    ExactCounts,
)
from anomaly_seg_ros.metrics.pixel_scores import FrameFigures, PixelScores
from anomaly_seg_ros.metrics.threshold_counts import CONVENTIONS

FORMAT = "anomaly_seg_ros pixel scores"
VERSION = 1

_KINDS = ("positives", "negatives")
# One date for all members, so that equal states give equal files.
_DATE = (2000, 1, 1, 0, 0, 0)


def save_state(pixels: PixelScores, path: str | Path) -> None:
    """Writes a collection to a file, a page at a time.

    Raises:
        OutputError: The file cannot be written; nothing half-written is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
            archive.writestr(zipfile.ZipInfo("header.json", _DATE), _header(pixels))
            for kind in _KINDS:
                _write_counts(archive, kind, getattr(pixels, kind))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def load_state(
    path: str | Path,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    spill_folder: str | Path | None = None,
) -> PixelScores:
    """Reads a collection.

    Args:
        path: A file that :func:`save_state` wrote.
        memory_limit: As for :class:`PixelScores`.
        spill_folder: As for :class:`PixelScores`.

    Raises:
        OutputError: The file cannot be read, is damaged or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, those of a state are not")
            header = parse_json(archive.read("header.json"), "its header", OutputError)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError("its header is not that of a state of pixel scores")
            if header.get("version") != VERSION:
                raise ValueError(
                    f"it has version {header.get('version')}, this program reads {VERSION}"
                )
            frames = header["frames"]
            pixels = PixelScores(memory_limit, spill_folder, per_image=frames is not None)
            if frames is not None:
                pixels.frames = [_restore(frame) for frame in frames]
            for kind in _KINDS:
                counts: ExactCounts = getattr(pixels, kind)
                _read_counts(archive, kind, counts)
                if counts.total != header[kind]:
                    raise ValueError(f"it holds {counts.total} {kind}, not {header[kind]}")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise OutputError(f"cannot read {path}: it is damaged ({error})") from error
    except (OutputError, *DAMAGED) as error:
        raise OutputError(f"cannot read {path}: {error}") from error
    return pixels


def _frames_to_json(frames: list[FrameFigures] | None) -> list[dict[str, Any]] | None:
    """Frames as JSON values, sorted, with null for NaN."""
    if frames is None:
        return None
    rows = [_plain(dataclasses.asdict(frame)) for frame in frames]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def _header(pixels: PixelScores) -> str:
    header = {
        "format": FORMAT,
        "version": VERSION,
        **{kind: getattr(pixels, kind).total for kind in _KINDS},
        "frames": _frames_to_json(pixels.frames),
    }
    return json.dumps(header, allow_nan=False, sort_keys=True)


def _write_counts(archive: zipfile.ZipFile, kind: str, counts: ExactCounts) -> None:
    member = zipfile.ZipInfo(f"{kind}.pages", _DATE)
    with archive.open(member, "w", force_zip64=True) as file:
        index = write_pages(counts.all_entries(), file)
    content = io.BytesIO()
    np.save(content, index, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{kind}.index.npy", _DATE), content.getvalue())


def _read_counts(archive: zipfile.ZipFile, kind: str, counts: ExactCounts) -> None:
    member = archive.getinfo(f"{kind}.index.npy")
    with archive.open(member) as file:
        index = read_stream(file, member.file_size)
    if index.dtype != INDEX or index.ndim != 1:
        raise ValueError(f"the index of its {kind} is damaged")
    # Non-finite numbers have the keys at both ends.
    pages = index["page"].astype(np.int64)
    if (np.diff(pages, prepend=(LOWEST_KEY >> 16) - 1, append=(HIGHEST_KEY >> 16) + 1) < 1).any():
        raise ValueError(f"the index of its {kind} is damaged")
    with archive.open(f"{kind}.pages") as file:
        for row in index.tolist():
            counts.add_page(row[0], *read_page(row, file))
        # zipfile compares the checksum once it has read to the end.
        if file.read(1):
            raise ValueError(f"there is more in it than its {kind}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _restore(row: dict[str, Any]) -> FrameFigures:
    def figure(value: Any) -> float:
        return float("nan") if value is None else float(value)

    if not isinstance(row, dict) or set(row.get("FPR95", ())) != set(CONVENTIONS):
        raise ValueError("the figures of a frame are damaged")
    return FrameFigures(
        str(row["name"]),
        int(row["positives"]),
        int(row["negatives"]),
        figure(row["AP"]),
        figure(row["AUROC"]),
        {name: figure(row["FPR95"][name]) for name in CONVENTIONS},
    )
