# SPDX-License-Identifier: Apache-2.0
"""A page that steps through a film frame by frame, by keyboard, with what was found in each.

It stands beside the film and needs nothing else; a long run costs it a line for each frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from anomaly_seg_ros.io.atomic import write_atomically

BROWSER = "frames.html"


@dataclass(frozen=True)
class BrowsedFrame:
    """One frame.

    Attributes:
        name: Its name.
        told: What was found in it, for people.
        seconds: When it begins in the film.
        value: Height of its bar over the time, [0, 1].
        mark: Why it is of interest, a key of the page's marks; empty if it is not.
    """

    name: str
    told: str
    seconds: float
    value: float
    mark: str = ""


def write_frame_browser(
    film: Path,
    title: str,
    sentence: str,
    frame_rate: float,
    frames: Sequence[BrowsedFrame],
    marks: Mapping[str, str],
) -> Path:
    """Writes the page beside the film.

    Args:
        film: The film, whose name the page refers to.
        title: What was segmented.
        sentence: What came of it.
        frame_rate: Frames per second of the film.
        frames: At least one, in order.
        marks: Reasons for interest and their CSS colours.

    Returns:
        The page's path.

    Raises:
        OutputError: It cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    found = {frame.mark for frame in frames}
    # In a script nothing but "</" could end the data.
    data = json.dumps([asdict(frame) for frame in frames]).replace("<", "\\u003c")
    page = environment.get_template("frame_browser.html").render(
        title=title,
        sentence=sentence,
        video=film.name,
        frame_rate=frame_rate,
        frames=Markup(data),  # noqa: S704 - escaped above
        marks={mark: colour for mark, colour in marks.items() if mark in found},
    )
    path = film.with_name(BROWSER)
    write_atomically(path, page.encode())
    return path
