# SPDX-License-Identifier: Apache-2.0
"""The page holds its data safely, and answers keys in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.footage.film import OverlayVideo
from anomaly_seg_ros.footage.frame_browser import BrowsedFrame, write_frame_browser

MARKS = {"missed": "#ffb020"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
COUNT = 30
# Presses keys and writes down where that led.
PRESS = """<script>
const seen = [];
const press = (key, shiftKey = false) => {
  document.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, cancelable: true }));
  seen.push(document.querySelector("#number").textContent);
};
for (const key of ["ArrowRight", "ArrowRight", "n", "n", "n", "p", "End", "ArrowRight", "Home"]) press(key);
press("ArrowLeft"); press("ArrowRight", true); press("P");
document.body.dataset.seen = seen.join(", ");
</script></body>"""  # noqa: E501


def colour(index: int) -> tuple[int, int, int]:
    return 8 * index, 255 - 8 * index, 60


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every frame in a colour of its own; the sixth and the 21st are of interest."""
    folder = tmp_path_factory.mktemp("browser")
    with OverlayVideo(folder / "overlay.mp4", (90, 160), 10) as film:
        for index in range(COUNT):
            film.write(np.full((90, 160, 3), colour(index), np.uint8))
    frames = [
        BrowsedFrame(f"f{index}", "nothing", index / 10, 0.5, "missed" if index in (5, 20) else "")
        for index in range(COUNT)
    ]
    return write_frame_browser(folder / "overlay.mp4", "clip", "Found all.", 10.0, frames, MARKS)


def chromium(page: Path, *arguments: str) -> str:
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=8000", *arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout


def test_text_from_outside_cannot_leave_its_place(tmp_path: Path) -> None:
    evil = '</script><script>alert("1")</script>'
    frames = [BrowsedFrame(evil, evil, 0.0, 1.0, "missed")]
    path = write_frame_browser(tmp_path / "overlay.mp4", evil, evil, 10.0, frames, MARKS)
    text = path.read_text(encoding="utf-8")
    assert path.name == "frames.html"
    assert "<script>alert" not in text
    data = re.search(r'id="frames">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])[0]["name"] == evil
    assert not re.search(r"https?://", text)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_keys_step_through_the_frames(page: Path) -> None:
    pressed = page.with_name("pressed.html")
    pressed.write_text(page.read_text().replace("</body>", PRESS))
    dom = chromium(page, "--dump-dom", pressed.as_uri())
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found is not None
    places = [int(text.split(" / ")[0]) for text in found[1].split(", ")]
    assert places == [2, 3, 6, 21, 21, 6, 30, 30, 1, 1, 11, 6]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("index", [0, 13, 29])
def test_the_browser_shows_the_very_frame(page: Path, index: int) -> None:
    shot = page.with_name(f"{index}.png")
    chromium(page, "--window-size=800,600", f"--screenshot={shot}", f"{page.as_uri()}#{index}")
    picture = cv2.imread(str(shot))[..., ::-1]
    shown = picture[200:300, 350:450].reshape(-1, 3).mean(axis=0)
    distances = [np.abs(shown - colour(other)).max() for other in range(COUNT)]
    assert int(np.argmin(distances)) == index
    assert min(distances) < 8
