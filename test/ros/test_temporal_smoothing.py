# SPDX-License-Identifier: Apache-2.0
"""temporal_smoothing: masks and labels follow the mean score, and nothing changes without it."""

from __future__ import annotations

import numpy as np
import pytest
from detector_harness import array_of, street

TOPICS = ("ood_score", "open_set_mask", "open_set_labels")
FIRST = street(64, 96)
SECOND = FIRST + np.uint8(5)  # brighter, but below what counts as motion
UNKNOWN = 5


@pytest.mark.ros
def test_every_output_follows_the_mean_score(start_detector):
    detector = start_detector()
    detector.listen(*TOPICS, "labels")
    detector.wait_connected()

    def answers(*frames: tuple[np.ndarray, float]) -> dict[str, np.ndarray]:
        for frame, seconds in frames:
            detector.segment(frame, seconds)
            found = {topic: array_of(detector.wait_for(topic, seconds)) for topic in TOPICS}
            found["labels"] = array_of(detector.wait_for("labels", seconds))
        return found

    first, second = answers((FIRST, 1.0)), answers((SECOND, 2.0))
    assert np.abs(second["ood_score"] - first["ood_score"]).max() > 0.01
    assert detector.set_parameters(temporal_smoothing=0.2) == (True, "")
    smoothed = answers((FIRST, 3.0), (SECOND, 3.1))
    weight = 1 - np.exp(-0.5)
    mean = first["ood_score"] + weight * (second["ood_score"] - first["ood_score"])
    np.testing.assert_allclose(smoothed["ood_score"], mean, atol=1e-5)
    unknown = smoothed["ood_score"] >= np.float32(0.5)
    assert (unknown != (second["ood_score"] >= 0.5)).any(), "the mean decides otherwise"
    np.testing.assert_array_equal(smoothed["open_set_mask"], unknown * 255)
    np.testing.assert_array_equal(smoothed["labels"], second["labels"])
    np.testing.assert_array_equal(
        smoothed["open_set_labels"], np.where(unknown, UNKNOWN, second["labels"])
    )
    assert detector.set_parameters(temporal_smoothing=0.0) == (True, "")
    plain = answers((FIRST, 4.0), (SECOND, 4.1))
    for topic, expected in second.items():
        np.testing.assert_array_equal(plain[topic], expected)
