# SPDX-License-Identifier: Apache-2.0
"""Whole runs: a detector, a plan of faults, the books, and what goes into faults.json."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.errors import AnomalySegError
from tools.fault_replay import frames, node_events, traffic_events
from tools.fault_replay.bench import Bench
from tools.fault_replay.detector_process import DetectorProcess, resident_mib
from tools.fault_replay.frames import BAD_FORMS, GOOD_FORMS
from tools.fault_replay.ledger import Ledger
from tools.fault_replay.link import DEEP, Link
from tools.fault_replay.messages import Sender
from tools.fault_replay.network import save_brittle_model, save_small_model
from tools.fault_replay.node_runs import compare_two_runs, kill_and_restart
from tools.fault_replay.plan import CHECKPOINT, Action, make_plan, plan_hash
from tools.fault_replay.report import NOTHING_LEFT, handles_verdict

# Every action of a plan that is more than one frame.
EVENTS = traffic_events.EVENTS | node_events.EVENTS
# Largest growth of the resident memory after the warm-up, as a fraction.
MOST_GROWTH = 0.02
# Fractions of the memory samples: the warm-up, and the window at each end of the rest.
_WARM_UP, _WINDOW = 0.2, 0.1
_SAMPLE_EVERY = 250  # actions between two samples of the memory
_PICTURES = 8
_DIAGNOSTICS_S = 0.05
_WARM_UP_FRAMES = 200


@dataclass(frozen=True)
class FaultOptions:
    """What to run.

    Attributes:
        frames: Least number of frames to publish.
        seed: Seed of the plan.
        minimum: Least number of each kind of fault.
        bag: Bag whose frames are the pictures; None takes small generated ones.
        kills: How often the detector's own process is killed, in a run of its own.
    """

    frames: int = 100_000
    seed: int = 0
    minimum: int = 3
    bag: Path | None = None
    kills: int = 3


def run_all(options: FaultOptions, folder: Path) -> dict[str, Any]:
    """Runs the replay, the kills of the detector, and the same frames twice.

    Args:
        options: What to run.
        folder: Existing folder for weights and logs.

    Returns:
        The content of faults.json: ``replay``, ``restarts``, ``reproducibility``, and
        ``violations`` of all three, empty if all went well.

    Raises:
        AnomalySegError: The bag or the options are not usable, or a detector did not start.
    """
    pictures = read_pictures(options.bag)
    weights = folder / "small.safetensors"
    save_small_model(weights)
    replay = inject_faults(options, folder)
    restarts = kill_and_restart(weights, pictures, options.kills, folder / "restarts.log")
    same = compare_two_runs(pictures, str(weights), folder / "reproducibility.log")
    violations = [*replay["violations"], *restarts["violations"]]
    if replay["memory"]["growth"] > MOST_GROWTH:
        violations.append(f"memory grew by {100 * replay['memory']['growth']:.1f} %")
    if (held := handles_verdict(replay["handles"])) != NOTHING_LEFT:
        violations.append(f"left after cleanup: {held}")
    if same["different"]:
        violations.append(f"{same['different']} frames have other bytes in a second run")
    return {
        "replay": replay,
        "restarts": restarts,
        "reproducibility": same,
        "violations": violations,
    }


def inject_faults(options: FaultOptions, folder: Path) -> dict[str, Any]:
    """Runs a plan against a detector of its own.

    Args:
        options: What to run.
        folder: Existing folder for the weights and the node's log.

    Returns:
        ``replay`` of faults.json; its ``violations`` are empty if all went well.

    Raises:
        AnomalySegError: The bag or the options are not usable.
    """
    plan = make_plan(options.seed, options.frames, options.minimum)
    pictures = read_pictures(options.bag)
    weights = folder / "brittle.safetensors"
    save_brittle_model(weights)
    parameters: dict[str, object] = {
        "autostart": False,
        "diagnostics_period": _DIAGNOSTICS_S,
        "qos_reliability": "reliable",
        "qos_depth": DEEP.depth,
        "backend": "torch",  # other backends run no Python and so cannot be made to fail
    }
    detector = DetectorProcess(weights, parameters, folder / "detector.log")
    link = Link(detector.check_alive)
    ledger = Ledger()
    bench = Bench(detector, link, ledger, Sender(ledger, pictures))
    try:
        return {
            "options": {
                **asdict(options),
                "bag": None if options.bag is None else str(options.bag),
            },
            "plan_sha256": plan_hash(plan),
            "machine": _machine(),
            **_run(bench, plan),
        }
    finally:
        bench.peers.kill_all()
        detector.kill()
        link.close()


def _run(bench: Bench, plan: Sequence[Action]) -> dict[str, Any]:
    """Fires the plan and collects the books."""
    ledger = bench.ledger
    memory: list[tuple[int, float]] = []
    actions = 0

    def progress() -> None:
        nonlocal actions
        actions += 1
        if actions % _SAMPLE_EVERY == 0:
            memory.append((bench.sender.frames, resident_mib(bench.detector.pid)))

    handles: dict[str, Any] = {"before": bench.detector.before}
    began = time.monotonic()
    try:
        handles["cleaned_up_first"] = _first_cycle(bench)
        bench.start()
        began = time.monotonic()
        fire(bench, plan, progress)
        seconds = time.monotonic() - began
        bench.settle_alone()
        bench.viewers.remove_all()
        bench.stop()
        handles["cleaned_up_last"] = _census(bench)
        handles["fired"] = bench.detector.command("fired")["fired"]
        handles["after"] = bench.detector.quit()
    except AnomalySegError as error:  # the node hangs or is gone: the books so far are of use
        ledger.violate(str(error))
        seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "frames": bench.sender.frames,
        "injected": dict(sorted(bench.injected.items())),
        "seconds_by_kind": {k: round(v, 2) for k, v in sorted(bench.spent.items())},
        "peers_killed": bench.peers.killed,
        "sent": dict(ledger.sent),
        "node": dict(ledger.node),
        "answers": dict(sorted(ledger.answers.items())),
        "while_connected": dict(bench.answers),
        "sums_compared": ledger.checks,
        "memory": memory_growth(memory),
        "handles": handles,
        "violations": ledger.violations,
        "violation_count": ledger.violation_count,
    }


def _first_cycle(bench: Bench) -> dict[str, Any]:
    """One whole life with every output, so that lasting handles exist; those left afterwards."""
    bench.link.wait_for_services()
    bench.detector.command("watch", on=True)
    bench.configure()
    bench.viewers.add_all()
    bench.activate()
    bench.ask_plain(_WARM_UP_FRAMES, 0)
    bench.settle()
    bench.viewers.remove_all()
    bench.stop()
    return _census(bench)


def _census(bench: Bench) -> dict[str, Any]:
    bench.link.spin(1.0)  # subscribers and peers that left are still being forgotten
    return bench.detector.command("census")


def fire(bench: Bench, plan: Iterable[Action], progress: Callable[[], None]) -> None:
    """Carries a plan out.

    Args:
        bench: A bench with an active detector.
        plan: The actions in order.
        progress: Called after each action.
    """
    for number, action in enumerate(plan):
        bench.ledger.situation = f"action {number}, {action.name}"
        started = time.monotonic()
        if action.name == CHECKPOINT:
            bench.checkpoint()
        elif action.name in EVENTS:
            EVENTS[action.name](bench, action.variant)
        else:
            _single_frame(bench, action.name, action.variant)
        bench.injected[action.name] += 1
        bench.spent[action.name] += time.monotonic() - started
        progress()
    bench.ledger.situation = ""


def _single_frame(bench: Bench, name: str, variant: int) -> None:
    if name in GOOD_FORMS or name in BAD_FORMS:
        bench.ask(bench.sender.choose(name, variant))
        return
    plain = bench.sender.choose("plain", variant)
    if name == "duplicated":
        bench.publish(plain)
        bench.ask(plain, bench.last_stamp)
    elif name == "reordered":
        first, second = bench.sender.next_stamp(), bench.sender.next_stamp()
        bench.publish(plain, second)
        bench.ask(plain, first)
    else:
        bench.ask(plain, _odd_stamp(bench, name, variant))


def _odd_stamp(bench: Bench, name: str, variant: int) -> tuple[int, int]:
    """(sec, nanosec) as the fields of a message can hold them, sensible or not."""
    nanosec = variant % 10**9
    stamps = {
        "stamp repeated": bench.last_stamp,
        "stamp going back": (1 + variant % 900, nanosec),
        "stamp far in the future": (2**31 - 1 - variant % 2, nanosec),
        "stamp zero": (0, 0),
        "stamp negative": (-(2**31) + variant % 1000, nanosec),
        "stamp with 4 s of nanoseconds": (1, 2**32 - 1 - variant % 1000),
    }
    return stamps[name]


def memory_growth(samples: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """How much a process grew after its warm-up.

    Args:
        samples: (frames so far, resident MiB), in order.

    Returns:
        ``warm_mib`` and ``last_mib``, medians over the windows after the warm-up and at the end,
        ``growth``, their ratio minus one, and about a hundred of the ``samples``.
    """
    if not samples:
        return {"warm_mib": 0.0, "last_mib": 0.0, "growth": 0.0, "samples": []}
    values = [mib for _, mib in samples]
    window = max(1, round(_WINDOW * len(values)))
    start = round(_WARM_UP * len(values))
    warm, last = median(values[start : start + window]), median(values[-window:])
    step = max(1, len(samples) // 100)
    return {
        "warm_mib": warm,
        "last_mib": last,
        "growth": last / warm - 1,
        "samples": list(samples[::step]),
    }


def read_pictures(bag: Path | None) -> list[np.ndarray]:
    """The first pictures of a bag, or small generated ones; (H, W, 3) uint8 RGB each.

    Raises:
        BagError: It is not a readable bag with images.
    """
    if bag is None:
        return frames.pictures(_PICTURES)
    pictures = []
    with BagReader(bag) as reader:
        for frame in reader.frames():
            pictures.append(frame.to_rgb())
            if len(pictures) == _PICTURES:
                break
    return pictures


def _machine() -> dict[str, str]:
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
