# SPDX-License-Identifier: Apache-2.0
"""The whole of it: errors before anything starts, and a real browser on a real node."""
# ruff: noqa: S310 - the only URLs are those of own servers

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS here")
from anomaly_seg_ros.cli import live

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Small and slow enough for a machine that other tests keep busy.
SLOW = (
    *("-p", "inference_height:=256", "-p", "inference_width:=512"),
    *("--fps", "1", "-p", "object_death:=5"),
)
PATIENCE_S = 300.0


def free_ports() -> int:
    """The first of three."""
    for first in random.sample(range(20000, 30000), 100):
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            try:
                for port, attempt in enumerate((a, b, c), first):
                    attempt.bind(("", port))
            except OSError:
                continue
            return first
    raise AssertionError("no three ports")


def test_a_missing_viewer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("client", "page", "screen"):
        monkeypatch.delitem(sys.modules, f"anomaly_seg_ros.live.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert live.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("live: error: the page needs rerun-sdk")
    assert "pip install 'anomaly_seg_ros[live]'" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.png"], "nowhere.png: no such file or folder"),
        (["-p", "thresold:=0.5"], "parameter 'thresold': the node has none of this name"),
        (["-p", "threshold"], "parameter 'threshold': expected NAME:=VALUE"),
        (["-p", "threshold:=["], "parameter 'threshold': "),
        (["--port", "65534"], "port 65534: expected 1 to 65533"),
    ],
)
def test_a_wrong_call_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (make live)")
    assert live.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"live: error: {said}")


@pytest.mark.parametrize(("offset", "what"), [(0, "page"), (1, "data"), (2, "viewer")])
def test_a_port_in_use_is_one_line(
    offset: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (make live)")
    first = free_ports()
    with socket.create_server(("127.0.0.1", first + offset)):
        assert live.main(["--port", str(first)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"live: error: port {first + offset}, for the {what}: ")
    assert "--port" in line


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts the tool with a command line; the process, and the page's address."""
    running = []

    def begin(*words: str) -> tuple[subprocess.Popen[str], str]:
        pytest.importorskip("rerun", reason="rerun-sdk is not installed (make live)")
        port = free_ports()
        command = [sys.executable, "-m", "anomaly_seg_ros.cli.live", *words, "--port", str(port)]
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(random.randint(1, 101)),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield begin
    for process in running:
        process.terminate()  # a killed one would leave its node behind
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_does_not_start_is_one_line(
    start: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    process, _ = start("-p", "threshold:=2")
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    (line,) = error.splitlines()
    assert line.startswith("live: error: the node ended with code 1: ")
    assert line.endswith("parameter 'threshold' must be in [0.0, 1.0], not 2.0")


def ask(url: str, change: Any = None) -> Any:
    data = None if change is None else json.dumps(change).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def patiently(function: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The function's value once it is true, and raises no error of the network."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            if value := function():
                return value
        except urllib.error.URLError:
            pass
        time.sleep(1.0)
    raise AssertionError(f"not within {PATIENCE_S:.0f} s")


def colours(picture: np.ndarray) -> int:
    """How many colours an image has, in steps of 16: a blank view has a handful."""
    return len(np.unique(picture.reshape(-1, 3) // 16, axis=0))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_shows_the_node_at_work(
    start: Callable[..., tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    """Set ``LIVE_SCREENSHOT`` to a path to keep the picture."""
    process, page = start(*SLOW)
    patiently(lambda: ask(f"{page}/parameters"), process)
    change = {"name": "threshold", "value": 0.52}
    assert ask(f"{page}/parameters", change) == {"refused": ""}
    assert ask(f"{page}/parameters")[0]["value"] == 0.52
    shot = Path(os.environ.get("LIVE_SCREENSHOT", tmp_path / "shot.png"))
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--window-size=1400,860"),
        *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=45000"),
        *(f"--screenshot={shot}", f"{page}/?renderer=webgl"),
    ]

    def views() -> list[np.ndarray] | None:
        """Input, overlay and score as the browser shows them, once they are there."""
        subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
        picture = cv2.imread(str(shot))
        shown = [picture[200:440, left + 20 : left + 440] for left in (0, 467, 933)]
        return shown if all(colours(view) > 60 for view in shown) else None

    seen, overlay, score = patiently(views, process)
    assert np.abs(seen.astype(int) - overlay).mean() > 5
    assert np.abs(overlay.astype(int) - score).mean() > 5
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert page in out
    assert not error
