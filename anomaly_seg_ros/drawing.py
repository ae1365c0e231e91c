# SPDX-License-Identifier: Apache-2.0
"""Draws pictures for people: class colours, overlay, heat map, masks, grids.

Pictures are ``(H, W, 3)`` uint8 RGB in C order; inputs may have any strides. Uses only OpenCV and
NumPy, fast enough for a live node.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError

# Farther from every Cityscapes colour than those are from each other, and rare on roads.
UNKNOWN_COLOUR = (0, 255, 255)
_OUTLINE_COLOUR = (255, 255, 255)
_UNKNOWN_OPACITY = 0.65
# Tinted image values inside unknown regions, 256 x 1 x RGB.
_UNKNOWN_TINT = (
    np.arange(256)[:, None, None] * (1 - _UNKNOWN_OPACITY)
    + np.array(UNKNOWN_COLOUR) * _UNKNOWN_OPACITY
).astype(np.uint8)

_KNOWN_GREY = (58, 58, 66)
_IGNORED_GREY = (0, 0, 0)

_INK = (32, 34, 40)
_PAPER = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

# Text of labels is drawn larger and then scaled down: OpenCV's own smoothing leaves it ragged.
_FINER = 4
_LABEL_BACK = (16, 20, 28)
_LABEL_OPACITY = 0.86

# 256 x RGB; perceptually uniform, so that equal steps of the score look equal.
_HEAT_COLOURS = cv2.applyColorMap(
    np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO
).reshape(256, 3)[:, ::-1]


def colourise(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paints each label in its palette colour.

    Args:
        labels: (H, W) uint8.
        palette: (K, 3) uint8 RGB, K <= 256; labels from K on (255 = unlabelled) become black.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: An array has another shape or type.
    """
    labels = _plane(labels, "labels", np.uint8)
    palette = np.asarray(palette)
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) > 256:
        raise ImageError(f"palette is {palette.shape}; it must be (K, 3) with K <= 256")
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = palette
    return cv2.LUT(cv2.merge([labels, labels, labels]), table)


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    alpha: float,
    unknown: np.ndarray | None = None,
) -> np.ndarray:
    """Blends class colours into the image; unknown regions are cyan with a white outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 trainIds.
        palette: (K, 3) uint8 RGB.
        alpha: Opacity of the class colours in [0, 1]; unknown regions do not depend on it.
        unknown: (H, W) bool or uint8, non-zero where the score reaches the threshold.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: Shapes or types do not match.
    """
    image = _picture(image, "image")
    colours = colourise(labels, palette)
    _same_size(image, colours, "image", "labels")
    blended = cv2.addWeighted(image, 1.0 - alpha, colours, alpha, 0.0)
    if unknown is not None:
        _mark_unknown(blended, image, unknown)
    return blended


def mark_objects(
    picture: np.ndarray,
    boxes: Sequence[tuple[int, int, int, int]],
    captions: Sequence[str],
) -> np.ndarray:
    """Draws the corners of a box around each object, with a caption above or below it.

    Captions keep clear of one another where there is room, and never leave the picture.

    Args:
        picture: (H, W, 3) uint8 RGB.
        boxes: (left, top, width, height) of each object in pixels; the first ones are drawn last
            and choose the place of their caption first.
        captions: One short line of ASCII each.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: The array is no picture.
    """
    canvas = _picture(picture, "picture").copy()
    unit = max(1.0, min(canvas.shape[:2]) / 512)
    for box in reversed(boxes):
        _corners(canvas, box, unit)
    taken: list[tuple[int, int, int, int]] = []
    for box, caption in zip(boxes, captions, strict=True):
        label, opacity = _label(caption, unit)
        place = _free_place(box, label.shape[:2], canvas.shape[:2], taken, round(8 * unit))
        taken.append((*place, *label.shape[:2]))
        _blend(canvas, label, opacity, place)
    return canvas


def heat_map(unit_score: np.ndarray) -> np.ndarray:
    """Paints an anomaly score from black (0) over red (0.5) to pale yellow (1).

    The range is fixed, so that colours mean the same in every frame. Values outside it are
    clipped; NaN is drawn as 1, because a fault must not look safe.

    Args:
        unit_score: (H, W) floating point, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: The score is not (H, W) floating point.
    """
    score = np.asarray(unit_score)
    if not np.issubdtype(score.dtype, np.floating):
        raise ImageError(f"score is {score.dtype}; it must be floating point")
    score = _plane(score.astype(np.float32), "score", np.float32)
    cv2.patchNaNs(score, 1.0)
    np.clip(score, 0.0, 1.0, out=score)
    return colourise(cv2.convertScaleAbs(score, alpha=255.0), _HEAT_COLOURS)


