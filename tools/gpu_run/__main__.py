# SPDX-License-Identifier: Apache-2.0
"""CUDA tests, benchmark and a training, in a given time.

    python -m tools.gpu_run --out out/gpu --seconds 600
    python -m tools.gpu_run --out out/gpu --packed packed       (made by tools.gpu_run.pack)
    python -m tools.gpu_run --out out/gpu --device cpu --seconds 60

Whatever fails or takes too long, the rest goes on, and ``--out`` holds what there is: a log of
each step and ``results.json`` after each, the benchmark's figures after every case, and the
training's weights twice a minute and at the end. Files of more than 16 MiB are not written there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import AnomalySegError, ParameterError
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.system.tool import run_tool
from tools.gpu_run.steps import REPOSITORY, Outcome, run_command

# torch takes seconds of the time to import, so what needs it is imported where it is needed.

CONFIG = REPOSITORY / "training" / "configs" / "deeplab_lite0_open_set.yaml"
LIMIT = 16 * 2**20
STEPS = ("tests", "benchmark", "training")
# Share of the whole time; the training takes what is left.
_SHARES = {"tests": 0.15, "benchmark": 0.25}
# Share of the training's time for its start, last validation, calibration and writing.
_AROUND = 0.35
# Share of the whole time for the last copies.
_COPYING = 0.05
# Seconds between two copies of the weights.
_INTERVAL = 30.0
_MARK = "pytest.mark.cuda"
_ENDLESS = 10**6
_OPEN_END = (f"steps={_ENDLESS}", "epochs=0.0", "schedule=constant", f"validate_every={_ENDLESS}")
_ON_GPU = ("checkpoint_every=50",)
# A CPU only shows that everything works.
_BENCHMARK_ON_CPU = (
    *("--models", "default", "--backends", "torch", "--network-sizes", "256x512"),
    *("--frame-sizes", "256x512", "--frames", "4", "--seconds", "5", "--load-seconds", "0"),
)
_ON_CPU = (
    *("checkpoint_every=1", "log_every=1", "workers=0", "batch_size=2", "crop=[192, 256]"),
    *("height_range=[192, 384]", "precision=fp32", "validation.size=[128, 256]"),
    *("validation.closed_set_every=100", "validation.mixed_frames=1", "validation.natural=false"),
    *("balance_classes=false", "calibrate=false", "tensorboard=false"),
)


class GpuRun:
    """The steps of one run and what is left of its time.

    Args:
        arguments: Those of the command line.
        data: Data folder of the training.
    """

    def __init__(self, arguments: argparse.Namespace, data: Path) -> None:
        self.out: Path = arguments.out.absolute()
        self.device: str = arguments.device
        self.data = data
        self._arguments = arguments
        self._end = arguments.began + arguments.seconds
        self._copied = (time.monotonic(), 0)
        self.results: dict[str, Any] = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": self.device,
            "seconds": arguments.seconds,
            "steps": {},
        }

    def run(self) -> bool:
        """Runs the chosen steps; returns whether all ended well."""
        self._store()
        for name in self._arguments.steps:
            seconds = min(self._left(), _SHARES.get(name, 1.0) * self._arguments.seconds)
            print(f"{name}: up to {seconds:.0f} s", flush=True)
            outcome: Outcome = getattr(self, f"_{name}")(seconds)
            self.results["steps"].setdefault(name, {}).update(asdict(outcome))
            self._store()
            print(f"{name}: {outcome.end} after {outcome.seconds:.0f} s", flush=True)
        return all(step["end"] == "done" for step in self.results["steps"].values())

    def _left(self) -> float:
        """Seconds left, but for the last copies."""
        return max(0.0, self._end - time.monotonic() - _COPYING * self._arguments.seconds)

    def _store(self) -> None:
        text = json.dumps(self.results, indent=1) + "\n"
        write_atomically(self.out / "results.json", text.encode())

    def _tests(self, seconds: float) -> Outcome:
        """The tests with the mark ``cuda``; without a GPU they are skipped."""
        folder = REPOSITORY / "test"
        files = sorted(
            str(path) for path in folder.rglob("test_*.py") if _MARK in path.read_text("utf-8")
        )
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *files]
        return run_command(command, self.out / "tests.log", seconds, os.environ)

    def _benchmark(self, seconds: float) -> Outcome:
        report = str(self.out / "benchmark.json")
        what = _BENCHMARK_ON_CPU if self.device == "cpu" else ("--profile", "full")
        command = [sys.executable, "-m", "benchmarks.online", *what]
        command += ["--device", self.device, "--out", report]
        return run_command(command, self.out / "benchmark.log", seconds, os.environ)

    def _training(self, seconds: float) -> Outcome:
        settings = [*_OPEN_END, *(_ON_CPU if self.device == "cpu" else self._on_gpu())]
        settings += [*self._arguments.set, f"max_seconds={(1 - _AROUND) * seconds:.1f}"]
        folder: Path = self._arguments.run_dir.absolute()
        command = [sys.executable, "-m", "training.fine_tune", "--run-dir", str(folder)]
        command += ["--config", str(self._arguments.config.absolute())]
        command += ["--data", str(self.data.absolute()), "--device", self.device]
        # Alone on the machine, threads that spin are faster.
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        outcome = run_command(
            [*command, "--set", *settings],
            self.out / "training.log",
            seconds,
            environment,
            self._copy_weights,
        )
        if not (folder / "final.safetensors").is_file():
            self._copy_weights(at_once=True)
        for name in ("final.safetensors", "log.jsonl", "mixed_samples.png"):
            if (folder / name).is_file():
                self._keep(folder / name, self.out / name)
        return outcome

    @staticmethod
    def _on_gpu() -> list[str]:
        return [*_ON_GPU, f"workers={max(1, (os.cpu_count() or 2) - 2)}"]

    def _copy_weights(self, at_once: bool = False) -> None:
        """Writes the last checkpoint's weights as a model file, if there is a new one."""
        checkpoint = self._arguments.run_dir / "last.pt"
        since, seen = self._copied
        # None begins so late that it could keep the training from its end.
        is_late = self._left() < _COPYING * self._arguments.seconds
        if not at_once and (is_late or time.monotonic() - since < _INTERVAL):
            return
        if not checkpoint.is_file() or checkpoint.stat().st_mtime_ns == seen:
            return
        stamp = checkpoint.stat().st_mtime_ns
        notes = self.results["steps"].setdefault("training", {})
        path = self._arguments.run_dir / "weights.safetensors"
        from tools.gpu_run.weights import write_weights

        try:
            notes["weights_of_step"] = write_weights(checkpoint, self.data, path)
            self._keep(path, self.out / path.name)
        except AnomalySegError as error:  # the training itself goes on
            notes["weights"] = str(error)
        self._copied = (time.monotonic(), stamp)

    def _keep(self, path: Path, target: Path) -> None:
        """Copies a file of the run folder, unless it is too large."""
        size = path.stat().st_size
        if size > LIMIT:
            notes = self.results["steps"].setdefault("training", {})
            notes[path.name] = f"not kept: {size / 2**20:.1f} MiB, more than {LIMIT // 2**20}"
            return
        write_atomically(target, path.read_bytes())


