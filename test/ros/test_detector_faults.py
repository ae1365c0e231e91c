# SPDX-License-Identifier: Apache-2.0
"""The running node when its device fails or its network hangs, and what it leaves behind."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detector_harness import DetectorHarness, array_of, street

from anomaly_seg_ros.inference.options import TILED
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.counters import OUTCOMES

pytestmark = pytest.mark.ros

FRAME = street(48, 80)
LARGE = street(256, 384)
LAUNCH_FAILURE = "CUDA error: unspecified launch failure"
AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)


class Device:
    """Stands in for a device: the network's passes ask it, and it can fail."""

    def __init__(self) -> None:
        # What makes an error: each has its own traceback, which holds the node that it came from.
        self.error: Callable[[], Exception] | None = None
        self.most_pixels: int | None = None
        self.hangs = False
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, frames: torch.Tensor) -> None:
        if self.error is not None:
            raise self.error()
        if self.most_pixels is not None and frames[0, 0].numel() > self.most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.hangs:
            self.entered.set()
            self.let_go.wait()


@pytest.fixture
def device(on_forward):
    device = Device()
    on_forward(device)
    yield device
    device.let_go.set()


@pytest.fixture
def listening(start_detector):
    """Starts a detector that is ready to answer frames."""

    def start(**parameters: object) -> DetectorHarness:
        detector = start_detector(**parameters)
        detector.listen("labels")
        detector.wait_connected()
        return detector

    return start


def wait_for_sum(detector: DetectorHarness, received: int) -> dict[str, str]:
    """Until so many frames are received, and each has come to an end."""

    def settled() -> bool:
        values = detector.diagnostic("input")
        return (
            int(values["received"]) == received
            and sum(int(values[name]) for name in OUTCOMES) == received
        )

    detector.spin_until(settled, f"{received} frames accounted for")
    return detector.diagnostic("input")


# Out of memory.


def test_a_frame_too_large_for_the_memory_is_answered_in_tiles(
    listening, tiny_model, device, capfd
):
    detector = listening(inference_mode="full")
    device.most_pixels = 256 * 200
    for seconds in (1.0, 2.0):
        detector.segment(LARGE, seconds)
        labels = array_of(detector.wait_for("labels", seconds))
    alone = Segmenter.load(tiny_model, inference_mode=TILED, tile_size=(256, 192), tile_overlap=48)
    assert (labels == alone.predict(LARGE).labels).all()
    values = detector.wait_for_diagnostic("model", "inference_mode", "tiled")
    assert values["tile_size"] == "256 x 192 (height x width)"
    assert values["tile_overlap"] == "48"
    latency = detector.diagnostic("latency")
    assert latency["level"] == 1
    assert "goes on with frames" in latency["condition: out of memory"]
    assert detector.diagnostic("input")["failed"] == "0"
    assert "".join(capfd.readouterr()).count("goes on with frames") == 1


def test_a_model_too_large_for_the_memory_starts_in_tiles(start_detector, device):
    device.most_pixels = 128 * 256
    detector = start_detector(inference_height=256, inference_width=256)
    values = detector.wait_for_diagnostic("model", "inference_mode", "tiled")
    assert values["tile_size"] == "128 x 256 (height x width)"
    detector.wait_for_diagnostic("latency", "condition: out of memory", "out of memory: ")


def test_a_model_too_large_for_the_memory_is_a_clear_error(start_detector, device):
    device.most_pixels = 10
    detector = start_detector(wait_active=False)
    values = detector.wait_for_diagnostic("model", "message", "configure failed: out of memory")
    assert "take inference mode 'tiled' or a smaller inference size" in values["message"]
    assert detector.state() == "unconfigured"


def test_without_tiles_the_frame_fails_and_the_node_stays_up(listening, device):
    detector = listening(inference_mode="full", on_out_of_memory="fail")
    device.most_pixels = 256 * 200
    detector.segment(LARGE, 1.0)
    values = detector.wait_for_diagnostic("input", "failed", "1")
    reason = values["fault: inference: DeviceMemoryError"]
    assert "256 x 384, full resolution: take inference mode 'tiled'" in reason
    assert "Tried to allocate 2.00 GiB" in reason
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)
    assert detector.set_parameters(on_out_of_memory="tile") == (True, "")
    detector.segment(LARGE, 3.0)
    detector.wait_for("labels", 3.0)


