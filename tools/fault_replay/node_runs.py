# SPDX-License-Identifier: Apache-2.0
"""Runs of the detector's own executable: killed and restarted, and given the same frames twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from sensor_msgs.msg import Image

from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.replay import Replayer
from tools.fault_replay.frames import raw_image
from tools.fault_replay.ledger import Ledger
from tools.fault_replay.link import DEEP, IMAGE_TOPIC, NAMESPACE, Link, Viewers
from tools.fault_replay.messages import Sender

_FRAMES_OF_A_LIFE = 100
_ANSWER_S = 0.02
# Limits on a busy machine: the start, with its choice of a backend, and one frame.
_START_S, _FRAME_S = 180.0, 30.0


def kill_and_restart(
    weights: Path, pictures: Sequence[np.ndarray], kills: int, log: Path
) -> dict[str, Any]:
    """Kills the node ``kills`` times under load; each of its lives must answer.

    Nobody can know which frames a killed process had received and not answered. What is checked:
    no frame is answered twice, none without being asked, each with its own header, and the same
    pixels get the same labels in every life.

    Args:
        weights: A model that the installed executable can load.
        pictures: (H, W, 3) uint8 RGB each.
        kills: How often the process is killed.
        log: File for the node's output.

    Returns:
        Counts and ``violations``; a life that does not answer is one.
    """
    ledger = Ledger()
    node = NodeProcess(NAMESPACE, {"model": str(weights)}, log)
    link = Link(node.check_alive)
    viewers = Viewers(link.node, ledger, lambda header: None)
    viewers.add_reference()
    publisher = link.node.create_publisher(Image, IMAGE_TOPIC, DEEP)
    sender = Sender(ledger, pictures)
    answered = []

    def send(number: int) -> None:
        sender.send(publisher, sender.choose("plain", number), "uncertain")

    def is_answered(number: int = 0) -> bool:
        before = viewers.answers
        send(number)
        link.spin_while(lambda: viewers.answers == before, _ANSWER_S)
        return viewers.answers > before

    try:
        for life in range(kills + 1):
            node.start()
            link.spin_until(is_answered, f"life {life + 1} answers a frame")
            before = viewers.answers
            for number in range(_FRAMES_OF_A_LIFE):
                is_answered(number)
            answered.append(viewers.answers - before)
            if life < kills:
                for number in range(_FRAMES_OF_A_LIFE // 10):  # it is killed with these in hand
                    send(number)
                node.kill()
                link.spin(0.1)
        code = node.stop()
        if code != 0:
            ledger.violate(f"the last life ended with code {code}")
    except AnomalySegError as error:
        ledger.violate(str(error))
    finally:
        node.kill()
        link.close()
    return {
        "kills": kills,
        "frames_of_a_life": _FRAMES_OF_A_LIFE,
        "answered_by_life": answered,
        "violations": ledger.violations,
        "violation_count": ledger.violation_count,
    }


def compare_two_runs(pictures: Sequence[np.ndarray], model: str, log: Path) -> dict[str, Any]:
    """Plays the same pictures through two processes and compares the bytes of their outputs.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        model: Name or path of the weights.
        log: File for the node's output.

    Returns:
        ``frames``, ``different`` (frames with other bytes in the second run), ``sha256`` of all
        outputs of the first run.

    Raises:
        AnomalySegError: The node did not start, or did not answer a frame.
    """
    frames = [
        Frame(stamp_ns=(index + 1) * 10**8, frame_id="camera", image=raw_image(picture, "rgb8"))
        for index, picture in enumerate(pictures)
    ]
    first, second = (_output_digests(frames, model, log) for _ in range(2))
    return {
        "frames": len(frames),
        "different": sum(a != b for a, b in zip(first, second, strict=True)),
        "sha256": hashlib.sha256("".join(first).encode()).hexdigest(),
    }


def _output_digests(frames: Iterable[Frame], model: str, log: Path) -> list[str]:
    """SHA-256 of each frame's labels, unit score and mask, from one process in lock-step."""
    digests = []
    context = Context()
    rclpy.init(context=context)
    with NodeProcess(NAMESPACE, {"model": model}, log) as node:
        replayer = Replayer(node.name, IMAGE_TOPIC, context=context)
        try:
            replayer.wait_for_detector(_START_S, node.check_alive, node.is_active)
            for frame in frames:
                answer = replayer.ask(frame, _FRAME_S, node.check_alive)
                if answer is None:
                    raise AnomalySegError(f"frame {frame.stamp_ns} was not answered")
                digest = hashlib.sha256()
                for output in (answer.labels, answer.unit_score, answer.mask):
                    digest.update(output.tobytes())
                digests.append(digest.hexdigest())
        finally:
            replayer.close()
            rclpy.shutdown(context=context)
    return digests