def _data_folder() -> Path:
    return Path(os.environ.get("ANOMALY_SEG_DATA", "../shared/data"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for all that is to be kept")
    add("--seconds", type=float, default=600.0, help="of the whole run; default 600")
    add("--device", default="cuda")
    add("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    add("--data", type=Path, default=_data_folder(), help="data folder of the training")
    add("--packed", type=Path, help="folder with part_*.tar, unpacked and used instead of --data")
    add("--config", type=Path, default=CONFIG, help="of the training; default %(default)s")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the training")
    add("--run-dir", type=Path, default=Path("runs/gpu"), help="of the training; resumed")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 if a step failed or ran out of time."""
    parsed = _parser().parse_args(arguments)
    parsed.began = time.monotonic()
    ended_well: list[bool] = []

    def body() -> None:
        if not parsed.seconds > 0:
            raise ParameterError(f"--seconds {parsed.seconds:g}: expected more than 0")
        with tempfile.TemporaryDirectory() as folder:
            data = parsed.data
            if parsed.packed is not None:
                from tools.gpu_run.pack import unpack

                data = Path(folder)
                unpack(parsed.packed.glob("part_*.tar"), data)
            ended_well.append(GpuRun(parsed, data).run())

    return run_tool("gpu_run", body) or int(not all(ended_well))


if __name__ == "__main__":
    sys.exit(main())
