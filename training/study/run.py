# SPDX-License-Identifier: Apache-2.0
"""Fine-tune many models, measure each on the anomaly sets, and write the tables of a study.

    python -m training.study --out runs/study             # run what is not finished
    python -m training.study --out runs/study --collect   # put what is finished into the results
    python -m training.study --tables                     # write the page from the results

The results are a small JSON file (docs/results.json) that is committed; the page (docs/results.md)
is written from it alone.

Every row's first seed comes before any second one, and a run may be stopped and started at any
time: a finished experiment is not repeated, an unfinished training is resumed, and one that
several tables share is trained once. It is measured again, but not trained again, if a table asks
for a score that was not measured, or if the sets, the options or ``--data`` have changed. The
anomaly sets are never trained on.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anomaly_seg_ros.errors import AnomalySegError, ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import TrainingData
from training.engine.config import CONFIGS, load_config
from training.engine.distributed import Distributed, training_device
from training.engine.entry import Run, data_folder, folder_argument, use_exact_float32
from training.engine.storage import write_atomically
from training.fine_tune import fine_tune
from training.study.bootstrap import Samples
from training.study.experiments import (
    Experiment,
    in_order,
    measure_options,
    protocol,
    read_experiments,
    read_study,
    require_keys,
    study_data,
)
from training.study.image_scores import save_histograms
from training.study.measure import measure
from training.study.page import write_page
from training.study.results import Collector, read_results, write_results

RESULT = "result.json"
HISTOGRAMS = "images.npz"
# A model of an unfinished experiment is as large as the network; its training state is larger.
_TRAINING_STATE = "last.pt"
_DOCS = Path(__file__).parents[2] / "docs"


def finished_result(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the result in a run folder, if it was measured under the wanted protocol.

    Args:
        folder: Run folder of an experiment.
        wanted: See :func:`~training.study.experiments.protocol`. Further sets do no harm.

    Returns:
        None if there is no result, or if it was measured differently.

    Raises:
        ParameterError: The file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    result = safe_yaml_json.read_json(path, ParameterError)
    require_keys(result, ("asked", "sets", "mIoU", "protocol"), str(path))
    measured = result["protocol"]
    require_keys(measured, wanted, f"{path}: protocol")
    same = all(measured[key] == wanted[key] for key in wanted if key != "sets")
    return result if same and wanted["sets"].items() <= measured["sets"].items() else None


def run_experiment(
    experiment: Experiment, study: Mapping[str, Any], out: Path, data: Path, device: str
) -> None:
    """Trains and measures one model; skips what has been done already."""
    folder = out / experiment.folder
    wanted = protocol(study, data)
    finished = finished_result(folder, wanted)
    if finished is not None and set(experiment.scores) <= set(finished["asked"]):
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"== {experiment.row}, seed {experiment.seed}: {folder}", flush=True)
    begin = time.monotonic()
    on = training_device(device)
    model: str | Path = experiment.model
    config: dict[str, Any] = {}
    if experiment.overrides is not None:
        overrides = [*experiment.overrides, f"model={experiment.model}", f"seed={experiment.seed}"]
        config = load_config(CONFIGS / "fine_tune.yaml", None, overrides)
        model = folder / "final.safetensors"
        if not model.exists():
            torch.manual_seed(experiment.seed)
            fine_tune(Run(config, folder, data, on, Distributed(on)))
    trained = time.monotonic()
    options = measure_options(study)
    frames = TrainingData(study_data(study), data)
    figures, histograms = measure(
        model, experiment.scores, study["sets"], data, frames, on, options, experiment.size
    )
    save_histograms(folder / HISTOGRAMS, histograms)
    result = {
        "config": config,
        "asked": experiment.scores,
        "protocol": wanted,
        **provenance(on),
        "seconds": {"training": trained - begin, "measurement": time.monotonic() - trained},
        **figures,
    }
    text = json.dumps(result, indent=1)
    write_atomically(folder / RESULT, lambda file: file.write(text.encode()))
    (folder / _TRAINING_STATE).unlink(missing_ok=True)


def provenance(device: torch.device) -> dict[str, str]:
    """Commit (with "+" if files are changed), date and device of a result."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": name,
    }


def run_all(
    experiments: Sequence[Experiment],
    study: Mapping[str, Any],
    out: Path,
    data: Path,
    device: str,
) -> None:
    """Runs experiments in order; one that fails does not keep the others from running.

    Raises:
        ParameterError: Some failed; the message names them.
    """
    tried = [_failure(each, study, out, data, device) for each in experiments]
    if failed := list(filter(None, tried)):
        raise ParameterError(f"{len(failed)} of {len(experiments)} failed: {'; '.join(failed)}")


def _failure(
    experiment: Experiment, study: Mapping[str, Any], out: Path, data: Path, device: str
) -> str:
    """Runs an experiment; returns what went wrong."""
    try:
        run_experiment(experiment, study, out, data, device)
    except AnomalySegError as error:
        failure = f"{experiment.row}, seed {experiment.seed}: {error}"
        print(f"failed: {failure}", flush=True)
        return failure
    return ""


def collect(
    study: Mapping[str, Any],
    tables: Mapping[str, Sequence[Experiment]],
    out: Path,
    data: Path,
    results: Path,
) -> None:
    """Puts the finished experiments in a folder into the file of results."""
    wanted = protocol(study, data)
    finished = {}
    for folder in dict.fromkeys(each.folder for each in itertools.chain(*tables.values())):
        result = finished_result(out / folder, wanted)
        if result is not None:
            finished[folder] = result
        elif (out / folder / RESULT).exists():
            print(f"left out, as measured on other sets, options or --data: {out / folder}")
    if not finished:
        raise ParameterError(f"{out}: no finished experiment of this study")
    collector = Collector(study, tables, finished, wanted, Samples(out, HISTOGRAMS))
    write_results(results, collector.update(read_results(results)))
    print(f"{results}: {len(finished)} experiments of {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--study", type=Path, default=CONFIGS / "study.yaml")
    parser.add_argument("--out", type=Path, help="folder of the run folders")
    parser.add_argument("--data", type=folder_argument, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="tables to run; all by default")
    parser.add_argument("--seeds", type=int, default=0, help="of each row, at most; 0 for all")
    parser.add_argument(
        "--collect", action="store_true", help="run nothing: put what is finished into --results"
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="write --page from --results; alone, or after --collect",
    )
    parser.add_argument("--results", type=Path, default=_DOCS / "results.json")
    parser.add_argument("--page", type=Path, default=_DOCS / "results.md")
    args = parser.parse_args(arguments)
    if args.out is None and (args.collect or not args.tables):
        parser.error("--out is needed, but for --tables alone")

    def start() -> None:
        keep_freed_memory()
        use_exact_float32()
        study = read_study(args.study)
        tables = read_experiments(study)
        for key in args.only or ():
            if key not in tables:
                raise ParameterError(f"--only {key}: the tables are {', '.join(tables)}")
        if not (args.collect or args.tables):
            chosen = in_order({key: tables[key] for key in args.only or tables}, args.seeds)
            run_all(chosen, study, args.out, args.data, args.device)
        if args.collect:
            collect(study, tables, args.out, args.data, args.results)
        if args.tables:
            write_page(args.page, study, read_results(args.results))

    return run_tool("study", start)
