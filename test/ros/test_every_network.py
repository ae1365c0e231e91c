# SPDX-License-Identifier: Apache-2.0
"""Each network runs in the node from a parameter, uncalibrated as public files are."""

from __future__ import annotations

import numpy as np
import pytest
from detector_harness import array_of, street
from every_network import NETWORKS, SIZE, save_network

from anomaly_seg_ros.inference.segmenter import Segmenter

FRAME = street(*SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_node_publishes_what_the_segmenter_says(start_detector, tmp_path, name):
    path = save_network(name, tmp_path / "model.safetensors")
    segmenter = Segmenter.load(path)
    expected = segmenter.predict(FRAME, scores=("max_logit",))
    unit = segmenter.metadata.calibration_of("max_logit").to_unit(expected.scores["max_logit"])
    del segmenter  # the largest takes half a gigabyte, and the node has its own

    detector = start_detector(model=str(path), score_method="max_logit")
    detector.listen("labels", "ood_score")
    detector.wait_connected()
    detector.segment(FRAME, 1.5)
    labels = array_of(detector.wait_for("labels", 1.5))
    np.testing.assert_array_equal(labels, expected.labels)
    score = array_of(detector.wait_for("ood_score", 1.5))
    np.testing.assert_array_equal(score, unit)
    assert score.std() > 0
