# SPDX-License-Identifier: Apache-2.0
"""The page shows and sets parameters, for this machine only, and hands out the viewer's files."""
# ruff: noqa: S310 - the only URLs are those of own servers

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import pytest

from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.live.page import CONTROLS, PageServer

JSON = {"Content-Type": "application/json"}


class State(NamedTuple):
    name: str
    value: float
    about: str = "what it does"
    minimum: float = 0.0
    maximum: float = 1.0


class FakeDetector:
    def __init__(self) -> None:
        self.values: dict[str, Any] = dict.fromkeys(CONTROLS, 0.5)
        self.answers = True

    def parameters(self, names: Sequence[str]) -> list[State]:
        if not self.answers:
            raise DiscoveryError("the detector does not answer yet")
        return [State(name, self.values[name]) for name in names]

    def set_parameter(self, name: str, value: float) -> str:
        if name == "object_low_threshold" and value > self.values["threshold"]:
            return "must not exceed the threshold"
        self.values[name] = value
        return ""


class FakeViewer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/re_viewer_bg.wasm"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/wasm")
        self.end_headers()
        if known:
            self.wfile.write(b"\0asm")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
def page(detector: FakeDetector) -> Iterator[str]:
    """The page's address, without the last slash."""
    viewer = HTTPServer(("127.0.0.1", 0), FakeViewer)
    server = PageServer(0, "<clip>", detector, 9871, viewer.server_port)
    for running in (viewer, server):
        threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    for running in (viewer, server):
        running.shutdown()
        running.server_close()


def ask(url: str, change: Any = None, headers: dict[str, str] = JSON) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    data = None if change is None else json.dumps(change).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_page_learns_what_there_is_to_set(page: str) -> None:
    assert ask(f"{page}/settings") == (200, {"title": "<clip>", "dataPort": 9871})
    status, parameters = ask(f"{page}/parameters")
    assert status == 200
    assert [parameter["name"] for parameter in parameters] == list(CONTROLS)
    wanted = {"value": 0.5, "about": "what it does", "minimum": 0.0, "maximum": 1.0}
    assert parameters[0] == {"name": "threshold", **wanted}


def test_a_slider_sets_the_parameter(page: str, detector: FakeDetector) -> None:
    change = {"name": "threshold", "value": 0.25}
    assert ask(f"{page}/parameters", change) == (200, {"refused": ""})
    assert detector.values["threshold"] == 0.25
    assert ask(f"{page}/parameters")[1][0]["value"] == 0.25


def test_what_the_detector_refuses_is_told(page: str) -> None:
    change = {"name": "object_low_threshold", "value": 0.9}
    refused = {"refused": "must not exceed the threshold"}
    assert ask(f"{page}/parameters", change) == (200, refused)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "model", "value": 1}, "parameter 'model' is none of threshold"),
        ({"name": "threshold", "value": True}, "expected {"),
        ({"name": "threshold", "value": "0.5"}, "expected {"),
        ({"name": "threshold", "value": float("nan")}, "expected {"),
        ({"name": "object_min_area", "value": 10**30}, "expected {"),
        ({"name": "threshold"}, "expected {"),
        ([], "expected {"),
        ({"name": [], "value": 0}, "parameter [] is none of"),
    ],
)
def test_a_wrong_change_is_an_error(
    page: str, detector: FakeDetector, change: Any, said: str
) -> None:
    status, answer = ask(f"{page}/parameters", change)
    assert status == 400
    assert answer["error"].startswith(said)
    assert set(detector.values.values()) == {0.5}


def test_a_detector_that_is_not_there_yet_is_told(page: str, detector: FakeDetector) -> None:
    detector.answers = False
    said = {"error": "the detector does not answer yet"}
    assert ask(f"{page}/parameters") == (503, said)


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {**JSON, "Host": "evil.example:80"}],
    ids=["another site's form", "another site's name for this machine"],
)
def test_other_sites_cannot_set_anything(
    page: str, detector: FakeDetector, headers: dict[str, str]
) -> None:
    status, _ = ask(f"{page}/parameters", {"name": "threshold", "value": 0.1}, headers)
    assert status in (403, 404)
    assert detector.values["threshold"] == 0.5


def test_page_and_viewer_may_contact_this_machine_only(page: str) -> None:
    for path in ("/", "/viewer/re_viewer_bg.wasm"):
        with urllib.request.urlopen(page + path) as answer:
            policy = dict(
                part.split(" ", 1)
                for part in answer.headers["Content-Security-Policy"].split("; ")
            )
            assert "http" not in policy["default-src"]
            hosts = [word for word in policy["connect-src"].split() if "http" in word]
            assert hosts == ["http://127.0.0.1:9871", "http://localhost:9871"]
            assert answer.read()


def test_a_file_that_the_viewer_lacks_is_missing(page: str) -> None:
    assert ask(f"{page}/viewer/other.js")[0] == 404
    assert ask(f"{page}/other")[0] == 404
