"""Runs many fine-tunings, measures each on the anomaly sets, and writes the tables of a study.

    python -m training.study --study training/configs/study.yaml --out runs/study
    python -m training.study --study ... --out runs/study --tables docs/results.md

With ``--tables`` nothing runs: it writes the tables of what is finished. Tables and rows without
a result and, beside ``--only``, tables that it does not name, stay as they stand in the file.

A row that occurs in several tables is trained once, and an unfinished training is resumed. What
is finished is not run again, unless a table asks for a score that was not measured, or it was
measured on other sets, with other options or another ``--data``: then it is measured again, not
trained again. The anomaly sets are only measured on, never trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anomaly_seg_ros.checkpoints.loading import SHIPPED
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.system.tool import run_tool
from training.engine.config import CONFIGS, load_config, read_yaml, to_dataclass
from training.engine.distributed import Distributed, training_device
from training.engine.entry import Run, data_folder, use_exact_float32
from training.engine.storage import write_atomically
from training.fine_tune import fine_tune
from training.study.measure import MeasureOptions, measure
from training.study.scores import STUDY_SCORES
from training.study.tables import write_tables

_RESULT = "result.json"
# Models that are known by a name, not by a path.
_NAMED = {*SHIPPED, "erfnet"}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: As printed.
        model: ``closed_set``, ``default``, ``erfnet`` or a file.
        overrides: ``key=value`` of the fine-tuning; None measures the model as it is.
        seed: Of the fine-tuning.
        scores: To measure.
        size: (height, width) that frames are resized to; None takes the model's own.
    """

    name: str
    model: str
    overrides: tuple[str, ...] | None
    seed: int
    scores: tuple[str, ...]
    size: tuple[int, int] | None = None

    @property
    def folder(self) -> str:
        """Name of the run folder, the same for equal trainings, or for the same model as it is."""
        stem = Path(self.model).stem
        size = "" if self.size is None else "-{}x{}".format(*self.size)
        if self.overrides is not None:
            content = json.dumps([self.model, sorted(self.overrides)])
            return f"{stem}-{_digest(content)}-seed{self.seed}{size}"
        if self.model in _NAMED:
            return f"{stem}-untrained{size}"
        # Every fine-tuned model is called final.safetensors: only the path tells them apart.
        return f"{stem}-{_digest(self.model)}-untrained{size}"


def read_study(path: Path) -> dict[str, Any]:
    """Reads a study's file; see :func:`read_rows`.

    Raises:
        ParameterError: Missing, not YAML, or without a key that a study, a set or a table needs;
            the message names the file and the keys.
    """
    study = read_yaml(path)
    _require(study, ("sets", "tables"), str(path))
    for part, keys in {
        "sets": ("title", "adapter", "root"),
        "tables": ("title", "model", "scores", "rows"),
    }.items():
        _require(study[part], (), f"{path}: {part}")
        for name, content in study[part].items():
            _require(content, keys, f"{path}: {part}: {name}")
    return study


def read_rows(study: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of every table, one for each seed.

    Args:
        study: Content of the study's file: ``common`` overrides by model, and ``tables`` with
            their ``model``, ``scores`` and ``rows``: a name and null, or a list of overrides.
            ``models``, ``seeds`` and ``sizes``, by row name, hold what differs from the table's
            model, from seed 1, and from the model's own inference size (at another size a row is
            a training of its own).

    Raises:
        ParameterError: An unknown score, an override that is no text, a size that is no pair of
            pixels, or a training of a model without common overrides.
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
            size = _size(table.get("sizes", {}).get(name), f"table {key}, row {name!r}")
            if changes is None:
                rows.append(Row(name, model, None, 0, scores, size))
                continue
            if model not in (study.get("common") or {}):
                raise ParameterError(f"table {key}: no common overrides for model {model!r}")
            overrides = (*study["common"][model], *changes)
            for override in overrides:
                if not isinstance(override, str):
                    raise ParameterError(
                        f"table {key}, row {name!r}: {override} is no text, quote the override"
                    )
            seeds = table.get("seeds", {}).get(name, [1])
            rows.extend(Row(name, model, overrides, seed, scores, size) for seed in seeds)
        tables[key] = rows
    # A row that several tables share is measured once, with the scores of all of them.
    wanted: dict[str, dict[str, None]] = {}
    for row in (row for rows in tables.values() for row in rows):
        wanted.setdefault(row.folder, {}).update(dict.fromkeys(row.scores))
    return {
        key: [replace(row, scores=tuple(wanted[row.folder])) for row in rows]
        for key, rows in tables.items()
    }


