"""The detector in a process that can be told to fail, and that counts its own handles.

    python -m tools.fault_replay.host WEIGHTS PARAMETERS_AS_JSON

The node is the product's own, unchanged; only the network in WEIGHTS is a
:class:`~tools.fault_replay.network.BrittleNetwork`. Commands come as lines of JSON on stdin,
each is answered by a line on stdout; see :mod:`~tools.fault_replay.host_process`.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from typing import Any

import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from anomaly_seg_ros.ros.detector import Detector
from anomaly_seg_ros.system import malloc_tuning
from tools.fault_replay import network
from tools.fault_replay.census import own_handles
from tools.fault_replay.link import NAMESPACE
from tools.fault_replay.witness import Witness

_SPIN_S = 0.2
_ENTITIES = ("publishers", "subscriptions", "services", "clients", "timers", "guards")


def main() -> int:
    """Runs the detector until ``quit`` or the end of stdin; returns the exit code."""
    weights, parameters = sys.argv[1], json.loads(sys.argv[2])
    malloc_tuning.keep_freed_memory()  # as `main` of the detector
    torch.set_num_threads(1)  # the other core is the injector's
    network.register()
    _reply({"before": own_handles()})
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
        executor.spin_once(timeout_sec=_SPIN_S)  # what a callback raises is a crash here
    if node.state != "finalized":
        node.trigger_shutdown()
    executor.shutdown()
    node.destroy_node()
    witness.close()
    rclpy.shutdown()
    listener.join()
    del node, executor, listener, witness
    gc.collect()
    _reply({"after": own_handles()})
    return 0


def _listen(node: Detector, witness: Witness, stop: threading.Event) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        try:
            _reply(_obey(node, witness, command))
        except Exception as error:  # noqa: BLE001 - told to who asked
            _reply({"error": f"{type(error).__name__}: {error}"})
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


def _reply(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
