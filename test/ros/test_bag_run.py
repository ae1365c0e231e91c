# SPDX-License-Identifier: Apache-2.0
"""Lock-step, real time and in-process, through a real node in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from detector_harness import street
from sensor_msgs.msg import Image
from sklearn.metrics import average_precision_score

from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.cli import evaluate_bag as evaluate_bag_tool
from anomaly_seg_ros.cli import evaluate_folder as evaluate_folder_tool
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.evaluation.bag_run import evaluate_bag
from anomaly_seg_ros.evaluation.dataset_run import evaluate_dataset
from anomaly_seg_ros.evaluation.plan import IN_PROCESS, REAL_TIME, RunOptions
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.messages import image_message
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.replay import Replayer, message_from_frame

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
FRAMES = 5
CPU = SegmenterOptions(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ with a bright square as the anomaly."""
    root = tmp_path_factory.mktemp("folder")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for i in range(FRAMES):
        image, mask = street(90, 140, seed=i), np.zeros((90, 140), np.uint8)
        image[60:75, 20 * i : 20 * i + 15] = (250, 30, 200)
        mask[60:75, 20 * i : 20 * i + 15] = 1
        mask[:3] = 255
        cv2.imwrite(str(root / "images" / f"{i:03}.png"), image[..., ::-1])
        cv2.imwrite(str(root / "labels" / f"{i:03}.png"), mask)
    return root


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.thorough)],
    ids=["raw", "compressed"],
)
def bag(request: pytest.FixtureRequest, folder: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "bag"
    with BagWriter(path, compressed=request.param, frame_rate=5.0) as writer:
        for sample in open_dataset("folder", folder):
            writer.write(sample)
    return path


def test_lock_step_scores_every_frame_once(bag: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate_bag(bag, out, RunOptions(model=str(tiny_model), segmenter=CPU, video=True))
    expected = {"sent": FRAMES, "scored": FRAMES, "lost": 0}
    replay = result.replay
    assert (replay.sent, result.frames, replay.lost) == tuple(expected.values())
    assert replay.node.max_abs_difference_to_in_process < 1e-6
    from_messages = replay.node.AP
    assert from_messages == pytest.approx(result.scores["max_logit"].AP, abs=0.01)
    for name in ("metrics.json", "report.html", "frames.html", "overlay.mp4", "node.log"):
        assert (out / name).stat().st_size > 0
    written = json.loads((out / "metrics.json").read_text())
    assert written["frames"] == expected
    assert set(written["scores"]["max_logit"]) == {"AP", "AUROC", "FPR95"}


def test_figures_equal_scikit_learn(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(tiny_model, device="cpu")
    scores, labels = [], []
    for sample in (s.load() for s in open_dataset("folder", folder)):
        score = segmenter.predict(sample.image, ("energy",)).scores["energy"]
        scores.append(score[sample.anomaly_mask != 255])
        labels.append(sample.anomaly_mask[sample.anomaly_mask != 255])
    expected = 100 * average_precision_score(np.concatenate(labels), np.concatenate(scores))
    out = tmp_path / "out"
    arguments = ["--data", str(folder), "--model", str(tiny_model), "--out", str(out)]
    code = evaluate_folder_tool.main([*arguments, "--mode", IN_PROCESS, "--device", "cpu"])
    assert code == 0
    figures = json.loads((out / "metrics.json").read_text())["scores"]["energy"]
    assert figures["AP"] == pytest.approx(expected, abs=1e-6)
    assert not (out / "bag").exists()


@pytest.mark.slow
def test_real_time_reports_drops_and_latency(bag: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = RunOptions(model=str(tiny_model), segmenter=CPU, mode=REAL_TIME)
    result = evaluate_bag(bag, tmp_path / "out", options)
    replay = result.replay
    assert replay.sent == FRAMES
    assert result.frames + replay.lost == FRAMES
    assert result.frames > 0
    assert replay.latency_ms.median > 0
    assert replay.dropped == {"node (real time)": replay.lost}


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_nothing(
    bag: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Killed while a frame is out, and started again: the frame is sent again and answered."""
    namespace = f"/killed_{os.getpid()}"
    with BagReader(bag) as reader:
        frames = list(reader.frames())
        compressed = reader.image_topic.endswith("/compressed")
    parameters = {
        "model": str(tiny_model),
        "backend": "torch",  # trying all of them takes a minute on a busy machine
        "qos_reliability": "reliable",
        "image_transport": "compressed" if compressed else "raw",
    }
    process = NodeProcess(namespace, parameters, tmp_path / "node.log")
    rclpy.init()
    replayer = Replayer(process.name, f"{namespace}/image", compressed, resend_after=3.0)
    try:
        process.start()
        replayer.wait_for_detector(180.0, process.check_alive)
        answers = [replayer.ask(frames[0], 60.0)]
        process._process.send_signal(signal.SIGSTOP)  # so that it cannot answer before its end

        def kill_and_restart() -> None:
            time.sleep(1.0)
            process.kill()
            process.start()

        restarter = threading.Thread(target=kill_and_restart)
        restarter.start()
        answers += [replayer.ask(frame, 120.0) for frame in frames[1:]]
        restarter.join()
    finally:
        replayer.close()
        rclpy.try_shutdown()
        code = process.stop()
    assert all(answer is not None for answer in answers)
    assert answers[1].sent >= 2
    assert code == 0


def test_answers_are_taken_without_time_to_wait_for_them(bag: Path) -> None:
    """As when playing is late: what is not taken is overwritten in the queues."""
    with BagReader(bag) as reader:
        frames = list(reader.frames())
        compressed = reader.image_topic.endswith("/compressed")
    kinds = {"labels": np.uint8, "ood_score": np.float32, "open_set_mask": np.uint8}
    rclpy.init()
    replayer = Replayer("/fake/detector", "/fake/image", compressed)
    node = rclpy.create_node("fake")
    try:
        outputs = {
            name: node.create_publisher(Image, f"/fake/detector/{name}", 10) for name in kinds
        }
        while not all(publisher.get_subscription_count() for publisher in outputs.values()):
            time.sleep(0.01)
        for frame in frames:
            replayer.send(frame)
            header = message_from_frame(frame).header
            for name, publisher in outputs.items():
                encoding = {np.uint8: "mono8", np.float32: "32FC1"}[kinds[name]]
                picture = np.zeros((2, 2), kinds[name])
                publisher.publish(image_message(picture, encoding, header))
        answered, deadline = [], time.monotonic() + 60
        while len(answered) < len(frames) and time.monotonic() < deadline:
            answered += replayer.collect(0.0)
    finally:
        replayer.close()
        node.destroy_node()
        rclpy.try_shutdown()
    assert sorted(answered) == [frame.stamp_ns for frame in frames]


@pytest.mark.parametrize("encoding", ["32FC1", "mono16", "mono8", "rgb8"])
def test_scores_of_every_encoding_are_read(bag: Path, encoding: str) -> None:
    with BagReader(bag) as reader:
        frame = next(reader.frames())
        compressed = reader.image_topic.endswith("/compressed")
    rclpy.init()
    replayer = Replayer("/fake/detector", "/fake/image", compressed)
    node = rclpy.create_node("fake")
    values = {
        "labels": np.full((2, 2), 3, np.uint8),
        "open_set_mask": np.full((2, 2), 255, np.uint8),
        # 0.2 is a multiple of both steps.
        "ood_score": {
            "32FC1": np.full((2, 2), 0.2, np.float32),
            "mono16": np.full((2, 2), 13107, np.uint16),
            "mono8": np.full((2, 2), 51, np.uint8),
            "rgb8": np.zeros((2, 2, 3), np.uint8),
        }[encoding],
    }
    try:
        outputs = {
            name: node.create_publisher(Image, f"/fake/detector/{name}", 10) for name in values
        }
        while not all(publisher.get_subscription_count() for publisher in outputs.values()):
            time.sleep(0.01)
        replayer.send(frame)
        header = message_from_frame(frame).header
        for name, publisher in outputs.items():
            picture = encoding if name == "ood_score" else "mono8"
            publisher.publish(image_message(values[name], picture, header))
        answers, deadline = {}, time.monotonic() + 60
        if encoding == "rgb8":
            with pytest.raises(AnomalySegError, match="~/ood_score: unexpected rgb8"):
                replayer.collect(60.0)
            return
        while not answers and time.monotonic() < deadline:
            answers = replayer.collect(0.1)
    finally:
        replayer.close()
        node.destroy_node()
        rclpy.try_shutdown()
    (answer,) = answers.values()
    np.testing.assert_allclose(answer.unit_score, np.float32(0.2), rtol=1e-6)
    assert answer.unit_score.dtype == np.float32
    assert (answer.labels == 3).all()
    assert (answer.mask == 255).all()


def test_a_frame_without_an_answer_is_lost_in_time(bag: Path) -> None:
    rclpy.init()
    replayer = Replayer("/nobody/detector", "/nobody/image")
    try:
        with BagReader(bag) as reader:
            frame = next(reader.frames())
        assert replayer.ask(frame, 1.0) is None
        with pytest.raises(AnomalySegError, match="/nobody/image"):
            replayer.wait_for_detector(0.3, lambda: None)
    finally:
        replayer.close()
        rclpy.try_shutdown()


def test_a_node_that_cannot_start_is_reported(
    bag: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = evaluate_bag_tool.main(
        [str(bag), "--model", str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "out")]
    )
    assert code == 1
    assert "no.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["--device", "cuda:97"], "cuda:97"),
        (["--score", "dense_hybrid"], "dense_hybrid"),
        (["--inference-size", "100", "100"], "multiples"),
    ],
)
def test_wrong_options_are_one_clear_line(
    arguments: list[str], needle: str, folder: Path, tiny_model: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    code = evaluate_folder_tool.main(
        ["--data", str(folder), "--model", str(tiny_model), "--out", str(out), *arguments]
    )
    captured = capsys.readouterr().err.splitlines()
    errors = [line for line in captured if line.startswith("evaluate_folder: error: ")]
    assert code == 1
    assert len(errors) == 1
    assert needle in errors[0]
    assert not (out / "metrics.json").exists()
    assert not list(out.glob("bag*"))


def test_mask_of_another_size_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    image = (folder / "images" / "000.png").read_bytes()
    (tmp_path / "data" / "images" / "a.png").write_bytes(image)
    cv2.imwrite(str(tmp_path / "data" / "labels" / "a.png"), np.zeros((10, 10), np.uint8))
    code = evaluate_folder_tool.main(
        ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--mode", IN_PROCESS]
    )
    assert code == 1
    assert "a.png" in capsys.readouterr().err


def test_labels_of_other_classes_are_not_counted(tiny_model: Path, tmp_path: Path) -> None:
    for split in ("images", "annotations"):
        (tmp_path / "data" / "test" / split / "test" / "t5").mkdir(parents=True)
    picture, labels = street(40, 60), np.full((40, 60), 2, np.uint8)
    labels[10:20] = 14
    cv2.imwrite(str(tmp_path / "data/test/images/test/t5/0.png"), picture[..., ::-1])
    cv2.imwrite(str(tmp_path / "data/test/annotations/test/t5/0.png"), labels)
    dataset = open_dataset("street_hazards", tmp_path / "data")
    options = RunOptions(model=str(tiny_model), segmenter=CPU, mode=IN_PROCESS)
    result = evaluate_dataset(dataset, tmp_path / "out", options)
    assert result.segmentation is None
    assert result.notes == ["no mIoU: the labels' classes are not the model's"]
    assert result.scores["energy"].AP > 0


def test_unwritable_output_is_refused(bag: Path, tiny_model: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    code = evaluate_bag_tool.main(
        [str(bag), "--model", str(tiny_model), "--out", str(tmp_path / "file" / "out")]
    )
    assert code == 1
    assert "file" in capsys.readouterr().err
