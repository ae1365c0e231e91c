# SPDX-License-Identifier: Apache-2.0
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


@pytest.mark.cuda
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


@pytest.mark.slow
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


def last_words(*arguments: str) -> str:
    """The line with which the node ends, run in this process."""
    with pytest.raises(SystemExit) as exit_:
        detector.main(["--ros-args", *arguments])
    (line,) = str(exit_.value).splitlines()
    assert line.startswith("detector: error: ")
    return line


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("threshold:=high", "'threshold' must be of type float, not str ('high')"),
        ("max_rate:=true", "'max_rate' must be of type float, not bool (True)"),
        ("use_sim_time:=1", "use_sim_time"),
        ("qos_depth:=0", "qos_depth"),
        ("image_transport:=pigeon", "image_transport"),
        ("cameras:=[front/left]", "parameter 'cameras': 'front/left' cannot be part of"),
    ],
)
def test_each_unacceptable_parameter_is_named(parameter, words, own_signals):
    assert words in last_words("-p", parameter)


PARAMETER_FILES = {
    "missing": (None, "no such parameter file"),
    "no YAML": ("/**: [", "not valid YAML"),
    "not text": (b"\xff\xfe\x00bad", "not readable text"),
    "no node": ("max_rate: 10", "before ros__parameters"),
    "no value": ("/**: {ros__parameters: {max_rate: }}", "No value"),
    "mixed list": ("/**: {ros__parameters: {cameras: [1, a]}}", "same type"),
}


@pytest.mark.parametrize("kind", PARAMETER_FILES)
def test_bad_parameter_files_end_it_with_one_line(tmp_path, kind, own_signals):
    content, words = PARAMETER_FILES[kind]
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = last_words("--params-file", str(path))
    assert words in line
    assert "mine.yaml" in line


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--foo",), "--foo"),
        (("-p", "max_rate"), "-p max_rate"),
        (("-p", "threshold:=[1,"), "threshold:=[1,"),
        (("-r", "a:=b!"), "a:=b!"),
        (("-r", "bad"), "bad"),
    ],
)
def test_bad_arguments_end_it_with_one_line(extra, words, own_signals):
    line = last_words(*extra)
    assert words in line
    assert "/src/" not in line


def test_numbers_in_a_file_may_be_written_either_way(start_process, probe, tmp_path):
    """Whole numbers for floats and the reverse; afterwards they have the declared type."""
    path = tmp_path / "detector.yaml"
    path.write_text("/**: {ros__parameters: {max_rate: 10, frame_timeout: 7, qos_depth: 2.0}}")
    process = start_process("--params-file", str(path), autostart="false", batch_wait_ms="3")
    probe.wait_for_state("unconfigured")
    types = {"max_rate": (10.0, float), "frame_timeout": (7.0, float), "qos_depth": (2, int),
             "batch_wait_ms": (3.0, float)}  # fmt: skip
    for name, expected in types.items():
        value = probe.get_parameter_of_detector(name)
        assert (value, type(value)) == expected, name
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=EXIT_S)
    assert process.returncode == 0, output


def test_a_file_for_another_node_is_named(start_process, probe, tmp_path):
    for name, node in (("other", "detectr"), ("mine", "detector"), ("wild", "/**/detector")):
        (tmp_path / f"{name}.yaml").write_text(f"{node}: {{ros__parameters: {{max_rate: 5}}}}")
    files = [p for f in tmp_path.glob("*.yaml") for p in ("--params-file", str(f))]
    process = start_process(*files, autostart="false")
    probe.wait_for_state("unconfigured")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=EXIT_S)
    (line,) = [line for line in output.splitlines() if "no parameters for /detector" in line]
    assert "other.yaml" in line
    assert "'/detectr'" in line


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
