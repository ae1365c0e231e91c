"""Writes docs/performance.md from stored reports.

    python -m benchmarks.online.document out/benchmark/FILE.json --out docs/performance.md

Several files (a CPU machine's, a GPU machine's) give a chapter each. What stands between the
marks of the last chapter of an existing document is kept: it is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anomaly_seg_ros.system.tool import run_tool
from benchmarks.online import aims, figures, tables
from benchmarks.online.cases import size_text
from benchmarks.online.compare import read_report
from benchmarks.online.tables import Table

BEGIN = "<!-- by hand from here; kept when the rest is written again -->"
END = "<!-- by hand until here -->"

_INTRODUCTION = """\
# Performance of the online path

Written by `python -m benchmarks.online.document`; all figures come from stored runs of
`make benchmark`. Sizes are height x width.

## How it is measured

Every case starts six processes, which then take turns of a few frames, so that a busy minute of
the machine meets all of them alike: read the ratios before the milliseconds.

- **network alone**: the network in a loop, from a frame of its size in memory to logits (on a GPU
  with the upload). No ROS, no decoding, no resizing, no score. Three of them: on the node's
  backend and precision; in eager PyTorch float32 as our eager node runs it (BatchNorm folded,
  channels last); in eager PyTorch as it is loaded, which is what the naive node runs.
- **Segmenter.predict**: image array to labels and score, without ROS.
- **our node**: from publishing an Image to holding `~/labels`, `~/ood_score` and
  `~/open_set_mask` of its stamp, in another process. The eager node is the same node with
  `backend: torch`, `precision: fp32`.
- **naive node**: [`naive_node.py`](../benchmarks/online/naive_node.py), written after a tutorial:
  cv_bridge, everything in the callback, logits upsampled before score and argmax. Same network,
  same outputs.
- **echo**: [`echo_node.py`](../benchmarks/online/echo_node.py) takes the frame as bytes and
  publishes three maps of zeros: what the middleware and rclpy take of themselves.

The sender keeps its messages serialised; its publish call is part of the time from topic to topic
and is given beside it. All processes use the same transport, the naive node too, see the settings.
The stages are the node's own, from `/diagnostics`, over all its frames, those that warm up too;
**transport** is each frame's time from topic to topic less what the node says that it worked on
this frame, less the median of `take`. An **overhead** is the time from topic to topic less that of
the network which this very node runs. p10 bounds the fastest tenth, which other work on the
machine disturbs least: an aim is judged only where medians and fastest tenths agree. p99 of fewer
than a hundred frames is close to their maximum. Throughput: frames are sent at 1.5 times the rate
that the latency allows; our node keeps the newest, the naive node's queue of ten makes its answers
late.
"""


def document(reports: Sequence[dict[str, Any]], by_hand: str) -> str:
    """The whole document.

    Args:
        reports: As stored; each becomes a chapter.
        by_hand: Goes between the marks at the end.
    """
    chapters = [part for report in reports for part in _chapter(report)]
    return "\n\n".join([_INTRODUCTION.rstrip(), *chapters, BEGIN, by_hand.strip(), END]) + "\n"


def kept_by_hand(path: Path) -> str:
    """What stands between the marks of an existing document; empty if there is none."""
    if not path.exists():
        return ""
    _, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    text, end, _ = rest.partition(END)
    return text.strip() if begin and end else ""


def _chapter(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield f"## {machine['gpu'] or machine['cpu']}, {machine['cores']} CPU cores"
    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items())
    environment = ", ".join(f"`{k}={v}`" for k, v in machine["environment"].items())
    lines = [
        f"`{report['command'].strip()}`",
        *tables.machine_lines(report),
        f"settings: {settings}; environment: {environment or 'nothing set'}",
    ]
    yield "\n".join(f"- {line}" for line in lines)
    yield _aims(report).markdown()
    yield _overview(report).markdown()
    yield _floors(report).markdown()
    if report.get("head_and_score"):
        yield tables.head_and_score(report).markdown()
    if report["skipped"]:
        yield "\n".join(f"- not run: {key}: {why}" for key, why in report["skipped"].items())
    for case in report["cases"]:
        yield f"### {tables.title(case)}"
        yield from (table.markdown() for table in tables.case_tables(case))


def _aims(report: dict[str, Any]) -> Table:
    return Table("What was aimed at:", ("aim", "case", "measured", ""), list(aims.judged(report)))


def _overview(report: dict[str, Any]) -> Table:
    """One row a case."""
    columns = ("network", "node", "eager_node", "naive_node", "echo_node")
    rows = []
    for case in report["cases"]:
        ratios, entries = case["ratios"]["median"], case["contenders"]
        load = entries["node"].get("load", {})
        rows.append(
            (
                f"{case['model']}, {case['backend']} {case['precision']}",
                size_text(case["network_size"]),
                size_text(case["frame_size"]),
                *(f"{figures.of(case, name):.1f}" for name in columns),
                *(
                    f"{ratios[key]:.2f}" if key in ratios else "-"
                    for key in ("node_over_network", "eager_node_over_node", "naive_over_node")
                ),
                f"{load['answered_per_s']:.1f}" if load else "-",
            )
        )
    head = (
        *("model", "network", "frames", "network alone ms", "our node ms", "eager node ms"),
        *("naive node ms", "echo ms", "ours / alone", "eager / ours", "naive / ours", "frames/s"),
    )
    return Table("Medians and their ratios:", head, rows)


def _floors(report: dict[str, Any]) -> Table:
    """What a node cannot beat, and how far ours is from it."""
    rows = []
    for case in report["cases"]:
        size = size_text(case["frame_size"])
        copy = report["floors"]["copy_ms"][size]
        network, node = (figures.of(case, name) for name in ("network", "node"))
        rows.append(
            (
                f"{case['model']}, network {size_text(case['network_size'])}, frames {size}",
                f"{copy:.2f}",
                f"{network:.1f}",
                f"{copy + network:.1f}",
                f"{node:.1f}",
                f"{node / (copy + network):.2f}",
            )
        )
    head = ("case", "copies ms", "network ms", "floor ms", "our node ms", "node / floor")
    caption = (
        "Floors: the frame copied in and its three outputs copied out once (NumPy, one thread), "
        "and the network alone:"
    )
    return Table(caption, head, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args(argv)

    def write() -> None:
        text = document([read_report(p) for p in arguments.reports], kept_by_hand(arguments.out))
        arguments.out.write_text(text, encoding="utf-8")

    return run_tool("document", write)


if __name__ == "__main__":
    sys.exit(main())
