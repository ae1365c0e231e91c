"""The same frames twice through two processes: do the outputs have the same bytes?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context

from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.replay import Replayer
from tools.fault_replay.frames import raw_image
from tools.fault_replay.link import IMAGE_TOPIC, NAMESPACE

# To choose a backend, on a busy machine; and for one frame.
_START_S, _FRAME_S = 180.0, 30.0


def output_digests(frames: Iterable[Frame], model: str, log: Path) -> list[str]:
    """Plays frames in lock-step through a detector process of their own.

    Args:
        frames: Of a bag, with raw images.
        model: Name or path of the weights.
        log: Receives the node's output.

    Returns:
        SHA-256 of each frame's labels, unit score and mask.

    Raises:
        AnomalySegError: The node did not start, or did not answer a frame.
    """
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


def compare_two_runs(pictures: Sequence[np.ndarray], model: str, log: Path) -> dict[str, Any]:
    """Plays the pictures through two processes.

    Returns:
        ``frames``, ``different`` (how many have other bytes in the second run), ``sha256`` of
        all the first run's outputs.
    """
    frames = [
        Frame(stamp_ns=(index + 1) * 10**8, frame_id="camera", image=raw_image(picture, "rgb8"))
        for index, picture in enumerate(pictures)
    ]
    first, second = (output_digests(frames, model, log) for _ in range(2))
    return {
        "frames": len(frames),
        "different": sum(a != b for a, b in zip(first, second, strict=True)),
        "sha256": hashlib.sha256("".join(first).encode()).hexdigest(),
    }
