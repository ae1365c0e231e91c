# SPDX-License-Identifier: Apache-2.0
"""Which frames the reports show, and which part of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_runs import a_plan

from anomaly_seg_ros.drawing import UNKNOWN_COLOUR
from anomaly_seg_ros.errors import ImageError, OutputError
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.pictures import (
    FALSE_ALARMS,
    FINDS,
    MISSES,
    MOST_FLAGGED,
    FramePictures,
    WorstFrames,
    largest_component,
    pictures_folder,
    read_pictures,
    window_around,
)
from anomaly_seg_ros.evaluation.run import run_plan
from anomaly_seg_ros.objects.regions import Box, UnknownObject

HEIGHT, WIDTH = 60, 120
PALETTE = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)


def test_the_best_and_the_worst_images(tmp_path: Path, model: Path, obstacles: Path) -> None:
    benchmark = run_plan(a_plan(tmp_path, model, obstacles))
    counts = ImageCounts.load(tmp_path / "images" / "tiny__obstacles.npz")
    # max_logit is the tiny model's default; the fifth image has no anomaly and no AP.
    ap = counts.per_image("max_logit")["AP"][:4]
    order = np.argsort(-ap)
    ((key, pictures),) = read_pictures(benchmark, tmp_path).items()
    assert key == ("tiny", "obstacles")
    assert [caption.partition(":")[0] for caption, _ in pictures] == [
        f"f{order[place]}" for place in (0, 2, 3)
    ]
    assert f"max_logit, AP {100 * ap[order[0]]:.1f} %" in pictures[0][0]
    for _, content in pictures:
        strip = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert strip.shape[1] >= 4 * 320
        assert strip.std() > 10
    next(pictures_folder(tmp_path, *key).glob("0001.png")).unlink()
    with pytest.raises(OutputError, match="tiny__obstacles"):
        read_pictures(benchmark, tmp_path)


def show(
    frames: list[tuple[str, np.ndarray, np.ndarray | None]], keep: int = 2
) -> list[FramePictures]:
    worst = WorstFrames(0.5, PALETTE, keep=keep)
    image = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, score, mask in frames:
        worst.consider(name, image, labels, score, mask)
    return worst.pictures()


def scene(flagged: int, missed: int, found: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A score and a mask with so many false alarms, missed and found pixels."""
    score, mask = np.zeros(HEIGHT * WIDTH, np.float32), np.zeros(HEIGHT * WIDTH, np.uint8)
    score[:flagged] = 0.5
    mask[flagged : flagged + missed + found] = 1
    score[flagged + missed : flagged + missed + found] = 0.9
    mask[-100:], score[-100:] = 255, 1.0
    return score.reshape(HEIGHT, WIDTH), mask.reshape(HEIGHT, WIDTH)


def test_shows_the_best_detections_by_iou_first() -> None:
    amounts = {"a": (0, 50, 50), "b": (10, 0, 90), "c": (0, 10, 0)}
    rows = show([(name, *scene(*amount)) for name, amount in amounts.items()])
    finds = [row for row in rows if row.reason == FINDS]
    assert rows[: len(finds)] == finds
    assert [row.name for row in finds] == ["b", "a"]
    assert finds[0].figure == "90 of 90 anomalous pixels found, IoU 90%"


def test_keeps_the_worst_of_both_kinds_in_order() -> None:
    amounts = {"a": (5, 40), "b": (90, 0), "c": (50, 10), "d": (70, 90), "e": (0, 60)}
    rows = show([(name, *scene(*amount)) for name, amount in amounts.items()])
    assert [(row.reason, row.name) for row in rows] == [
        (FALSE_ALARMS, "b"),
        (FALSE_ALARMS, "d"),
        (MISSES, "d"),
        (MISSES, "e"),
    ]


def test_says_how_much_is_wrong() -> None:
    alarms, misses = show([("a", *scene(71, 30, found=10))])[1:]
    assert alarms.figure.startswith("71 in-distribution pixels flagged (1.0 %)")
    assert misses.figure.startswith("30 anomalous pixels missed (75.0 %)")


