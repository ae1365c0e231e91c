# SPDX-License-Identifier: Apache-2.0
"""The experiments of a study, read from its YAML file: one per table row and seed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.checkpoints.loading import PUBLIC, SHIPPED
from anomaly_seg_ros.errors import ParameterError
from training.engine.config import read_data, read_yaml, to_dataclass
from training.study.measure import MeasureOptions
from training.study.scores import STUDY_SCORES

# Models known by a name rather than by a path.
_NAMED = {*SHIPPED, *PUBLIC}


@dataclass(frozen=True)
class Experiment:
    """One model to train, if it has overrides, and to measure.

    Attributes:
        row: Row of the table that the results appear in.
        model: A model's name, or a file.
        overrides: ``key=value`` settings for the fine-tuning; None measures the model untrained.
        seed: Seed of the fine-tuning; 0 without one.
        scores: Scores to measure.
        size: (height, width) to resize frames to; None uses the model's own inference size.
    """

    row: str
    model: str
    overrides: tuple[str, ...] | None
    seed: int
    scores: tuple[str, ...]
    size: tuple[int, int] | None = None

    @property
    def folder(self) -> str:
        """Name of the run folder; identical trainings and identical untrained models share one."""
        stem = Path(self.model).stem
        size = "" if self.size is None else "-{}x{}".format(*self.size)
        if self.overrides is not None:
            content = json.dumps([self.model, sorted(self.overrides)])
            return f"{stem}-{_digest(content)}-seed{self.seed}{size}"
        if self.model in _NAMED:
            return f"{stem}-untrained{size}"
        # Every fine-tuned model is called final.safetensors; only its path identifies it.
        return f"{stem}-{_digest(self.model)}-untrained{size}"


def read_study(path: Path) -> dict[str, Any]:
    """Reads and checks a study's YAML file; see :func:`read_experiments`.

    Raises:
        ParameterError: The file is missing, is not YAML, or lacks a key that a study, a set or a
            table needs; the message names the file and the keys.
    """
    study = read_yaml(path)
    require_keys(study, ("sets", "tables"), str(path))
    for part, keys in {
        "sets": ("title", "adapter", "root"),
        "tables": ("title", "model", "scores", "rows"),
    }.items():
        require_keys(study[part], (), f"{path}: {part}")
        for name, content in study[part].items():
            require_keys(content, keys, f"{path}: {part}: {name}")
    for finding in study.get("findings") or ():
        require_keys(
            finding, ("finding", "source", "table", "figures", "pairs"), f"{path}: findings"
        )
        rows = study["tables"].get(finding["table"], {}).get("rows", {})
        for row, score in (
            pair[side] for pair in finding["pairs"] for side in ("better", "worse")
        ):
            if row not in rows or score not in study["tables"][finding["table"]]["scores"]:
                raise ParameterError(
                    f"{path}: findings: {finding['finding']}: table {finding['table']} has no "
                    f"{score} of {row!r}"
                )
    return study


def read_experiments(study: Mapping[str, Any]) -> dict[str, list[Experiment]]:
    """Lists the experiments of every table, one per row and seed.

    Args:
        study: Content of the study's file: ``seeds``, ``common`` overrides, ``models`` with the
            ``size`` and the ``overrides`` of each, and ``tables`` with their ``model``, ``scores``
            and ``rows``. A row maps its name to a list of overrides, or to null to measure the
            model untrained. A table's ``models`` and ``sizes`` replace, by row name, its model and
            that model's size; ``reference`` names the row that the others are compared with.

    Raises:
        ParameterError: An unknown score or reference, an override that is not text, or a size
            that is not a pair of pixels.
    """
    tables = {key: _rows(key, table, study) for key, table in study["tables"].items()}
    # An experiment that several tables share is measured once, with the scores of all of them.
    wanted: dict[str, dict[str, None]] = {}
    for experiment in itertools.chain.from_iterable(tables.values()):
        wanted.setdefault(experiment.folder, {}).update(dict.fromkeys(experiment.scores))
    return {
        key: [replace(each, scores=tuple(wanted[each.folder])) for each in experiments]
        for key, experiments in tables.items()
    }


def in_order(tables: Mapping[str, Sequence[Experiment]], seeds: int) -> list[Experiment]:
    """All experiments once: those without training, then every row's first seed, and so on.

    Args:
        tables: See :func:`read_experiments`.
        seeds: Number of seeds of a row to run; 0 for all.
    """
    turns: dict[str, tuple[int, Experiment]] = {}
    for rows in tables.values():
        taken: dict[str, int] = {}
        for each in rows:
            taken[each.row] = turn = taken.get(each.row, 0) + 1
            if not seeds or turn <= seeds:
                turns.setdefault(each.folder, (0 if each.overrides is None else turn, each))
    return [each for _, each in sorted(turns.values(), key=lambda pair: pair[0])]


def protocol(study: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Describes what a study measures on, and how; stored with every result.

    Args:
        study: Content of the study's file.
        data: Folder of the data sets.

    Returns:
        ``data`` (folder), ``validation`` corpora, ``sets`` (name -> ``adapter`` and ``root``) and
        ``options``, as plain values.
    """
    # Titles are left out: they do not affect the measurement.
    sets = {
        name: {key: where[key] for key in ("adapter", "root")}
        for name, where in study["sets"].items()
    }
    options = measure_options(study)
    validation = study_data(study).get("validation")
    return {
        "data": str(data.resolve()),
        "validation": validation,
        "sets": sets,
        "options": asdict(options),
    }