# A lost device.


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            AcceleratorError,
            "CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA",
        ),
        (RuntimeError, LAUNCH_FAILURE),
    ],
)
def test_a_lost_device_leads_to_unconfigured_and_back(listening, device, kind, words):
    detector = listening()
    detector.segment(FRAME, 1.0)
    detector.wait_for("labels", 1.0)
    device.error = functools.partial(kind, words)
    detector.segment(FRAME, 2.0)
    values = detector.wait_for_diagnostic("model", "lifecycle_state", "unconfigured")
    reason = f"{kind.__name__}: {words.splitlines()[0]}"
    assert values["message"] == f"device lost: {reason}; configure the node again"
    assert values["level"] == 2
    assert detector.state() == "unconfigured"
    wait_for_sum(detector, 2)
    assert detector.diagnostic("input")["failed"] == "1"

    assert not detector.change_state("configure")  # the device is still gone
    values = detector.wait_for_diagnostic("model", "message", f"configure failed: {reason}")
    assert "has to be started again" in values["message"]
    device.error = None
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.wait_connected()
    detector.segment(FRAME, 3.0)
    detector.wait_for("labels", 3.0)
    assert detector.wait_for_diagnostic("model", "message", "active")["level"] == 0


@pytest.mark.slow
def test_the_node_recovers_by_itself_if_it_may(listening, device):
    detector = listening(recovery_attempts=3)
    device.error = functools.partial(RuntimeError, LAUNCH_FAILURE)
    detector.segment(FRAME, 1.0)
    # The first attempt fails as well.
    detector.wait_for_diagnostic("model", "message", "configure failed: ")
    device.error = None
    detector.wait_for_diagnostic("model", "message", "active")
    detector.wait_connected()
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)


def test_a_transition_from_outside_ends_the_attempts(listening, device):
    detector = listening(recovery_attempts=1000)
    device.error = functools.partial(RuntimeError, LAUNCH_FAILURE)
    detector.segment(FRAME, 1.0)
    detector.wait_for_diagnostic("model", "message", "device lost: ")
    device.error = None
    assert detector.change_state("configure")
    detector.spin_for(2.0)
    assert detector.state() == "inactive"


# A network that hangs.


@pytest.mark.slow
@pytest.mark.parametrize("transition", ["deactivate", "shutdown"])
def test_a_hanging_network_is_left_behind(listening, device, transition):
    detector = listening(stuck_after=0.3)
    device.hangs = True
    detector.segment(FRAME, 1.0)
    detector.spin_until(device.entered.is_set, "the network hangs")
    detector.segment(FRAME, 2.0)
    detector.wait_for_diagnostic("input", "received", "2")
    if transition == "shutdown":
        return  # by the fixture, which must not hang either
    assert not detector.change_state("deactivate")
    values = detector.wait_for_diagnostic("model", "lifecycle_state", "unconfigured")
    assert values["message"].startswith("inference stuck: ")
    values = wait_for_sum(detector, 2)
    assert (values["failed"], values["dropped"]) == ("1", "1")
    assert values["fault: inference stuck"].startswith("1, last: left behind after ")

    device.hangs = False
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.wait_connected()
    detector.segment(FRAME, 3.0)
    detector.wait_for("labels", 3.0)
    device.let_go.set()  # the old thread wakes up, and must not be noticed
    detector.spin_for(0.5)
    values = wait_for_sum(detector, 1)
    assert values["processed"] == "1"
    assert [message.header.stamp.sec for message in detector.received["labels"]] == [3]


# What is left behind.


@pytest.mark.slow
def test_cleanup_gives_everything_back(listening):
    detector = listening()
    node = detector.node

    def handles() -> dict[str, int]:
        gc.collect()
        kinds = ("publishers", "subscriptions", "timers", "services", "clients", "guards")
        found = {kind: len(list(getattr(node, kind))) for kind in kinds}
        found["waitables"] = len(list(node.waitables))
        found["files"] = len(list(Path("/proc/self/fd").iterdir()))
        found["inference threads"] = sum(t.name == "inference" for t in threading.enumerate())
        return found

    after = []
    for seconds in (1.0, 2.0, 3.0):
        detector.segment(FRAME, seconds)
        detector.wait_for("labels", seconds)
        assert handles()["inference threads"] == 1
        assert detector.change_state("deactivate")
        assert detector.change_state("cleanup")
        after.append(handles())
        assert detector.change_state("configure")
        assert detector.change_state("activate")
        detector.wait_connected()
    assert after[0]["inference threads"] == 0
    assert after[0]["subscriptions"] == 0
    assert after[0] == after[1] == after[2]


def test_every_frame_is_accounted_for_across_all_transitions(listening):
    detector = listening(max_rate=200.0)
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            detector.segment(FRAME, float(sent))

    def account() -> tuple[int, int]:
        values = detector.diagnostic("input")
        return int(values["received"]), sum(int(values[name]) for name in OUTCOMES)

    for transition in ("deactivate", "activate", "deactivate", "activate"):
        send(20)
        detector.enable(False)
        send(5)
        detector.enable(True)
        send(20)
        assert detector.set_parameters(threshold=0.3, score_method="entropy") == (True, "")
        assert detector.change_state(transition)
        detector.spin_for(0.3)
        received, ended = account()
        assert 0 <= received - ended <= 2
    detector.spin_for(0.5)
    received, ended = account()
    assert received == ended > 0
    assert detector.state() == "active"
