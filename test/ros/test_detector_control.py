# SPDX-License-Identifier: Apache-2.0
"""What operators do to a running node: transitions, ~/enable and parameters, over real DDS."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from detector_harness import array_of, street
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically

from anomaly_seg_ros.ros import device_loss
from anomaly_seg_ros.ros.model import MemoryFallback

pytestmark = pytest.mark.ros

FRAME = street(48, 80)  # not square, and not the network's 64 x 96


# Lifecycle and ~/enable.


def test_lifecycle_without_autostart(start_detector):
    detector = start_detector(wait_active=False, autostart=False)
    detector.listen("labels")
    assert detector.state() == "unconfigured"
    for round_trip in (1.0, 2.0):
        for transition, state in [("configure", "inactive"), ("activate", "active")]:
            assert detector.change_state(transition)
            assert detector.state() == state
        detector.wait_connected()
        detector.segment(FRAME, round_trip)
        detector.wait_for("labels", round_trip)
        assert detector.change_state("deactivate")
        detector.spin_until(lambda: not detector.images.get_subscription_count())
        assert detector.change_state("cleanup")
        detector.spin_until(lambda: not detector.count_publishers("/detector/labels"))
        assert detector.node._segmenter is None
    assert detector.state() == "unconfigured"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": "/nowhere/model.safetensors"}, "/nowhere/model.safetensors"),
        ({"device": "cuda:97"}, "cuda:97"),
        ({"device": "abacus"}, "abacus"),
        ({"inference_height": 64}, "'inference_height' and 'inference_width'"),
        ({"inference_height": 63, "inference_width": 96}, "63"),
        ({"score_method": "dense_hybrid"}, "no 'dense_hybrid'"),
        ({"tile_height": 0}, "'tile_height' and 'tile_width'"),
        (
            {"inference_mode": "full", "inference_height": 64, "inference_width": 96},
            "mode 'full' keeps the frame's own size",
        ),
        (
            {"inference_mode": "tiled", "tile_height": 100, "tile_width": 96},
            "tile size 100 x 96",
        ),
    ],
)
def test_failed_configure_leaves_the_node_alive(start_detector, parameters, words):
    detector = start_detector(wait_active=False, **parameters)
    values = detector.wait_for_diagnostic("model", "message", "configure failed: ")
    assert words in values["message"]
    assert values["level"] == 2
    assert detector.state() == "unconfigured"


def test_failed_configure_frees_the_memory(start_detector, monkeypatch):
    """What torch keeps for later can only be given back when nothing holds the model."""
    models, freed = [], []

    def fail(self, *arguments):
        models.append(weakref.ref(self.segmenter))
        raise RuntimeError("the first frame failed")

    monkeypatch.setattr(MemoryFallback, "warm_up", fail)
    monkeypatch.setattr(
        device_loss, "free_cache", lambda: freed.append([model() is None for model in models])
    )
    detector = start_detector(wait_active=False)
    detector.wait_for_diagnostic("model", "message", "configure failed: RuntimeError: the first")
    assert freed[0] == [True]


def test_what_the_first_frames_show_of_the_backend_is_told(start_detector, capfd):
    detector = start_detector()
    assert "note 1" not in detector.wait_for_diagnostic("model", "message", "active")
    detector.node._segmenter._runner.notes.append("cuda_graphs: no graph at 48 x 80")
    detector.wait_for_diagnostic("model", "note 1", "cuda_graphs: no graph")
    logged = []
    detector.spin_until(
        lambda: logged.append("".join(capfd.readouterr())) or "no graph" in "".join(logged),
        "the note is logged",
    )
    detector.spin_for(0.5)
    logged.append("".join(capfd.readouterr()))
    assert "".join(logged).count("no graph at 48 x 80") == 1


def test_configure_succeeds_after_the_model_is_corrected(start_detector, tiny_model):
    detector = start_detector(wait_active=False, model="/nowhere")
    detector.wait_for_diagnostic("model", "message", "configure failed: ")
    assert detector.set_parameters(model=str(tiny_model)) == (True, "")
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.wait_for_diagnostic("model", "message", "active")


def test_enable(start_detector):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    assert detector.enable(False) == "disabled, active"
    detector.spin_until(lambda: not detector.images.get_subscription_count())
    assert detector.wait_for_diagnostic("model", "enabled", "False")["message"].endswith(
        "disabled"
    )
    assert detector.enable(True) == "enabled, active"
    detector.wait_connected()
    detector.segment(FRAME, 1.0)
    detector.wait_for("labels", 1.0)


def test_enable_is_remembered_while_inactive(start_detector):
    detector = start_detector(wait_active=False, autostart=False)
    assert detector.enable(False) == "disabled, unconfigured"
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.spin_for(0.3)
    assert detector.images.get_subscription_count() == 0


def test_impossible_transitions_are_refused(start_detector):
    detector = start_detector()
    for transition in ("activate", "configure", "cleanup"):
        assert not detector.change_state(transition)
    assert detector.state() == "active"


# Parameters.


@pytest.fixture
def active_detector(start_detector):
    """A detector for this test alone: two of one name in one graph would answer for each other."""
    return start_detector()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": True}, "of type float, not bool"),
        ({"overlay_alpha": -0.1}, "overlay_alpha"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"max_rate": "fast"}, "of type float, not str"),
        ({"score_method": "magic"}, "'score_method' must be one of auto, msp"),
        ({"score_method": "sml"}, "model 'tiny' has no 'sml'"),
        ({"score_method": "dense_hybrid"}, "model 'tiny' has no 'dense_hybrid'"),
        ({"score_method": "max_min_logit", "target_tpr": 0.9}, "calibration on unknown objects"),
        ({"target_tpr": 0.999}, "target_tpr"),
        ({"model": "default"}, "clean up the node first"),
        ({"device": "cpu"}, "while the node is active"),
        ({"image_transport": "compressed"}, "deactivate the node first"),
        ({"threshold": 0.2, "jpeg_quality": 0}, "jpeg_quality"),
    ],
)
def test_changes_refused_while_active(active_detector, change, words):
    detector = active_detector
    before = {name: detector.get_parameter_of_detector(name) for name in change}
    accepted, reason = detector.set_parameters(**change)
    assert not accepted
    assert words in reason
    assert {name: detector.get_parameter_of_detector(name) for name in change} == before


def test_changes_between_frames(start_detector, segmenter):
    detector = start_detector()
    detector.listen("ood_score", "open_set_mask")
    detector.wait_connected()
    raw = segmenter.predict(FRAME, scores=("entropy",)).scores["entropy"]
    calibration = segmenter.metadata.calibration["entropy"]
    score = calibration.to_unit(raw)
    steps = [
        ({"score_method": "entropy", "threshold": 0.4}, 0.4),
        ({"target_tpr": 0.9}, calibration.threshold_for_tpr(0.9)),
        ({"target_tpr": 0.0}, 0.4),
        ({"threshold": 0.0}, 0.0),
    ]
    for seconds, (change, threshold) in enumerate(steps):
        assert detector.set_parameters(**change) == (True, "")
        detector.segment(FRAME, float(seconds))
        np.testing.assert_array_equal(
            array_of(detector.wait_for("ood_score", float(seconds))), score
        )
        mask = array_of(detector.wait_for("open_set_mask", float(seconds)))
        np.testing.assert_array_equal(mask != 0, score >= np.float32(threshold))
        detector.wait_for_diagnostic("model", "threshold", f"{threshold:.6g}")


def test_input_parameters_change_while_inactive(start_detector):
    detector = start_detector()
    assert detector.change_state("deactivate")
    accepted, _ = detector.set_parameters(qos_reliability="reliable", qos_depth=3)
    assert accepted
    refused, reason = detector.set_parameters(model="erfnet")
    assert not refused
    assert "while the node is inactive" in reason
    assert detector.change_state("activate")

    def reliabilities() -> list[str]:
        found = detector.get_subscriptions_info_by_topic("/image")
        return [subscriber.qos_profile.reliability.name for subscriber in found]

    # The subscriber from before the deactivation may linger in the graph for a moment.
    detector.spin_until(lambda: reliabilities() == ["RELIABLE"], "one reliable subscriber")


def test_tools_can_describe_parameters(active_detector):
    descriptor = active_detector.describe("threshold")
    (limits,) = descriptor.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    assert "unknown" in descriptor.description


def test_parameters_of_no_known_type_or_no_name_are_refused(active_detector):
    detector = active_detector
    odd = ParameterMessage(name="threshold", value=ParameterValue(type=77))
    request = SetParametersAtomically.Request(parameters=[odd])
    result = detector.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert not result.successful
    assert "77" in result.reason
    results = detector.call(
        SetParameters, "set_parameters", SetParameters.Request(parameters=[odd, odd])
    ).results
    assert [answer.successful for answer in results] == [False, False]
    nameless = ParameterMessage(value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE))
    request = SetParametersAtomically.Request(parameters=[nameless])
    result = detector.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert not result.successful
    assert "without a name" in result.reason
    assert detector.set_parameters(threshold=0.25) == (True, "")
