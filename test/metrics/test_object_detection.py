# SPDX-License-Identifier: Apache-2.0
"""Found objects and false alarms against the component metrics and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.metrics.components import MinimumSizes, compare_components
from anomaly_seg_ros.metrics.object_detection import DetectionCounts, ObjectDetections
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects

RULE = ObjectRule(low_threshold=0.5, min_area=5, limit=10_000)


def blobs(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((16, 24)).astype(np.float32)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)


@pytest.mark.parametrize("min_target", [1, 40])
def test_agrees_with_the_component_metrics_at_every_score(min_target: int) -> None:
    """Which form components of their own from the objects that are kept."""
    frames = [(blobs(2 * i), (blobs(2 * i + 1) > 0.75).astype(np.uint8)) for i in range(4)]
    found = ObjectDetections(min_target)
    for score, mask in frames:
        found.update(find_objects(score, RULE), mask)
    for cut in (0.0, 0.6, 0.65, 0.7):
        expected = np.zeros(4, int)
        for score, mask in frames:
            kept = np.zeros(mask.shape, bool)
            for unknown in find_objects(score, RULE):
                if unknown.score >= cut:
                    kept[unknown.box.slices] |= unknown.mask
            frame = compare_components(
                mask == 1, np.zeros_like(kept), kept, MinimumSizes(1, min_target)
            )
            hits, alarms = (frame.siou >= 0.25).sum(), (frame.ppv < 0.25).sum()
            expected += [hits, frame.siou.size, alarms, 1]
        assert found.at(cut) == tuple(expected), cut
        assert expected.all()


def test_pixels_without_a_label_count_for_nobody() -> None:
    score, mask = np.zeros((20, 40), np.float32), np.zeros((20, 40), np.uint8)
    score[2:6, 2:6] = 0.6  # on ignored pixels alone: neither found nor false
    mask[0:8, 0:8] = 255
    score[2:12, 14:24] = 0.7  # 100 pixels, 50 ignored, 20 on the target: PPV 0.4, sIoU 0.4
    mask[2:7, 14:24], mask[7:9, 14:24] = 255, 1
    score[14:18, 30:34] = 0.8  # a false alarm
    found = ObjectDetections()
    found.update(find_objects(score, RULE), mask)
    assert found.at(0.0) == DetectionCounts(found=1, targets=1, false_alarms=1, frames=1)
    assert found.at(0.75) == DetectionCounts(found=0, targets=1, false_alarms=1, frames=1)
    np.testing.assert_allclose(found.false_alarm_scores(), [0.8], atol=1e-6)
    # Too small to count, it is ignored like the pixels without a label.
    found = ObjectDetections(min_target=21)
    found.update(find_objects(score, RULE), mask)
    assert found.at(0.0) == DetectionCounts(found=0, targets=0, false_alarms=2, frames=1)


def test_frames_add_up() -> None:
    parts = [ObjectDetections(), ObjectDetections()]
    for part, seed in zip(parts, (0, 2), strict=True):
        part.update(find_objects(blobs(seed), RULE), (blobs(seed + 1) > 0.75).astype(np.uint8))
    counts = [part.at(0.6) for part in parts]
    parts[0].merge(parts[1])
    assert parts[0].at(0.6) == tuple(map(sum, zip(*counts, strict=True)))
    parts[0].update([], np.zeros((4, 4), np.uint8))
    assert parts[0].at(0.6).frames == 3
    with pytest.raises(ValueError, match="cannot merge"):
        parts[0].merge(ObjectDetections(7))


def test_the_state_restores_every_count() -> None:
    empty = ObjectDetections(3)
    found = ObjectDetections(3)
    found.update([], np.zeros((64, 96), np.uint8))
    for seed in (0, 2, 4):
        found.update(find_objects(blobs(seed), RULE), (blobs(seed + 1) > 0.75).astype(np.uint8))
    for part in (found, empty):
        restored = ObjectDetections.from_state(part.state())
        for cut in (0.0, 0.6, 0.7):
            assert restored.at(cut) == part.at(cut)
        restored.merge(found)
        assert restored.at(0.6).frames == part.at(0.6).frames + 4


def test_objects_of_another_frame_are_refused() -> None:
    objects = find_objects(np.ones((20, 30), np.float32), RULE)
    with pytest.raises(ImageError, match=r"an object at \(0, 0, 30, 20\) in a mask of \(10, 30\)"):
        ObjectDetections().update(objects, np.zeros((10, 30), np.uint8))
