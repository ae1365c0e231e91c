"""Services that refuse what they cannot do: an exception in one would end the executor's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.service import Service

from anomaly_seg_ros.errors import first_line


def guard_services(node: Node) -> None:
    """Have every service that the node has now answer with a refusal, instead of raising.

    rclpy raises on a transition that the present state has not, and on a parameter of a type that
    does not exist; both come from whoever is on the graph.
    """
    for service in node.services:
        _guard(node, service)


def _guard(node: Node, service: Service) -> None:
    callback: Callable[[Any, Any], Any] = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001
            node.get_logger().error(f"{service.srv_name}: refused: {first_line(error)}")
            return _refusal(request, response, first_line(error))

    service.callback = answer


def _refusal(request: Any, response: Any, reason: str) -> Any:
    refused = SetParametersResult(successful=False, reason=reason)
    if isinstance(request, ChangeState.Request):
        response.success = False
    elif isinstance(request, SetParametersAtomically.Request):
        response.result = refused
    elif isinstance(request, SetParameters.Request):
        response.results = [refused] * len(request.parameters)
    return response
