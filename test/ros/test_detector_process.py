"""The detector as a process of its own: signals, death and restart, wrong command lines."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time

import pytest
import rclpy
import torch
from detector_harness import Probe, seconds_of, street
from rclpy.context import Context

from anomaly_seg_ros.ros import detector

pytestmark = pytest.mark.ros

FRAME = street(48, 80)
EXIT_S = 150  # of a busy machine


@pytest.fixture
def start_process(tiny_model):
    """Starts ``detector`` with these parameters."""
    running = []

    def start(*extra: str, **parameters: object) -> subprocess.Popen:
        parameters = {"model": tiny_model, "backend": "torch"} | parameters
        arguments = [part for k, v in parameters.items() for part in ("-p", f"{k}:={v}")]
        process = subprocess.Popen(
            [sys.executable, "-m", "anomaly_seg_ros.ros.detector",
             "--ros-args", *arguments, *extra],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def probe():
    context = Context()
    rclpy.init(context=context)
    probe = Probe(context)
    yield probe
    probe.destroy_node()
    rclpy.shutdown(context=context)
    del probe
    gc.collect()  # see DetectorHarness.close


@pytest.fixture
def own_signals():
    """Gives back the handlers that the detector's ``main`` takes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def wait_until_it_answers(probe: Probe) -> None:
    """Sends frames until one is answered: a graph that is being discovered loses the first."""
    probe.listen("labels")
    probe.wait_connected()
    deadline = time.monotonic() + EXIT_S
    milliseconds = 0
    while not probe.received["labels"]:
        assert time.monotonic() < deadline, "no frame is answered"
        milliseconds += 1
        probe.segment(FRAME, milliseconds / 1000)
        probe.spin_for(0.5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_active_node_with_code_0(start_process, probe, number):
    process = start_process()
    wait_until_it_answers(probe)
    process.send_signal(number)
    process.send_signal(number)  # a terminal and ros2 launch each send one
    output, _ = process.communicate(timeout=EXIT_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_it_starts_on_a_gpu(start_process, probe, graphs):
    """In a process that has not used CUDA before, as every user's."""
    start_process(device="cuda", cuda_graphs=graphs)
    wait_until_it_answers(probe)


def test_sigint_before_configure(start_process, probe):
    process = start_process(autostart="false")
    probe.wait_for_state("unconfigured")
    process.send_signal(signal.SIGINT)
    assert process.wait(EXIT_S) == 0


def test_killed_and_restarted_in_the_middle(start_process, probe):
    first = start_process()
    wait_until_it_answers(probe)
    for seconds in (1.0, 2.0):
        probe.segment(FRAME, seconds)
        probe.wait_for("labels", seconds)
    first.kill()
    first.wait()
    probe.segment(FRAME, 3.0)  # into the void: nothing may hang on it
    start_process()
    deadline = time.monotonic() + EXIT_S
    seconds = 4.0
    while not any(m.header.stamp.sec >= 4 for m in probe.received["labels"]):
        assert time.monotonic() < deadline, "no output after the restart"
        probe.segment(FRAME, seconds)
        probe.spin_for(0.5)
        seconds += 1
    stamps = [seconds_of(message) for message in probe.received["labels"]]
    assert stamps == sorted(set(stamps))  # no frame twice, none out of order


def test_an_unacceptable_parameter_ends_it_at_once_with_one_line(start_process):
    process = start_process(threshold=1.5)
    output, _ = process.communicate(timeout=EXIT_S)
    assert process.returncode == 1
    (line,) = [line for line in output.splitlines() if "error" in line]
    assert line.startswith("detector: error: ")
    assert "threshold" in line
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("threshold:=high", "threshold"),
        ("qos_depth:=0", "qos_depth"),
        ("image_transport:=pigeon", "image_transport"),
        ("cameras:=[front/left]", "parameter 'cameras': 'front/left' cannot be part of"),
    ],
)
def test_each_unacceptable_parameter_is_named(parameter, words, own_signals):
    with pytest.raises(SystemExit) as exit_:
        detector.main(["--ros-args", "-p", parameter])
    (line,) = str(exit_.value).splitlines()
    assert line.startswith("detector: error: ")
    assert words in line


@pytest.mark.parametrize("domain", ["233", "-1", "one"])
def test_a_domain_that_dds_does_not_have_is_one_line(domain, own_signals, monkeypatch):
    """Fast DDS would end the process."""
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    with pytest.raises(SystemExit, match=f"detector: error: ROS_DOMAIN_ID={domain}: expected"):
        detector.main([])


# What follows is the same in any process.


def test_misspelt_parameters_are_named(start_detector, capfd):
    start_detector(wait_active=False, treshold=0.7, autostart=False)
    assert "unknown parameter 'treshold' is ignored" in "".join(capfd.readouterr())


def test_compressed_input_follows_the_remapping_of_its_base(start_detector):
    words = ["--ros-args", "-r", "image:=/front/image_raw"]
    detector = start_detector(words, image_transport="compressed")
    detector.spin_until(
        lambda: detector.count_subscribers("/front/image_raw/compressed"), "subscription"
    )
    assert not detector.count_subscribers("/front/image_raw")


def test_namespaces_keep_cameras_apart(start_detector):
    words = ["--ros-args", "-r", "__ns:=/left", "-r", "image:=camera"]
    detector = start_detector(words, wait_active=False)
    detector.spin_until(lambda: detector.count_subscribers("/left/camera"), "subscription")
    names = {name for name, _ in detector.get_topic_names_and_types()}
    assert {"/left/detector/labels", "/left/detector/debug/pipeline_latency_ms"} <= names


def test_several_cameras_by_name_each_with_its_remapping(start_detector):
    words = ["--ros-args", "-r", "front/image:=/cam0/image_raw"]
    detector = start_detector(words, cameras=["front", "rear"])
    for topic in ("/cam0/image_raw", "/rear/image", "/front/camera_info", "/rear/camera_info"):
        detector.spin_until(lambda topic=topic: detector.count_subscribers(topic), topic)
    assert not detector.count_subscribers("/image")
    names = {name for name, _ in detector.get_topic_names_and_types()}
    assert {"/detector/front/labels", "/detector/rear/ood_score"} <= names