def test_a_frame_without_fault_is_only_a_detection() -> None:
    assert [row.reason for row in show([("a", *scene(0, 0, found=50))])] == [FINDS]
    assert show([("a", *scene(0, 0))]) == []


def test_equally_bad_frames_come_in_their_order() -> None:
    rows = show([(name, *scene(8, 0)) for name in "abcd"])
    assert [row.name for row in rows] == ["a", "b"]


def test_without_ground_truth_shows_the_most_flagged() -> None:
    frames = [(name, scene(count, 0)[0], None) for name, count in (("a", 9), ("b", 900))]
    rows = show(frames, keep=1)
    assert [(row.reason, row.name, row.mask) for row in rows] == [(MOST_FLAGGED, "b", None)]


def test_a_miss_is_enlarged_around_its_largest_object() -> None:
    score, mask = np.zeros((HEIGHT, WIDTH), np.float32), np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10, 10] = 1
    mask[40:44, 80:86] = 1
    (row,) = show([("a", score, mask)])
    shown = (row.mask == UNKNOWN_COLOUR).all(2).mean()
    # Four times enlarged in both directions, less the blended pixels of its border.
    assert shown > 8 * (mask == 1).mean()
    assert row.image.shape == row.overlay.shape == row.heat_map.shape == row.mask.shape


def test_objects_are_drawn_with_their_scores_where_they_are_shown() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
    labels, score = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.float32)
    box = Box(60, 20, 12, 8)
    score[box.slices] = 0.9
    found = UnknownObject(box, 96, 0.9, 0.9, np.ones((8, 12), bool))
    outside = UnknownObject(Box(0, 50, 9, 9), 81, 0.6, 0.6, np.ones((9, 9), bool))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[22, 90:94] = 1  # missed
    rows = []
    for objects in ([], [found, outside]):
        worst = WorstFrames(0.5, PALETTE)
        worst.consider("a", image, labels, score, mask, objects)
        rows.append({row.reason: row.overlay.astype(int) for row in worst.pictures()})
    changed = {
        reason: np.abs(overlay - rows[0][reason]).max(axis=2) > 9
        for reason, overlay in rows[1].items()
    }
    scale = 640 / WIDTH
    whole = changed[FALSE_ALARMS]
    corner = round(scale * box.top) - 5, round(scale * box.left) - 5
    assert whole[corner[0] : corner[0] + 2, corner[1] : corner[1] + 8].all()
    assert whole[round(scale * 48) :, : round(scale * 14)].any(), "the other one"
    inside = whole[round(scale * 22) : round(scale * 26), round(scale * 63) : round(scale * 69)]
    assert not inside.any()
    # The enlarged miss shows neither wholly.
    assert not changed[MISSES].any()


def test_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ImageError, match="frame 'a'"):
        show([("a", scene(1, 1)[0], np.zeros((3, 3), np.uint8))])


def test_largest_component_joins_diagonal_neighbours() -> None:
    pixels = np.zeros((9, 9), bool)
    pixels[0, 5:8] = True
    pixels[[3, 4, 5, 6], [1, 2, 3, 4]] = True
    assert largest_component(pixels) == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((60, 30, 1, 1), slice(22, 38), slice(45, 75)),
        ((0, 0, 1, 1), slice(0, 15), slice(0, 30)),
        ((119, 59, 1, 1), slice(45, 60), slice(90, 120)),
        ((5, 20, 100, 10), slice(0, 60), slice(0, 120)),
    ],
)
def test_window_stays_inside_and_keeps_the_frames_shape(box, rows, columns) -> None:
    window = window_around(box, (HEIGHT, WIDTH))
    left, top, width, height = box
    assert window[0].start <= top
    assert window[0].stop >= top + height
    assert window[1].start <= left
    assert window[1].stop >= left + width
    assert 0 <= window[0].start < window[0].stop <= HEIGHT
    assert 0 <= window[1].start < window[1].stop <= WIDTH
    assert (window[0].stop - window[0].start) * 2 == window[1].stop - window[1].start
    assert abs(window[0].start - rows.start) <= 1
    assert abs(window[1].start - columns.start) <= 1
