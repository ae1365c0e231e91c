"""A whole run of the fault-injection replay: a detector, a plan, the books, faults.json."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.errors import AnomalySegError
from tools.fault_replay import frames
from tools.fault_replay.bench import Bench
from tools.fault_replay.census import resident_mib
from tools.fault_replay.host_process import HostProcess
from tools.fault_replay.injector import fire
from tools.fault_replay.ledger import Ledger
from tools.fault_replay.link import DEEP, Link
from tools.fault_replay.network import save_small_model, save_smallest_model
from tools.fault_replay.plan import Action, make_plan, plan_hash
from tools.fault_replay.reproducibility import compare_two_runs
from tools.fault_replay.restarts import kill_and_restart
from tools.fault_replay.sender import Sender
from tools.fault_replay.tables import NOTHING_LEFT, handles_verdict

_PICTURES = 8
_SAMPLE_EVERY = 250  # actions between two looks at the memory
# Shares of the samples: what the run is warm after, and the window at each end of the rest.
_WARM_UP, _WINDOW = 0.2, 0.1
# Of the resident memory after the warm-up.
MOST_GROWTH = 0.02
_DIAGNOSTICS_S = 0.05
_WARM_UP_FRAMES = 200


@dataclass(frozen=True)
class FaultOptions:
    """What to run.

    Attributes:
        frames: To publish, at least.
        seed: Of the plan.
        minimum: Least number of each kind of fault.
        bag: Its frames are the pictures; None takes small generated ones.
        kills: How often the detector's own process is killed, in a run of its own.
    """

    frames: int = 100_000
    seed: int = 0
    minimum: int = 3
    bag: Path | None = None
    kills: int = 3


def run_all(options: FaultOptions, folder: Path) -> dict[str, Any]:
    """The replay, the kills of the detector, and the same frames twice.

    Args:
        options: What to run.
        folder: For weights and logs; exists.

    Returns:
        What stands in faults.json: ``replay``, ``restarts``, ``reproducibility``, and
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
        folder: For the weights and the log of the node; exists.

    Returns:
        What stands in faults.json: ``violations`` is empty if all went well.

    Raises:
        AnomalySegError: The bag or the options are not usable.
    """
    plan = make_plan(options.seed, options.frames, options.minimum)
    pictures = read_pictures(options.bag)
    weights = folder / "smallest.safetensors"
    save_smallest_model(weights)
    parameters: dict[str, object] = {
        "autostart": False,
        "diagnostics_period": _DIAGNOSTICS_S,
        "qos_reliability": "reliable",
        "qos_depth": DEEP.depth,
        "backend": "torch",  # others run no Python and so cannot be made to fail
    }
    host = HostProcess(weights, parameters, folder / "detector.log")
    link = Link(host.check_alive)
    try:
        return _run(options, plan, pictures, host, link)
    finally:
        host.kill()
        link.close()


def _run(
    options: FaultOptions,
    plan: Sequence[Action],
    pictures: Sequence[np.ndarray],
    host: HostProcess,
    link: Link,
) -> dict[str, Any]:
    ledger = Ledger()
    bench = Bench(host, link, ledger, Sender(ledger, pictures))
    memory: list[tuple[int, float]] = []
    actions = 0

    def progress() -> None:
        nonlocal actions
        actions += 1
        if actions % _SAMPLE_EVERY == 0:
            memory.append((bench.sender.frames, resident_mib(host.pid)))

    handles: dict[str, Any] = {"before": host.before}
    started = time.monotonic()
    try:
        handles["cleaned_up_first"] = _first_cycle(bench)
        bench.configure()
        bench.activate()
        began = time.monotonic()
        fire(bench, plan, progress)
        seconds = time.monotonic() - began
        bench.peers.kill_all()
        bench.settle()
        bench.viewers.remove_all()
        bench.deactivate()
        bench.clean_up()
        handles["cleaned_up_last"] = _census(bench)
        handles["fired"] = host.command("fired")["fired"]
        handles["after"] = host.quit()
    except AnomalySegError as error:  # the node hangs or is gone: so far the books are of use
        ledger.violate(str(error))
        seconds = time.monotonic() - started
    finally:
        bench.peers.kill_all()
    return {
        "options": {**asdict(options), "bag": None if options.bag is None else str(options.bag)},
        "plan_sha256": plan_hash(plan),
        "machine": _machine(),
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


def memory_growth(samples: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """How much a process grew after it was warm.

    Args:
        samples: (frames so far, resident MiB), in order.

    Returns:
        ``warm_mib`` and ``last_mib``, medians over the windows after the warm-up and at the end,
        ``growth``, their ratio minus one, and the ``samples``, thinned out.
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


def _first_cycle(bench: Bench) -> dict[str, Any]:
    """One whole life with every output, so that what is made once is made; its handles after."""
    bench.link.wait_for_services()
    bench.host.command("watch", on=True)
    bench.configure()
    bench.viewers.add_all()
    bench.activate()
    bench.ask_plain(_WARM_UP_FRAMES, 0)
    bench.settle()
    bench.viewers.remove_all()
    bench.deactivate()
    bench.clean_up()
    return _census(bench)


def _census(bench: Bench) -> dict[str, Any]:
    bench.link.spin(1.0)  # subscribers and peers that left are still being forgotten
    return bench.host.command("census")


def read_pictures(bag: Path | None) -> list[np.ndarray]:
    """The first pictures of a bag, or small generated ones; (H, W, 3) uint8 RGB each.

    Raises:
        BagError: Not a readable bag with images.
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
