"""What was asked of the online path, beside what a report says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.online import figures
from benchmarks.online.cases import FRAME_SIZE, size_text

MET, MISSED, NOT_RUN = "met", "missed", "not run"
UNCLEAR = "unclear: the machine was busy"
# A node that takes so much less than the network in it was not measured on a quiet machine.
_IMPOSSIBLE = 0.97
_LIGHT_SIZE = [512, 1024]
_GPU_RATES = {"random_resnet101": 100.0, "random_wide_resnet38": 40.0}


class Aim(NamedTuple):
    """An aim, where it was measured, the measured value and the verdict."""

    aim: str
    where: str
    value: str
    verdict: str


def judged(report: dict[str, Any]) -> Iterator[Aim]:
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
    """Of medians and of fastest tenths: only where they agree, one can tell."""
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
        alone = 1e3 / figures.of(cases[model], "network")
        node = 1e3 / figures.of(cases[model], "node")
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
        network, echo = (figures.of(case, name) for name in ("network", "echo_node"))
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
