# SPDX-License-Identifier: Apache-2.0
"""Writes docs/performance.md from stored reports.

    python -m benchmarks.online.document out/benchmark/FILE.json --out docs/performance.md

Several files (a CPU machine's, a GPU machine's) give a chapter each. What stands between the
marks of the last chapter of an existing document is kept: it is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_seg_ros.system.tool import run_tool
from benchmarks.online import report_tables, timings
from benchmarks.online.cases import FRAME_SIZE, size_text
from benchmarks.online.report_tables import Table, read_report

BEGIN = "<!-- by hand from here; kept when the rest is written again -->"
END = "<!-- by hand until here -->"

MET, MISSED, NOT_RUN = "met", "missed", "not run"
UNCLEAR = "unclear: the machine was busy"
# Below this ratio of a node to its own network, the machine was not quiet.
_IMPOSSIBLE = 0.97
_LIGHT_SIZE = [512, 1024]
_GPU_RATES = {"random_resnet101": 100.0, "random_wide_resnet38": 40.0}

_INTRODUCTION = """\
# Performance of the online path

How long a frame takes from topic to topic, and where the time goes.
`python -m benchmarks.online.document` writes this page from stored runs of `make benchmark`. Sizes
are height x width. In runs from before December 2026 `default` is the model that is called
`deeplab_lite0_open_set` today.

## How it is measured

Every case starts six processes that take turns of a few frames each, so that a busy minute of the
machine hits all of them alike. Read the ratios before the milliseconds.

- **network alone**: the network in a loop, from a frame of its size in memory to logits (on a GPU
  including the upload): no ROS, decoding, resizing or score. There are three of them: on the
  node's backend and precision; in eager PyTorch float32 as our eager node runs it (BatchNorm
  folded, channels last); in eager PyTorch as loaded, which is what the naive node runs.
- **Segmenter.predict**: from image array to labels and score, without ROS.
- **our node**: from publishing an Image to holding `~/labels`, `~/ood_score` and
  `~/open_set_mask` of its stamp in another process. The eager node is the same node with
  `backend: torch`, `precision: fp32`.
- **naive node**: [`naive_node.py`](../benchmarks/online/naive_node.py), written after a tutorial:
  cv_bridge, everything in the callback, logits upsampled before score and argmax. Same network,
  same outputs.
- **echo**: [`echo_node.py`](../benchmarks/online/echo_node.py) takes the frame as bytes and
  publishes three maps of zeros: the cost of the middleware and rclpy alone.

The sender keeps its messages serialised. Its publish call counts towards the time from topic to
topic and is also listed by itself. All processes, the naive node included, use the same transport
(see the settings). The stages come from the node's own `/diagnostics` and cover all its frames,
including warm-up. **transport** is a frame's time from topic to topic, minus the time that the
node reports for this frame, minus the median of `take`. An **overhead** is the time from topic to
topic minus that of the network which the same node runs. p10 bounds the fastest tenth, which other
work on the machine disturbs least: an aim is judged only where medians and fastest tenths agree.
With fewer than a hundred frames, p99 is close to the maximum. For throughput, frames are sent at
1.5 times the rate that the latency allows; our node keeps the newest, while the naive node's queue
of ten makes its answers late.
"""


def document(reports: Sequence[dict[str, Any]], by_hand: str) -> str:
    """The whole document.

    Args:
        reports: Stored reports; each becomes a chapter.
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
        *report_tables.machine_lines(report),
        f"settings: {settings}; environment: {environment or 'nothing set'}",
    ]
    yield "\n".join(f"- {line}" for line in lines)
    yield _aims(report).markdown()
    yield _overview(report).markdown()
    yield _floors(report).markdown()
    if report.get("head_and_score"):
        yield report_tables.head_and_score(report).markdown()
    if report["skipped"]:
        yield "\n".join(f"- not run: {key}: {why}" for key, why in report["skipped"].items())
    for case in report["cases"]:
        yield f"### {report_tables.title(case)}"
        yield from (table.markdown() for table in report_tables.case_tables(case))


def _aims(report: dict[str, Any]) -> Table:
    return Table("What was aimed at:", ("aim", "case", "measured", ""), list(judged_aims(report)))


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
                *(f"{timings.of(case, name):.1f}" for name in columns),
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
        network, node = (timings.of(case, name) for name in ("network", "node"))
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


class Aim(NamedTuple):
    """An aim, where it was measured, the measured value and the verdict."""

    aim: str
    where: str
    value: str
    verdict: str


