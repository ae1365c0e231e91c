# SPDX-License-Identifier: Apache-2.0
"""Segments pictures, folders, a video or a camera: overlays, masks, scores, objects, a film.

Without an input it shows the rendered clip. Needs no ROS. Pictures of an interrupted run are not
done again. Exit code 0: all done; 1: an error; 3: done, but part of the input could not be read,
which is named; 130: stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.cli.network_options import add_segmenter_options, segmenter_options
from anomaly_seg_ros.footage.output_folder import DEFAULT_KINDS, KINDS
from anomaly_seg_ros.footage.sources import open_source
from anomaly_seg_ros.inference.options import AUTO, SegmenterOptions
from anomaly_seg_ros.objects.regions import ObjectRule
from anomaly_seg_ros.scores import SCORES
from anomaly_seg_ros.system.resources import asset_path
from anomaly_seg_ros.system.tool import run_tool

TOOL = "segment"
PARTLY_READ = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    partly_read = False

    def body() -> None:
        nonlocal partly_read
        source = open_source(arguments.input or [str(asset_path("demo_clip"))])
        # Not above: neither --help nor a wrong input waits for torch.
        from anomaly_seg_ros.footage.run import SegmentOptions, segment

        options = SegmentOptions(
            model=arguments.model,
            segmenter=segmenter_options(arguments),
            score=arguments.score,
            rule=ObjectRule(
                threshold=arguments.threshold,
                low_threshold=arguments.low_threshold,
                min_area=arguments.min_area,
                min_score=arguments.threshold
                if arguments.min_score is None
                else arguments.min_score,
            ),
            false_alarms=arguments.false_alarms,
            alpha=arguments.alpha,
            kinds=tuple(arguments.write),
            frame_rate=arguments.fps,
            independent=arguments.independent,
            limit=arguments.limit,
            fresh=arguments.fresh,
        )
        summary = segment(source, arguments.out, options)
        for note in summary.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"{summary}; written to {arguments.out}")
        partly_read = summary.is_partial
        if summary.stopped:
            raise KeyboardInterrupt

    return run_tool(TOOL, body) or (PARTLY_READ if partly_read else 0)


def _parser() -> argparse.ArgumentParser:
    default = ObjectRule()
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "input",
        nargs="*",
        help="pictures and folders, or one video, camera (0, /dev/video0) or URL of a stream "
        "(default: the rendered clip)",
    )
    what.add_argument(
        "--out", type=Path, default=Path("out/segment"), help="(default: %(default)s)"
    )
    what.add_argument(
        "--write",
        nargs="+",
        choices=KINDS,
        default=list(DEFAULT_KINDS),
        help="beside objects.json (default: %(default)s)",
    )
    what.add_argument("--limit", type=int, help="use only the first LIMIT frames")
    what.add_argument(
        "--independent",
        action="store_true",
        help="the pictures are not frames of one drive: no object is followed through them",
    )
    what.add_argument(
        "--fresh", action="store_true", help="discard an earlier run in OUT; it must be one"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--model", default="default", help="a name, such as default, or a file")
    how.add_argument("--score", default=AUTO, choices=(AUTO, *SCORES))
    how.add_argument(
        "--threshold",
        type=float,
        default=default.threshold,
        help="score in [0, 1] from which a pixel is unknown (default: %(default)s, as calibrated)",
    )
    how.add_argument(
        "--low-threshold",
        type=float,
        default=default.low_threshold,
        help="score down to which an object grows from such pixels (default: %(default)s)",
    )
    how.add_argument(
        "--min-area",
        type=int,
        metavar="PIXELS",
        default=default.min_area,
        help="of the smallest object (default: %(default)s)",
    )
    fewest = how.add_mutually_exclusive_group()
    fewest.add_argument(
        "--min-score",
        type=float,
        help="smallest mean score of an object's pixels, 0 to 1 (default: THRESHOLD)",
    )
    fewest.add_argument(
        "--false-alarms",
        type=float,
        metavar="RATE",
        help="false objects per frame, in place of --min-score: needs a model whose objects were "
        "calibrated",
    )
    how.add_argument(
        "--alpha",
        type=float,
        default=0.45,
        help="opacity of the class colours, 0 to 1 (default: %(default)s)",
    )
    how.add_argument(
        "--fps",
        type=float,
        help="frames per second of pictures and of the film (default: the video's, else 10)",
    )
    network = parser.add_argument_group("network")
    add_segmenter_options(network, SegmenterOptions(backend=AUTO))
    return parser


if __name__ == "__main__":
    sys.exit(main())
