# SPDX-License-Identifier: Apache-2.0
"""The detector in a process that can be told to fail and that lists its own handles.

    python -m tools.fault_replay.detector_process WEIGHTS PARAMETERS_AS_JSON

The node is the product's own; only the network in WEIGHTS is a
:class:`~tools.fault_replay.network.BrittleNetwork`. :class:`DetectorProcess` starts it. Commands
are lines of JSON on stdin; each is answered by a line on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import torch
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.detector import Detector
from anomaly_seg_ros.system import malloc_tuning
from tools.fault_replay import network
from tools.fault_replay.link import DEEP, DETECTOR, NAMESPACE
from tools.fault_replay.messages import read_header

_REPLY_S = 60.0
_SPIN_S = 0.2
_ENTITIES = ("publishers", "subscriptions", "services", "clients", "timers", "guards")


class DetectorProcess:
    """Starts the detector in a process of its own, commands and watches it.

    Args:
        weights: File written by :func:`~tools.fault_replay.network.save_brittle_model`.
        parameters: Overrides of ``config/detector.yaml``.
        log: File for the node's output.

    Attributes:
        before: The process's handles before it made a node, see :func:`own_handles`.
    """

    def __init__(self, weights: Path, parameters: Mapping[str, object], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "tools.fault_replay.detector_process", str(weights)]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(parameters))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.before = self._reply()["before"]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raises AnomalySegError with the end of the log if the process has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise AnomalySegError(
                f"the detector's process ended with code {self._process.returncode}: "
                + " | ".join(lines[-4:])
            )

    def command(self, what: str, **arguments: object) -> dict[str, Any]:
        """Sends a command and returns the reply.

        Raises:
            AnomalySegError: The process has ended or does not reply.
        """
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            self.check_alive()
            raise
        return self._reply()

    def quit(self) -> dict[str, Any]:
        """Shuts the node down and returns the handles that its process still holds.

        Raises:
            AnomalySegError: The process failed.
        """
        after = self.command("quit")["after"]
        self._process.stdin.close()
        if code := self._process.wait(_REPLY_S):
            raise AnomalySegError(f"the detector's process ended with code {code}")
        return after

    def kill(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._replies.put(json.loads(line))

    def _reply(self) -> dict[str, Any]:
        try:
            reply = self._replies.get(timeout=_REPLY_S)
        except queue.Empty:
            self.check_alive()
            raise AnomalySegError(
                f"the detector's process has not replied in {_REPLY_S:.0f} s"
            ) from None
        if "error" in reply:
            raise AnomalySegError(f"the detector's process: {reply['error']}")
        return reply


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB; 0 if it has ended. Linux only."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def own_handles() -> dict[str, list[str]]:
    """What this process holds, each as a sorted list of names. Linux only.

    Returns:
        ``python_threads``, ``native_threads`` (these among them) and ``open_files``.
    """
    tasks = Path("/proc/self/task").iterdir()
    return {
        "python_threads": sorted(thread.name for thread in threading.enumerate()),
        "native_threads": sorted(_thread_name(task / "comm") for task in tasks),
        "open_files": sorted(_file_name(handle) for handle in Path("/proc/self/fd").iterdir()),
    }


def _thread_name(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # the thread has just ended
        return "ended"


def _file_name(handle: Path) -> str:
    """What a file descriptor points to, without the numbers of sockets and pipes."""
    try:
        return str(handle.readlink()).partition(":")[0]
    except OSError:
        return "closed"


class Witness:
    """A subscriber to the labels in the detector's own process, which hears every answer.

    Outputs keep only their newest message, so another process may miss some. Fast DDS hands
    messages to a reader of the same process while it writes them, and this one's queue is never
    full. It needs no executor: :meth:`take` fetches what has arrived.

    Args:
        context: The detector's.
    """

    def __init__(self, context: Context | None = None) -> None:
        self._node = Node(
            "fault_witness",
            context=context,
            namespace=NAMESPACE,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._subscription: Subscription | None = None

    def watch(self, on: bool) -> None:
        """Subscribes or unsubscribes."""
        if on and self._subscription is None:
            self._subscription = self._node.create_subscription(
                Image, f"{DETECTOR}/labels", lambda message: None, DEEP, raw=True
            )
        elif not on and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def take(self) -> list[tuple[int, int, str]]:
        """The headers of all answers since the last call, as (sec, nanosec, frame id)."""
        headers: list[tuple[int, int, str]] = []
        if self._subscription is None:
            return headers
        handle = self._subscription.handle
        with handle:
            while (taken := handle.take_message(Image, True)) is not None:
                headers.append(read_header(taken[0])[0])
        return headers

    def close(self) -> None:
        """Leaves the graph."""
        self._node.destroy_node()


def main() -> int:
    """Runs the detector until ``quit`` or the end of stdin; returns the exit code."""
    weights, parameters = sys.argv[1], json.loads(sys.argv[2])
    malloc_tuning.keep_freed_memory()  # as the detector's own `main` does
    torch.set_num_threads(1)  # leaves the other core to the replay
    # Starts OpenCV's own threads, which stay for good. Otherwise the first frame with an object
    # does, whenever it comes, and they look like threads that a cleanup has left.
    cv2.connectedComponents(np.ones((8, 8), np.uint8))
    network.register()
    _print_reply({"before": own_handles()})
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    overrides.append(Parameter("model", value=weights))
    node = Detector(namespace=NAMESPACE, parameter_overrides=overrides)
    witness = Witness()
    stop = threading.Event()
    listener = threading.Thread(
        target=_listen, args=(node, witness, stop), name="commands", daemon=True
    )
    listener.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=_SPIN_S)  # an exception in a callback ends the process
    if node.state != "finalized":
        node.trigger_shutdown()
    executor.shutdown()
    node.destroy_node()
    witness.close()
    rclpy.shutdown()
    listener.join()
    del node, executor, listener, witness
    gc.collect()
    _print_reply({"after": own_handles()})
    return 0


def _listen(node: Detector, witness: Witness, stop: threading.Event) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        try:
            _print_reply(_obey(node, witness, command))
        except Exception as error:  # noqa: BLE001 - the other process reports it
            _print_reply({"error": f"{type(error).__name__}: {error}"})
    stop.set()


def _obey(node: Detector, witness: Witness, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "out of memory":
            network.SWITCH.out_of_memory(command["times"])
        case "stall":
            network.SWITCH.stall(command["seconds"])
        case "lose device":
            network.SWITCH.lose_device()
        case "watch":
            witness.watch(command["on"])
        case "witness":
            return {"headers": witness.take()}
        case "census":
            gc.collect()
            entities = {name: len(list(getattr(node, name))) for name in _ENTITIES}
            return {**own_handles(), **entities}
    return {"fired": dict(network.SWITCH.fired)}


def _print_reply(reply: dict[str, Any]) -> None:
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    sys.exit(main())
