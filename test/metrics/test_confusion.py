# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix, IoU and accuracy against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix

K = 5


def labels(seed: int, size: tuple[int, int] = (30, 40), ignore: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, K, size).astype(np.uint8)
    picture[rng.random(size) < ignore] = 255
    return picture


def filled(*pairs: tuple[np.ndarray, np.ndarray]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(K)
    for target, prediction in pairs:
        matrix.update(target, prediction)
    return matrix


def test_agrees_with_scikit_learn() -> None:
    target, prediction = labels(1), labels(2, ignore=0)
    matrix = filled((target, prediction))
    valid = target != 255
    truth, answer = target[valid], prediction[valid]
    np.testing.assert_array_equal(matrix.counts[:, :K], confusion_matrix(truth, answer))
    np.testing.assert_allclose(
        matrix.iou(), jaccard_score(truth, answer, average=None), rtol=0, atol=1e-12
    )
    assert matrix.mean_iou() == pytest.approx(jaccard_score(truth, answer, average="macro"))
    assert matrix.pixel_accuracy() == pytest.approx(np.mean(truth == answer))


def test_a_prediction_that_is_no_class_is_wrong() -> None:
    target = np.array([[0, 0, 1, 1]], np.uint8)
    prediction = np.array([[0, 255, 1, K]], np.uint8)
    matrix = filled((target, prediction))
    assert matrix.pixel_accuracy() == 0.5
    np.testing.assert_allclose(matrix.iou()[:2], [0.5, 0.5])


def test_classes_absent_from_the_ground_truth_are_left_out_of_the_mean() -> None:
    target = np.array([[0, 0, 1, 255]], np.uint8)
    prediction = np.array([[0, 2, 1, 3]], np.uint8)
    iou = filled((target, prediction)).iou()
    np.testing.assert_array_equal(np.isnan(iou), [False, False, True, True, True])
    assert filled((target, prediction)).mean_iou() == pytest.approx((0.5 + 1.0) / 2)


def test_merging_equals_one_pass() -> None:
    pairs = [(labels(seed), labels(seed + 10)) for seed in range(4)]
    whole, left, right = filled(*pairs), filled(*pairs[:1]), filled(*pairs[1:])
    left.merge(right)
    np.testing.assert_array_equal(left.counts, whole.counts)


def test_any_integer_type_and_stride() -> None:
    target, prediction = labels(3), labels(4)
    expected = filled((target, prediction)).counts
    signed = target.astype(np.int64)
    signed[signed == 255] = -1
    got = filled((np.asfortranarray(signed), prediction.astype(np.int32))).counts
    np.testing.assert_array_equal(got, expected)


def test_nothing_labelled_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    matrix = filled((np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8)))
    assert np.isnan(matrix.mean_iou())
    assert np.isnan(matrix.pixel_accuracy())
    assert not recwarn.list


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ImageError, match=r"frame 'a': target is \(30, 40\)"):
        filled().update(labels(1), labels(1)[:-1], name="a")
    with pytest.raises(ValueError, match="cannot merge"):
        filled().merge(ConfusionMatrix(K + 1))
