# SPDX-License-Identifier: Apache-2.0
"""The page: sliders for the detector's thresholds beside rerun's viewer.

rerun's viewer cannot call back into the program that fills it, so the page that frames it has the
controls. Viewer and page come from one server, which listens on this machine only and forbids the
browser to contact any other.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol
from urllib.error import URLError

from anomaly_seg_ros.errors import AnomalySegError

if TYPE_CHECKING:
    from anomaly_seg_ros.live.client import ParameterState

CONTROLS = (
    *("threshold", "object_low_threshold", "object_min_score", "object_min_area"),
    "overlay_alpha",
)
_LONGEST_REQUEST = 1000
_LARGEST_VALUE = 1e9  # of any of these parameters, and what ROS's integers hold
_OWN_NAMES = ("127.0.0.1", "localhost")


class Detector(Protocol):
    """What the page needs of :class:`~anomaly_seg_ros.live.client.DetectorClient`."""

    def parameters(self, names: Sequence[str]) -> list[ParameterState]:
        """Values and ranges of these parameters."""
        ...

    def set_parameter(self, name: str, value: float) -> str:
        """Sets a parameter; returns why it is refused, or nothing."""
        ...


class PageServer(ThreadingHTTPServer):
    """Serves the page at ``http://127.0.0.1:<port>/``.

    Args:
        port: Its port.
        title: What is shown.
        detector: Whose parameters the page shows and sets.
        data_port: Port of the viewer's data on this machine.
        viewer_port: Port of the viewer's files.
    """

    daemon_threads = True

    def __init__(
        self, port: int, title: str, detector: Detector, data_port: int, viewer_port: int
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.detector = detector
        self.viewer = f"http://127.0.0.1:{viewer_port}"
        data = [f"http://{name}:{data_port}" for name in _OWN_NAMES]
        self.policy = (
            "default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:; "
            f"connect-src 'self' data: blob: {' '.join(data)}; frame-ancestors 'self'"
        )
        self.settings = {"title": title, "dataPort": data_port}

    def handle_error(self, *request: Any) -> None:
        """Keeps quiet about a browser that goes away while it loads."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        """The page, its settings, the parameters, or one of the viewer's files."""
        if not self._is_ours():
            return
        path = self.path.partition("?")[0]
        if path == "/":
            page = files(__package__).joinpath("page.html").read_bytes()
            self._send(200, "text/html; charset=utf-8", page)
        elif path == "/settings":
            self._answer(lambda: self.server.settings)
        elif path == "/parameters":
            self._answer(lambda: [p._asdict() for p in self.server.detector.parameters(CONTROLS)])
        elif path.startswith("/viewer/"):
            self._forward(path.removeprefix("/viewer"))
        else:
            self._answer_error(404, f"no page {path}")

    def do_POST(self) -> None:
        """Sets a parameter: ``{"name": ..., "value": ...}`` to ``/parameters``."""
        if not self._is_ours():
            return
        # Pages of other sites cannot send this type without asking first.
        if self.path != "/parameters" or self.headers["Content-Type"] != "application/json":
            self._answer_error(404, "POST application/json to /parameters")
            return
        try:
            length = min(int(self.headers["Content-Length"]), _LONGEST_REQUEST)
            change = json.loads(self.rfile.read(max(0, length)))
            name, value = change["name"], change["value"]
        except (TypeError, KeyError, ValueError):
            name = value = None
        if type(value) not in (int, float) or not abs(value) < _LARGEST_VALUE:  # or NaN
            self._answer_error(400, 'expected {"name": ..., "value": number}')
            return
        if name not in CONTROLS:
            self._answer_error(400, f"parameter {name!r} is none of {', '.join(CONTROLS)}")
            return
        self._answer(lambda: {"refused": self.server.detector.set_parameter(name, value)})

    def _is_ours(self) -> bool:
        """Refuses names that a foreign site had resolved to this machine."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in _OWN_NAMES:
            self._answer_error(403, f"open this page as one of {', '.join(_OWN_NAMES)}")
            return False
        return True

    def _answer(self, content: Callable[[], Any]) -> None:
        try:
            self._send(200, "application/json", json.dumps(content()).encode())
        except AnomalySegError as error:
            self._answer_error(503, str(error))

    def _answer_error(self, code: int, reason: str) -> None:
        self._send(code, "application/json", json.dumps({"error": reason}).encode())

    def _forward(self, path: str) -> None:
        try:
            with urllib.request.urlopen(self.server.viewer + path) as file:  # noqa: S310 - http
                self._head(200, file.headers["Content-Type"], file.headers["Content-Length"])
                shutil.copyfileobj(file, self.wfile)
        except URLError as error:
            self._answer_error(404, f"viewer: {error.reason}")

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self._head(code, kind, str(len(content)))
        self.wfile.write(content)

    def _head(self, code: int, kind: str, length: str | None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", length)
        self.send_header("Content-Security-Policy", self.server.policy)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing: the terminal is for the user."""