def protocol(study: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """What a study measures on, and how, as it stands in the results.

    Args:
        study: Content of the study's file.
        data: The shared data folder.

    Returns:
        ``data``, ``sets`` (name -> ``adapter`` and ``root``) and ``options``, in plain values.
    """
    # Without the titles: they change nothing that is measured.
    sets = {
        name: {key: where[key] for key in ("adapter", "root")}
        for name, where in study["sets"].items()
    }
    options = _measure_options(study)
    return {"data": str(data.resolve()), "sets": sets, "options": asdict(options)}


def finished_result(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in a run folder, if it was measured as wanted.

    A result without a protocol is older than the protocols and says no more than the names of its
    sets. It counts if these are enough: nothing speaks against it.

    Args:
        folder: Of a row.
        wanted: See :func:`protocol`. More sets than wanted do no harm.

    Returns:
        None if there is no result, or it was measured otherwise.

    Raises:
        ParameterError: The file is damaged.
    """
    path = folder / _RESULT
    if not path.exists():
        return None
    result = safe_yaml_json.read_json(path, ParameterError)
    _require(result, ("asked", "sets", "mIoU"), str(path))
    if "protocol" not in result:
        return result if wanted["sets"].keys() <= result["sets"].keys() else None
    measured = result["protocol"]
    _require(measured, tuple(wanted), f"{path}: protocol")
    same = all(measured[key] == wanted[key] for key in ("data", "options"))
    return result if same and wanted["sets"].items() <= measured["sets"].items() else None


def run_row(row: Row, study: dict[str, Any], out: Path, data: Path, device: str) -> None:
    """Trains and measures a row, as far as that is not done already."""
    folder = out / row.folder
    wanted = protocol(study, data)
    finished = finished_result(folder, wanted)
    if finished is not None and set(row.scores) <= set(finished["asked"]):
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
    options = _measure_options(study)
    figures = measure(model, row.scores, study["sets"], data, place, options, row.size)
    result = {"config": config, "asked": row.scores, "protocol": wanted, **figures}
    text = json.dumps(result, indent=1)
    write_atomically(folder / _RESULT, lambda file: file.write(text.encode()))


def _results(
    out: Path, tables: Mapping[str, Sequence[Row]], study: dict[str, Any], data: Path
) -> dict[str, dict[str, Any] | None]:
    """By run folder, the results; None, and named, if it was measured otherwise than asked."""
    wanted = protocol(study, data)
    results: dict[str, dict[str, Any] | None] = {}
    for name in dict.fromkeys(row.folder for rows in tables.values() for row in rows):
        result = finished_result(out / name, wanted)
        if result is not None:
            results[name] = result
        elif (out / name / _RESULT).exists():
            results[name] = None
            print(f"left out, as measured on other sets, options or --data: {out / name}")
    return results


def _measure_options(study: Mapping[str, Any]) -> MeasureOptions:
    return to_dataclass(MeasureOptions, study.get("measure") or {})


def _size(given: Any, source: str) -> tuple[int, int] | None:
    if given is None:
        return None
    if isinstance(given, list) and [type(n) for n in given] == [int, int] and min(given) > 0:
        return tuple(given)
    raise ParameterError(f"{source}: a size is [height, width] in pixels, not {given!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _require(content: Any, keys: Sequence[str], source: str) -> None:
    if not isinstance(content, Mapping):
        raise ParameterError(f"{source}: expected a mapping of keys to values")
    missing = [key for key in keys if content.get(key) is None]
    if missing:
        raise ParameterError(f"{source}: no {', '.join(missing)}")


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
        tables = read_rows(study)
        for key in args.only or ():
            if key not in tables:
                raise ParameterError(f"--only {key}: the tables are {', '.join(tables)}")
        tables = {key: tables[key] for key in args.only or tables}
        if args.tables is None:
            for row in (row for rows in tables.values() for row in rows):
                run_row(row, study, args.out, args.data, args.device)
        else:
            write_tables(args.tables, study, tables, _results(args.out, tables, study, args.data))

    return run_tool("study", start)


if __name__ == "__main__":
    sys.exit(main())