def judged_aims(report: dict[str, Any]) -> Iterator[Aim]:
    """All aims, each for every case that it speaks of."""
    on_gpu = report["machine"]["gpu"] is not None
    yield from _every_case(report)
    if not on_gpu:
        yield from _two_cores(report)
    yield from _gpu(report, on_gpu)


def _every_case(report: dict[str, Any]) -> Iterator[Aim]:
    cases = [c for c in report["cases"] if "overhead_node_ms" in c["ratios"]["median"]]
    for case in cases:
        ratios = case["ratios"]["median"]
        if case["frame_size"] == list(FRAME_SIZE):
            more, ms = ratios["node_over_network"] - 1, ratios["node_minus_network_ms"]
            yield Aim(
                "topic to topic within 5 % and 5 ms of the network alone",
                _where(case),
                f"{100 * more:+.0f} %, {ms:+.1f} ms",
                _verdict(
                    case,
                    lambda r: r["node_over_network"] <= 1.05 and r["node_minus_network_ms"] <= 5,
                ),
            )
    for case in cases:
        ratios = case["ratios"]["median"]
        ours, naive = ratios["overhead_node_ms"], ratios["overhead_naive_node_ms"]
        yield Aim(
            "at most half the naive node's overhead",
            _where(case),
            f"{ours:.1f} ms of {naive:.1f} ms",
            _verdict(case, lambda r: 2 * r["overhead_node_ms"] <= r["overhead_naive_node_ms"]),
        )


def _two_cores(report: dict[str, Any]) -> Iterator[Aim]:
    for case in report["cases"]:
        if case["model"] != "default" or case["network_size"] != _LIGHT_SIZE:
            continue
        ratio = case["ratios"]["median"].get("eager_node_over_node")
        if ratio is not None:
            verdict = _verdict(case, lambda r: r["eager_node_over_node"] >= 3)
            yield Aim("3 times the eager node", _where(case), f"{ratio:.2f}", verdict)
        rate = case["contenders"].get("node", {}).get("load", {}).get("answered_per_s")
        if rate is not None:
            verdict = MET if rate >= 25 else MISSED
            yield Aim("25 frames/s", _where(case), f"{rate:.1f} frames/s", verdict)


def _verdict(case: dict[str, Any], is_met: Callable[[dict[str, float]], bool]) -> str:
    """Judges by medians and by fastest tenths; where they disagree the verdict is unclear."""
    median, fast = (case["ratios"][statistic] for statistic in ("median", "p10"))
    if median.get("node_over_network", 1.0) < _IMPOSSIBLE or is_met(median) != is_met(fast):
        return UNCLEAR
    return MET if is_met(median) else MISSED


def _gpu(report: dict[str, Any], on_gpu: bool) -> Iterator[Aim]:
    heads = [entry for entry in report.get("head_and_score", ()) if "graph_ms" in entry]
    aim = "DenseHybrid's head and score under 0.3 ms at 2 MP (GPU)"
    for entry in heads:
        fastest = min(entry["eager_ms"], entry["graph_ms"])
        verdict = MET if fastest < 0.3 else MISSED
        yield Aim(aim, entry["network"], f"{fastest:.3f} ms", verdict)
    if not heads:
        yield Aim(aim, "-", "-", NOT_RUN)
    cases = {case["model"]: case for case in report["cases"]}
    for model, rate in _GPU_RATES.items():
        aim = f"{model.removeprefix('random_')} at {rate:.0f} frames/s (GPU)"
        if not on_gpu or model not in cases:
            yield Aim(aim, "-", "-", NOT_RUN)
            continue
        alone = 1e3 / timings.of(cases[model], "network")
        node = 1e3 / timings.of(cases[model], "node")
        yield Aim(
            aim,
            _where(cases[model]),
            f"network {alone:.0f}, topic to topic {node:.0f} frames/s",
            MET if node >= rate else MISSED,
        )
    aim = "default model limited by the transport (GPU)"
    case = next((c for c in report["cases"] if on_gpu and c["model"] == "default"), None)
    if case is None:
        yield Aim(aim, "-", "-", NOT_RUN)
    else:
        network, echo = (timings.of(case, name) for name in ("network", "echo_node"))
        yield Aim(
            aim,
            _where(case),
            f"network {network:.1f} ms, transport {echo:.1f} ms",
            MET if network < echo else MISSED,
        )


def _where(case: dict[str, Any]) -> str:
    return (
        f"{case['model']} ({case['backend']} {case['precision']}), network "
        f"{size_text(case['network_size'])}, frames {size_text(case['frame_size'])}"
    )


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
