"""What a detector says about its own time: per frame on a debug topic, in sum in diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import Float32

_QUEUE = 10


class Account:
    """Listens to one detector.

    Args:
        node: Whose executor delivers.
        detector: Fully qualified name.

    Attributes:
        processing_ms: Of each frame, in order.
        statuses: By name (``model``, ``input``, ``latency``), the newest.
        reports: How many diagnostics came.
    """

    def __init__(self, node: Node, detector: str) -> None:
        self.processing_ms: list[float] = []
        self.statuses: dict[str, dict[str, str]] = {}
        self.reports = 0
        self._prefix = f"{detector}: "
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _QUEUE)
        topic = f"{detector}/debug/processing_latency_ms"
        node.create_subscription(Float32, topic, self._on_processing, _QUEUE)

    def _on_processing(self, message: Float32) -> None:
        self.processing_ms.append(message.data)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = [status for status in message.status if status.name.startswith(self._prefix)]
        for status in own:
            values = {pair.key: pair.value for pair in status.values}
            self.statuses[status.name.removeprefix(self._prefix)] = values
        self.reports += bool(own)