def anomaly_mask(mask: np.ndarray) -> np.ndarray:
    """Paints a ground-truth mask: in-distribution grey, anomaly cyan, everything else black.

    Args:
        mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: The mask is not (H, W) uint8.
    """
    mask = _plane(mask, "mask", np.uint8)
    palette = np.full((256, 3), _IGNORED_GREY, np.uint8)
    palette[0], palette[1] = _KNOWN_GREY, UNKNOWN_COLOUR
    return colourise(mask, palette)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Puts pictures of the same size side by side.

    Raises:
        ImageError: The sizes differ, or an array is no picture.
    """
    checked = [_picture(picture, "picture") for picture in pictures]
    for picture in checked[1:]:
        _same_size(checked[0], picture, "the first picture", "another")
    return np.hstack(checked)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    cell_width: int = 480,
    gap: int = 6,
) -> np.ndarray:
    """Arranges pictures in a table on white, with a title over each column.

    Args:
        rows: Rows of pictures, (H, W, 3) uint8 RGB of any size. Each is scaled to the cell's
            width; a row is as tall as its tallest picture. Short rows stay empty at the end.
        titles: Column titles; without any, no room is left for them.
        cell_width: Width of a column in pixels.
        gap: Space between cells and around them in pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: There is no picture, or one is not (H, W, 3) uint8.
    """
    scaled = [[fit_width(picture, cell_width) for picture in row] for row in rows if len(row)]
    if not scaled:
        raise ImageError("a grid needs at least one picture")
    columns = max(len(titles), max(len(row) for row in scaled))
    heights = [max(picture.shape[0] for picture in row) for row in scaled]
    title_height = 28 if titles else 0
    canvas = np.full(
        (
            title_height + gap + sum(height + gap for height in heights),
            gap + columns * (cell_width + gap),
            3,
        ),
        _PAPER,
        np.uint8,
    )
    for column, title in enumerate(titles):
        at = (gap + column * (cell_width + gap), 22)
        cv2.putText(canvas, title, at, _FONT, 0.55, _INK, 1, cv2.LINE_AA)
    top = title_height + gap
    for row, height in zip(scaled, heights, strict=True):
        for column, picture in enumerate(row):
            left = gap + column * (cell_width + gap)
            canvas[top : top + picture.shape[0], left : left + cell_width] = picture
        top += height + gap
    return canvas


def fit_width(picture: np.ndarray, width: int) -> np.ndarray:
    """Scales a picture to a width, keeping its shape.

    Args:
        picture: (H, W, 3) uint8 RGB.
        width: New width in pixels.

    Returns:
        (H', width, 3) uint8 RGB, H' at least 1.

    Raises:
        ImageError: The array is no picture.
    """
    picture = _picture(picture, "picture")
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method)


def _mark_unknown(canvas: np.ndarray, image: np.ndarray, unknown: np.ndarray) -> None:
    """Draws unknown regions into ``canvas``: tinted image inside, an outline around them.

    The outline is a dilation, not a contour search: its cost does not grow with the number of
    regions, and it lies outside them, so that an object of a few pixels stays visible.
    """
    inside = (np.asarray(unknown) != 0).view(np.uint8)
    inside = _plane(inside, "unknown mask", np.uint8)
    _same_size(canvas, inside, "image", "unknown mask")
    if not cv2.countNonZero(inside):
        return
    thickness = max(1, round(min(inside.shape) / 400))
    box = _grown_box(inside, thickness)
    canvas, image, inside = canvas[box], image[box], inside[box]
    outline = cv2.dilate(inside, np.ones((2 * thickness + 1,) * 2, np.uint8)) - inside
    cv2.copyTo(cv2.LUT(image, _UNKNOWN_TINT), inside, canvas)
    cv2.copyTo(np.full_like(image, _OUTLINE_COLOUR), outline, canvas)


def _grown_box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's non-zero pixels, with a margin around them."""
    left, top, width, height = cv2.boundingRect(mask)
    rows = slice(max(0, top - margin), top + height + margin)
    return rows, slice(max(0, left - margin), left + width + margin)


def _corners(canvas: np.ndarray, box: tuple[int, int, int, int], unit: float) -> None:
    """Draws four corners a little outside a box; a dark line below keeps them visible on white."""
    left, top, width, height = box
    gap, thin = round(5 * unit), max(2, round(2 * unit))
    # Inside the picture, so that an object at its edge has all four.
    x0, x1 = max(left - gap, thin), min(left + width - 1 + gap, canvas.shape[1] - 1 - thin)
    y0, y1 = max(top - gap, thin), min(top + height - 1 + gap, canvas.shape[0] - 1 - thin)
    arm = max(2 * gap, round(0.22 * min(x1 - x0, y1 - y0)))
    across, down = min(arm, (x1 - x0) // 2), min(arm, (y1 - y0) // 2)
    lines = [
        np.array([(x, y + sy * down), (x, y), (x + sx * across, y)], np.int32)
        for x, sx in ((x0, 1), (x1, -1))
        for y, sy in ((y0, 1), (y1, -1))
    ]
    cv2.polylines(canvas, lines, False, _LABEL_BACK, thin + 2, cv2.LINE_AA)
    cv2.polylines(canvas, lines, False, _OUTLINE_COLOUR, thin, cv2.LINE_AA)


def _label(text: str, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws a caption in a rounded box.

    Returns:
        (h, w, 3) uint8 RGB and its opacity (h, w) float32 in [0, 1].
    """
    scale, thick = 0.42 * unit * _FINER, max(1, round(1.1 * unit * _FINER))
    (width, height), base = cv2.getTextSize(text, _FONT, scale, thick)
    side, above = round(5 * unit * _FINER), round(4 * unit * _FINER)
    size = [
        -(-length // _FINER) * _FINER
        for length in (height + base // 2 + 2 * above, width + 2 * side)
    ]
    shape = np.zeros(size, np.uint8)
    round_off = round(4 * unit * _FINER)
    cv2.rectangle(shape, (round_off, 0), (size[1] - 1 - round_off, size[0] - 1), 255, -1)
    cv2.rectangle(shape, (0, round_off), (size[1] - 1, size[0] - 1 - round_off), 255, -1)
    for x in (round_off, size[1] - 1 - round_off):
        for y in (round_off, size[0] - 1 - round_off):
            cv2.circle(shape, (x, y), round_off, 255, -1)
    text_at = (side, above + height)
    drawn = np.full((*size, 3), _LABEL_BACK, np.uint8)
    cv2.putText(drawn, text, text_at, _FONT, scale, _OUTLINE_COLOUR, thick, cv2.LINE_AA)
    cv2.rectangle(drawn, (0, 0), (round(2.5 * unit * _FINER), size[0]), UNKNOWN_COLOUR, -1)
    solid = np.where(drawn.max(axis=2) > max(_LABEL_BACK), 1.0, _LABEL_OPACITY)
    small = (size[1] // _FINER, size[0] // _FINER)
    opacity = (solid * (shape / 255)).astype(np.float32)
    return (
        cv2.resize(drawn, small, interpolation=cv2.INTER_AREA),
        cv2.resize(opacity, small, interpolation=cv2.INTER_AREA),
    )


def _free_place(
    box: tuple[int, int, int, int],
    label: tuple[int, int],
    frame: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
    gap: int,
) -> tuple[int, int]:
    """(top, left) of a label of (height, width): above the box, else below, else beside it."""
    left, top, width, height = box
    tall, wide = label
    above, below = top - gap - tall, top + height + gap
    wished = [
        (above, left - gap // 2),
        (below, left - gap // 2),
        (top, left + width + gap),
        (top, left - gap - wide),
        (above, left + width + gap // 2 - wide),
        (above - tall - 2, left - gap // 2),
        (below + tall + 2, left - gap // 2),
    ]
    places = [
        (max(0, min(y, frame[0] - tall)), max(0, min(x, frame[1] - wide))) for y, x in wished
    ]

    def overlap(place: tuple[int, int]) -> int:
        y, x = place
        return sum(
            max(0, min(y + tall, ty + th) - max(y, ty))
            * max(0, min(x + wide, tx + tw) - max(x, tx))
            for ty, tx, th, tw in (*taken, (top, left, height, width))
        )

    return min(places, key=overlap)


def _blend(
    canvas: np.ndarray, label: np.ndarray, opacity: np.ndarray, place: tuple[int, int]
) -> None:
    """Lays a label over the canvas; what would leave it is cut off."""
    rows = slice(place[0], min(canvas.shape[0], place[0] + label.shape[0]))
    columns = slice(place[1], min(canvas.shape[1], place[1] + label.shape[1]))
    under = canvas[rows, columns]
    tall, wide = under.shape[:2]
    share = opacity[:tall, :wide, None]
    canvas[rows, columns] = np.rint(share * label[:tall, :wide] + (1 - share) * under)


def _plane(array: np.ndarray, what: str, dtype: type) -> np.ndarray:
    """Returns a non-empty (H, W) array of ``dtype`` in C order, as OpenCV needs it."""
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0 or array.dtype != dtype:
        raise ImageError(
            f"{what}: {array.shape} {array.dtype}; needs (H, W) {np.dtype(dtype)}, not empty"
        )
    return np.ascontiguousarray(array)


def _picture(array: np.ndarray, what: str) -> np.ndarray:
    """Returns a non-empty (H, W, 3) uint8 array in C order."""
    array = np.asarray(array)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0 or array.dtype != np.uint8:
        raise ImageError(f"{what}: {array.shape} {array.dtype}; needs (H, W, 3) uint8, not empty")
    return np.ascontiguousarray(array)


def _same_size(first: np.ndarray, second: np.ndarray, first_name: str, second_name: str) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise ImageError(
            f"{first_name} is {first.shape[:2]}, {second_name} is {second.shape[:2]} (H, W)"
        )
