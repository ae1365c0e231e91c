# SPDX-License-Identifier: Apache-2.0
"""Runs the node on a bag, a video, pictures or a camera, and shows it in the browser.

Without an input it plays the rendered clip. The page has image, overlay, score, unknown objects,
latency and lost frames over time, and sliders for the thresholds. Ctrl-C ends it. Needs rerun-sdk,
which ``make live`` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.safe_yaml_json import parse_yaml, read_yaml
from anomaly_seg_ros.system.resources import asset_path, config_path
from anomaly_seg_ros.system.tool import run_tool

TOOL = "live"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "input",
        nargs="?",
        help="a bag, a video, a picture or a folder of them, a camera (0, /dev/video0) or URL of "
        "a stream (default: the rendered clip)",
    )
    parser.add_argument("--model", default="default", help="a name, such as default, or a file")
    parser.add_argument(
        *("-p", "--param"),
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="another parameter of the node (docs/node.md), such as device:=cpu; repeatable",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=9870,
        help="port of the page; the next two are the viewer's (default: %(default)s)",
    )
    parser.add_argument(
        "--fps", type=float, help="frames per second of pictures and videos (default: own, or 10)"
    )
    parser.add_argument("--image-topic", help="topic of the camera in a bag (default: chosen)")
    arguments = parser.parse_args(argv)

    def body() -> None:
        # Not above: neither --help nor a wrong call waits for ROS.
        from anomaly_seg_ros.live.run import LiveOptions, live

        options = LiveOptions(
            parameters={"model": arguments.model, **dict(map(_parameter, arguments.param))},
            port=arguments.port,
            frame_rate=arguments.fps,
            image_topic=arguments.image_topic,
        )
        given = arguments.input or str(asset_path("demo_clip"))
        live(given, options, lambda line: print(line, flush=True))

    return run_tool(TOOL, body)


def _parameter(text: str) -> tuple[str, Any]:
    """Splits NAME:=VALUE; the node judges the value."""
    name, separator, value = text.partition(":=")
    if not separator:
        raise ParameterError(f"parameter {text!r}: expected NAME:=VALUE")
    defaults = read_yaml(config_path("detector.yaml"), ParameterError)
    if name not in defaults["/**"]["ros__parameters"]:
        raise ParameterError(f"parameter '{name}': the node has none of this name")
    return name, parse_yaml(value, f"parameter '{name}'", ParameterError)


if __name__ == "__main__":
    sys.exit(main())
