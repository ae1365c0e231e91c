"""Fine-tune many models, measure each on the anomaly sets, and write the tables of a study.

    python -m training.study --study training/configs/study.yaml --out runs/study
    python -m training.study --study ... --out runs/study --tables docs/results.md

With ``--tables`` nothing is trained or measured; the tables are written from finished results.
Tables and rows without a result keep their old content, and so do tables that ``--only`` does not
name.

An experiment that occurs in several tables is trained once, and an unfinished training is resumed.
A finished one is not repeated. It is measured again, but not trained again, if a table asks for a
score that was not measured, or if the sets, the options or ``--data`` have changed. The anomaly
sets are never trained on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import TrainingData
from training.engine.config import CONFIGS, load_config, read_data
from training.engine.distributed import Distributed, training_device
from training.engine.entry import Run, data_folder, use_exact_float32
from training.engine.storage import write_atomically
from training.fine_tune import fine_tune
from training.study.experiments import (
    Experiment,
    measure_options,
    protocol,
    read_experiments,
    read_study,
    require_keys,
)
from training.study.measure import measure
from training.study.tables import write_tables

_RESULT = "result.json"


def finished_result(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the result in a run folder, if it was measured under the wanted protocol.

    Old results have no protocol, only the names of their sets. They count if they cover the
    wanted sets.

    Args:
        folder: Run folder of an experiment.
        wanted: See :func:`protocol`. Additional measured sets do no harm.

    Returns:
        None if there is no result, or if it was measured differently.

    Raises:
        ParameterError: The file is damaged.
    """
    path = folder / _RESULT
    if not path.exists():
        return None
    result = safe_yaml_json.read_json(path, ParameterError)
    require_keys(result, ("asked", "sets", "mIoU"), str(path))
    if "protocol" not in result:
        return result if wanted["sets"].keys() <= result["sets"].keys() else None
    measured = result["protocol"]
    require_keys(measured, tuple(wanted), f"{path}: protocol")
    same = all(measured[key] == wanted[key] for key in ("data", "options"))
    return result if same and wanted["sets"].items() <= measured["sets"].items() else None


def run_experiment(
    experiment: Experiment, study: dict[str, Any], out: Path, data: Path, device: str
) -> None:
    """Trains and measures one model; skips what has been done already."""
    folder = out / experiment.folder
    wanted = protocol(study, data)
    finished = finished_result(folder, wanted)
    if finished is not None and set(experiment.scores) <= set(finished["asked"]):
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"== {experiment.name}, seed {experiment.seed}: {folder}", flush=True)
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
    options = measure_options(study)
    frames = TrainingData(read_data(study.get("data", "development"), Path()), data)
    figures = measure(
        model, experiment.scores, study["sets"], data, frames, on, options, experiment.size
    )
    result = {"config": config, "asked": experiment.scores, "protocol": wanted, **figures}
    text = json.dumps(result, indent=1)
    write_atomically(folder / _RESULT, lambda file: file.write(text.encode()))


def _results(
    out: Path, tables: Mapping[str, Sequence[Experiment]], study: dict[str, Any], data: Path
) -> dict[str, dict[str, Any] | None]:
    """Results by run folder; None, with a printed note, if the protocol differs."""
    wanted = protocol(study, data)
    results: dict[str, dict[str, Any] | None] = {}
    for name in dict.fromkeys(each.folder for each in itertools.chain(*tables.values())):
        result = finished_result(out / name, wanted)
        if result is not None:
            results[name] = result
        elif (out / name / _RESULT).exists():
            results[name] = None
            print(f"left out, as measured on other sets, options or --data: {out / name}")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--study", type=Path, default=CONFIGS / "study.yaml")
    parser.add_argument("--out", type=Path, required=True, help="run folders and results")
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="tables to run or to write; all by default")
    parser.add_argument("--tables", type=Path, help="write the tables of what is finished here")
    args = parser.parse_args(arguments)

    def start() -> None:
        use_exact_float32()
        study = read_study(args.study)
        tables = read_experiments(study)
        for key in args.only or ():
            if key not in tables:
                raise ParameterError(f"--only {key}: the tables are {', '.join(tables)}")
        tables = {key: tables[key] for key in args.only or tables}
        if args.tables is None:
            for experiment in itertools.chain.from_iterable(tables.values()):
                run_experiment(experiment, study, args.out, args.data, args.device)
        else:
            write_tables(args.tables, study, tables, _results(args.out, tables, study, args.data))

    return run_tool("study", start)
