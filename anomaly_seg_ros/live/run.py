# SPDX-License-Identifier: Apache-2.0
"""Starts a detector, plays footage through it and serves the page, until the user ends it."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.live.playback import open_playback
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.transport import use_profile
from anomaly_seg_ros.system.stop_request import stop_request

_SERVERS = ("page", "data", "viewer")
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class LiveOptions:
    """What runs, and where it is shown.

    Attributes:
        parameters: Parameters of the detector that differ from ``config/detector.yaml``.
        port: Port of the page; the next two are the viewer's.
        frame_rate: Frames per second of pictures and videos; None takes 10, or the video's own.
        image_topic: Topic of the camera in a bag; None chooses it.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    port: int = 9870
    frame_rate: float | None = None
    image_topic: str | None = None


def live(given: str, options: LiveOptions, tell: Callable[[str], None]) -> None:
    """Shows a detector at work, until SIGINT or SIGTERM, or until a camera vanishes.

    Args:
        given: See :func:`~anomaly_seg_ros.live.playback.open_playback`.
        options: What runs.
        tell: Takes lines for the user.

    Raises:
        AnomalySegError: The input cannot be read, a port is in use, rerun-sdk is missing, or the
            detector does not start.
    """
    try:
        from anomaly_seg_ros.live.screen import Screen, serve
    except ImportError as error:
        raise ParameterError(
            f"the page needs rerun-sdk and Python 3.11 or newer ({error}): make live installs it, "
            "or pip install 'anomaly_seg_ros[live]'"
        ) from error
    from anomaly_seg_ros.live.client import DetectorClient
    from anomaly_seg_ros.live.page import PageServer

    _check_ports(options.port)
    check_discovery(os.environ)
    with ExitStack() as stack:
        stopped = stack.enter_context(stop_request())
        playback = stack.enter_context(
            open_playback(given, options.frame_rate, options.image_topic)
        )
        if shortage := use_profile():
            tell(f"warning: {shortage}")
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        namespace = f"/live_{os.getpid()}"
        process = NodeProcess(namespace, options.parameters, Path(folder) / "node.log")
        stack.enter_context(process)
        # Options of this tool look like remappings to rclpy, and stop_request hears the signals.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        recording = serve(options.port + 1, options.port + 2)
        stack.callback(recording.disconnect)
        client = stack.enter_context(
            closing(
                DetectorClient(process.name, f"{namespace}/image", Screen(recording, process.name))
            )
        )
        title = playback.name.removeprefix(f"{Path.cwd()}/")
        page = PageServer(options.port, title, client, options.port + 1, options.port + 2)
        stack.callback(page.server_close)
        threading.Thread(target=page.serve_forever, name="page", daemon=True).start()
        stack.callback(page.shutdown)
        tell(f"{playback.name}: http://127.0.0.1:{options.port}/ (Ctrl-C ends it)")
        is_active = False
        for image in playback.play(stopped, tell):
            process.check_alive()
            if not is_active and (reason := process.failure()) is not None:
                raise CheckpointError(f"the detector could not start: {reason}")
            is_active = is_active or process.is_active()
            client.send(image)


def _check_ports(first: int) -> None:
    """Finds out before anything is started, since rerun only logs it."""
    if not 1 <= first <= _LARGEST_PORT - len(_SERVERS) + 1:
        raise ParameterError(f"port {first}: expected 1 to {_LARGEST_PORT - len(_SERVERS) + 1}")
    for port, what in enumerate(_SERVERS, first):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("", port))
            except OSError as error:
                raise ParameterError(
                    f"port {port}, for the {what}: {error.strerror}; choose others with --port "
                    f"(it takes {len(_SERVERS)}, from there on)"
                ) from error
