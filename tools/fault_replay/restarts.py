"""The detector's own process, killed in the middle of its work and started again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import Image

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.node_process import NodeProcess
from tools.fault_replay.ledger import Header, Ledger
from tools.fault_replay.link import DEEP, IMAGE_TOPIC, NAMESPACE, Link
from tools.fault_replay.sender import Sender
from tools.fault_replay.viewers import Viewers

_FRAMES_OF_A_LIFE = 100
_ANSWER_S = 0.02


def kill_and_restart(
    weights: Path, pictures: Sequence[np.ndarray], kills: int, log: Path
) -> dict[str, Any]:
    """Kills the node ``kills`` times under load; each of its lives must answer.

    What a killed process had received and not answered nobody can know. What can: no frame is
    answered twice, none without being asked, each with its own header, and the same pixels get
    the same labels in every life.

    Args:
        weights: A model that the installed executable can load.
        pictures: (H, W, 3) uint8 RGB each.
        kills: Times.
        log: Receives the node's output.

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

    def ask(number: int) -> Header:
        before = viewers.answers
        header = sender.send(publisher, sender.choose("plain", number), "uncertain")
        link.spin_while(lambda: viewers.answers == before, _ANSWER_S)
        return header

    def is_answered() -> bool:
        before = viewers.answers
        ask(0)
        return viewers.answers > before

    try:
        for life in range(kills + 1):
            node.start()
            link.spin_until(is_answered, f"life {life + 1} answers a frame")
            before = viewers.answers
            for number in range(_FRAMES_OF_A_LIFE):
                ask(number)
            answered.append(viewers.answers - before)
            if life < kills:
                for number in range(_FRAMES_OF_A_LIFE // 10):  # it dies with these on its hands
                    sender.send(publisher, sender.choose("plain", number), "uncertain")
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
