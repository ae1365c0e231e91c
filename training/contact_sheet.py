# SPDX-License-Identifier: Apache-2.0
"""Draw objects before and after style alignment, in the frames that they would be pasted into.

    python -m training.contact_sheet --out out/sheet.png

Each row shows one object: the frame with the location, then for each style the object cut out and,
below it, pasted with a hard edge. Frames and objects are those of a fine-tuning's data block. The
style "learned" needs its weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros.drawing import UNKNOWN_COLOUR, grid
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import Corpus, TrainingData
from training.data.mixing.mixer import objects_of
from training.data.mixing.paste import blend, fit_to_box
from training.data.mixing.placement import Box, Ground, PlacementOptions, place
from training.data.negatives import JoinedObjects, NegativeObject, ObjectSource
from training.data.style import STYLES, StyleAlignment, build_style
from training.engine.config import CONFIGS, add_config_options, load_config
from training.engine.entry import data_folder
from training.engine.run_log import save_picture
from training.engine.storage import make_folder

TOOL = "contact_sheet"
_CELL = 220
_DEFAULT = ("none", "lab_moments", "lab_histogram", "fourier")
_GREY = 128
# Close and large enough to judge by eye; training also pastes small, distant objects.
_PLACEMENT = PlacementOptions(on_ground=1.0, by_distance=0.0, object_height=(1.0, 2.5))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--styles", nargs="+", default=_DEFAULT, choices=STYLES)
    parser.add_argument("--objects", type=int, default=8, help="number of rows")
    parser.add_argument("--seed", type=int, default=0)
    add_config_options(parser)
    arguments = parser.parse_args(argv)

    def body() -> None:
        if arguments.objects < 1:
            raise ParameterError(f"--objects: expected 1 or more, got {arguments.objects}")
        path, changes, folder = arguments.config, arguments.set, arguments.data
        config = load_config(CONFIGS / "fine_tune.yaml", path, changes, folder)
        data = TrainingData(config["data"], folder)
        styles = {name: build_style(name) for name in arguments.styles}
        objects = JoinedObjects(objects_of(data, held_out=False, known="exclude"))
        ground = data.taxonomy.ids_of("ground")
        picture = contact_sheet(
            objects, data.train, ground, styles, arguments.objects, arguments.seed
        )
        make_folder(arguments.out.parent)
        save_picture(arguments.out, picture)
        print(f"written: {arguments.out}")

    return run_tool(TOOL, body)


def contact_sheet(
    objects: ObjectSource,
    corpora: Sequence[Corpus],
    ground: Sequence[int],
    styles: Mapping[str, StyleAlignment | None],
    rows: int,
    seed: int = 0,
) -> np.ndarray:
    """Draws the sheet.

    Args:
        objects: Source of the objects, which are drawn without repetition.
        corpora: Frames to paste into, each equally often.
        ground: Labels to stand on.
        styles: Styles by column title; None leaves the object unchanged.
        rows: Number of objects.
        seed: Seed for choosing objects, frames and locations, and for the styles.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: An unreadable image.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(objects))[:rows]
    table = []
    frames = [(corpus, position) for corpus in corpora for position in range(len(corpus))]
    for row, index in enumerate(chosen):
        corpus, position = frames[int(rng.integers(len(frames)))]
        image, labels = corpus.load(position)
        item, standing = objects[int(index)], Ground(labels, ground)
        box, _ = place(item.mask.shape, standing, _PLACEMENT, rng, corpus.squeeze(position))
        table.append(_row(item, image, labels, box, styles, [seed, row]))
    return grid(table, ["frame", *styles], _CELL)


def _row(
    item: NegativeObject,
    frame: np.ndarray,
    labels: np.ndarray,
    box: Box,
    styles: Mapping[str, StyleAlignment | None],
    style_seed: list[int],
) -> list[np.ndarray]:
    colours, coverage = fit_to_box(item.image, item.mask, box, mirror=False)
    inside = coverage >= 0.5
    cells = [np.vstack([_square(_mark(frame, box)), _square(_around(frame, box))])]
    for style in styles.values():
        aligned = colours
        if style is not None and inside.any():
            aligned = style(colours, inside, frame, np.random.default_rng(style_seed))
        mixed, target = frame.copy(), labels.copy()
        blend(mixed, target, aligned, inside.astype(np.float32), box, 255, 255)
        cut_out = np.where(inside[..., None], aligned, np.uint8(_GREY))
        cells.append(np.vstack([_square(cut_out), _square(_around(mixed, box))]))
    return cells


def _mark(frame: np.ndarray, box: Box) -> np.ndarray:
    """Returns a copy of the frame with the box outlined, visible at the size of a cell."""
    corners = (box.left, box.top), (box.left + box.width, box.top + box.height)
    return cv2.rectangle(frame.copy(), *corners, UNKNOWN_COLOUR, max(1, frame.shape[1] // 200))


def _around(frame: np.ndarray, box: Box) -> np.ndarray:
    """Crops a square around a box, up to twice its longer side."""
    side = min(2 * max(box.height, box.width), *frame.shape[:2])
    top = min(max(0, box.top + (box.height - side) // 2), frame.shape[0] - side)
    left = min(max(0, box.left + (box.width - side) // 2), frame.shape[1] - side)
    return frame[top : top + side, left : left + side]


def _square(picture: np.ndarray) -> np.ndarray:
    """Fits a picture into a square grey cell."""
    scale = _CELL / max(picture.shape[:2])
    size = tuple(max(1, round(scale * n)) for n in picture.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    cell = np.full((_CELL, _CELL, 3), _GREY, np.uint8)
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(
        picture, size, interpolation=method
    )
    return cell


if __name__ == "__main__":
    sys.exit(main())