def study_data(study: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the data block that a study measures with, by default that of development."""
    return read_data(study.get("data", "development"), Path())


def measure_options(study: Mapping[str, Any]) -> MeasureOptions:
    """Reads the optional ``measure`` section of a study."""
    return to_dataclass(MeasureOptions, study.get("measure") or {})


def require_keys(content: Any, keys: Iterable[str], source: str) -> None:
    """Raises ParameterError if ``content`` is not a mapping with all ``keys`` set."""
    if not isinstance(content, Mapping):
        raise ParameterError(f"{source}: expected a mapping of keys to values")
    missing = [key for key in keys if content.get(key) is None]
    if missing:
        raise ParameterError(f"{source}: no {', '.join(missing)}")


def _rows(key: str, table: Mapping[str, Any], study: Mapping[str, Any]) -> list[Experiment]:
    scores = tuple(table["scores"])
    for score in scores:
        if score not in STUDY_SCORES:
            raise ParameterError(
                f"table {key}: unknown score {score!r}, expected one of {', '.join(STUDY_SCORES)}"
            )
    if (reference := table.get("reference")) not in (None, *table["rows"]):
        raise ParameterError(f"table {key}: reference: no row {reference!r}")
    experiments = []
    for name, changes in table["rows"].items():
        model = table.get("models", {}).get(name, table["model"])
        of_model = (study.get("models") or {}).get(model) or {}
        size = table.get("sizes", {}).get(name, of_model.get("size"))
        size = _size(size, f"table {key}, row {name!r}")
        if changes is None:
            experiments.append(Experiment(name, model, None, 0, scores, size))
            continue
        overrides = (*(study.get("common") or ()), *of_model.get("overrides", ()), *changes)
        for override in overrides:
            if not isinstance(override, str):
                raise ParameterError(
                    f"table {key}, row {name!r}: {override} is no text, quote the override"
                )
        experiments += [
            Experiment(name, model, overrides, seed, scores, size)
            for seed in study.get("seeds") or (1,)
        ]
    return experiments


def _size(given: Any, source: str) -> tuple[int, int] | None:
    if given is None:
        return None
    if isinstance(given, list) and [type(n) for n in given] == [int, int] and min(given) > 0:
        return given[0], given[1]
    raise ParameterError(f"{source}: a size is [height, width] in pixels, not {given!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
