# SPDX-License-Identifier: Apache-2.0
"""Errors at the edge of rclpy: one line for a wrong command line, refusals by services."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions

from anomaly_seg_ros.errors import ParameterError, first_line
from anomaly_seg_ros.io.safe_yaml_json import read_yaml, short_repr

# rcl appends the line of its source at which it failed.
_RCL_SOURCE = re.compile(r", at /\S+:\d+")


def start_ros(args: Sequence[str] | None = None) -> None:
    """Initialise rclpy, without signal handlers.

    Args:
        args: The command line; None takes the process's.

    Raises:
        ParameterError: Names the argument or the parameter file that rcl refuses.
    """
    for path in _parameter_files(args):
        if not path.is_file():
            raise ParameterError(f"{path}: no such parameter file")
        # rcl reads binary garbage as an empty file, and says less about bad YAML.
        read_yaml(path, ParameterError)
    try:
        words = None if args is None else list(args)
        rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError and UnknownROSArgsError
        reason = _RCL_SOURCE.sub("", first_line(error))
        reason = reason.removeprefix("failed to initialize rcl: ")
        if reason.startswith("["):  # a bare list
            reason = f"unknown arguments behind --ros-args: {reason}"
        raise ParameterError(reason) from error


def tell_unused_files(node: Node, args: Sequence[str] | None = None) -> None:
    """Warn of parameter files without parameters for this node, as after a typo in its name."""
    name = node.get_fully_qualified_name()
    for path in _parameter_files(args):
        names = list(_node_names(read_yaml(path, ParameterError)))
        if not any(_pattern(given).fullmatch(name) for given in names):
            found = f"only for {', '.join(map(short_repr, names))}" if names else "none at all"
            node.get_logger().warning(
                f"{path}: no parameters for {name}, {found}: begin it with "
                f"'/**:' or '{name}:', and 'ros__parameters:' below"
            )


def _parameter_files(args: Sequence[str] | None) -> list[Path]:
    words = list(sys.argv[1:] if args is None else args)
    if "--ros-args" not in words:
        return []
    words = words[words.index("--ros-args") :]
    return [Path(path) for option, path in pairwise(words) if option == "--params-file"]


def _node_names(content: Any, above: str = "") -> Iterator[str]:
    """Yield the node names, with wildcards, that have parameters; namespaces may be nested."""
    if isinstance(content, dict):
        if "ros__parameters" in content:
            yield above or "/"
        for key, value in content.items():
            if key != "ros__parameters":
                yield from _node_names(value, f"{above}/{str(key).strip('/')}")


def _pattern(name: str) -> re.Pattern[str]:
    """Compile a node name, where ``*`` matches one part and ``**`` any number of parts."""
    escaped = re.escape(name).replace(r"/\*\*", "(?:/[^/]+)*").replace(r"\*", "[^/]+")
    return re.compile(escaped)


def guard_services(node: Node) -> None:
    """Make every present service of the node answer with a refusal instead of raising.

    An exception in a service would end the executor's loop, and rclpy raises on a transition that
    does not exist in the present state and on a parameter of an unknown type, which anybody on
    the graph can send.
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
