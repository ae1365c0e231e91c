"""Runs many fine-tunings, measures each on the anomaly sets, and writes the tables of a study.

    python -m training.study --study training/configs/study.yaml --out runs/study
    python -m training.study --study ... --out runs/study --tables docs/results.md

A row that occurs in several tables is trained once, and an unfinished training is resumed. What
is finished is not run again, unless a table asks for a score that was not measured. The anomaly
sets are only measured on, never trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anomaly_seg_ros.cli import run_tool
from anomaly_seg_ros.errors import ParameterError
from training.config import CONFIGS, load_config, read_yaml, to_dataclass
from training.distributed import Distributed, training_device
from training.entry import Run, data_folder, use_exact_float32
from training.fine_tune import fine_tune
from training.storage import write_atomically
from training.study_measure import MeasureOptions, measure
from training.study_scores import STUDY_SCORES
from training.study_tables import write_tables

_RESULT = "result.json"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: As printed.
        model: ``closed_set``, ``default``, ``erfnet`` or a file.
        overrides: ``key=value`` of the fine-tuning; None measures the model as it is.
        seed: Of the fine-tuning.
        scores: To measure.
    """

    name: str
    model: str
    overrides: tuple[str, ...] | None
    seed: int
    scores: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of the run folder, the same for equal trainings."""
        if self.overrides is None:
            return f"{Path(self.model).stem}-untrained"
        content = json.dumps([self.model, sorted(self.overrides)])
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        return f"{Path(self.model).stem}-{digest}-seed{self.seed}"


def read_rows(study: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of every table, one for each seed.

    Args:
        study: Content of the study's file: ``common`` overrides by model, and ``tables`` with
            their ``model``, ``scores`` and ``rows``: a name and null, or a list of overrides.
            ``models`` and ``seeds``, by row name, hold what differs from the table's model and
            from seed 1.

    Raises:
        ParameterError: An unknown score, an override that is no text, or a training of a model
            without common overrides.
    """
    tables = {}
    for key, table in study["tables"].items():
        scores = tuple(table["scores"])
        for score in scores:
            if score not in STUDY_SCORES:
                raise ParameterError(
                    f"table {key}: unknown score {score!r}, expected one of "
                    f"{', '.join(STUDY_SCORES)}"
                )
        rows = []
        for name, changes in table["rows"].items():
            model = table.get("models", {}).get(name, table["model"])
            if changes is None:
                rows.append(Row(name, model, None, 0, scores))
                continue
            if model not in study["common"]:
                raise ParameterError(f"table {key}: no common overrides for model {model!r}")
            overrides = (*study["common"][model], *changes)
            for override in overrides:
                if not isinstance(override, str):
                    raise ParameterError(
                        f"table {key}, row {name!r}: {override} is no text, quote the override"
                    )
            seeds = table.get("seeds", {}).get(name, [1])
            rows.extend(Row(name, model, overrides, seed, scores) for seed in seeds)
        tables[key] = rows
    # A row that several tables share is measured once, with the scores of all of them.
    wanted: dict[str, dict[str, None]] = {}
    for row in (row for rows in tables.values() for row in rows):
        wanted.setdefault(row.folder, {}).update(dict.fromkeys(row.scores))
    return {
        key: [replace(row, scores=tuple(wanted[row.folder])) for row in rows]
        for key, rows in tables.items()
    }


def run_row(row: Row, study: dict[str, Any], out: Path, data: Path, device: str) -> None:
    """Trains and measures a row, as far as that is not done already."""
    folder = out / row.folder
    target = folder / _RESULT
    if target.exists() and set(row.scores) <= set(_read_result(target)["asked"]):
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"== {row.name}, seed {row.seed}: {folder}", flush=True)
    place = training_device(device)
    model: str | Path = row.model
    config: dict[str, Any] = {}
    if row.overrides is not None:
        overrides = [*row.overrides, f"model={row.model}", f"seed={row.seed}"]
        config = load_config(CONFIGS / "fine_tune.yaml", None, overrides)
        model = folder / "final.safetensors"
        if not model.exists():
            torch.manual_seed(row.seed)
            fine_tune(Run(config, folder, data, place, Distributed(place)))
    options = to_dataclass(MeasureOptions, study.get("measure", {}))
    figures = measure(model, row.scores, study["sets"], data, place, options)
    result = {"config": config, "asked": row.scores, **figures}
    text = json.dumps(result, indent=1)
    write_atomically(target, lambda file: file.write(text.encode()))


def _read_result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--study", type=Path, default=CONFIGS / "study.yaml")
    parser.add_argument("--out", type=Path, required=True, help="run folders and results")
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="tables to run; all by default")
    parser.add_argument("--tables", type=Path, help="write the tables of what is finished here")
    args = parser.parse_args(arguments)

    def start() -> None:
        use_exact_float32()
        study = read_yaml(args.study)
        tables = read_rows(study)
        for key in args.only or ():
            if key not in tables:
                raise ParameterError(f"--only {key}: the tables are {', '.join(tables)}")
        if args.tables is None:
            for key in args.only or tables:
                for row in tables[key]:
                    run_row(row, study, args.out, args.data, args.device)
        else:
            results = {
                row.folder: _read_result(args.out / row.folder / _RESULT)
                for rows in tables.values()
                for row in rows
                if (args.out / row.folder / _RESULT).exists()
            }
            write_tables(args.tables, study, tables, results)

    return run_tool("study", start)


if __name__ == "__main__":
    sys.exit(main())
