"""The experiments of a study, read from its YAML file: one per table row and seed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.checkpoints.loading import PUBLIC, SHIPPED
from anomaly_seg_ros.errors import ParameterError
from training.engine.config import read_yaml, to_dataclass
from training.study.measure import MeasureOptions
from training.study.scores import STUDY_SCORES

# Models known by a name rather than by a path.
_NAMED = {*SHIPPED, *PUBLIC}


@dataclass(frozen=True)
class Experiment:
    """One model to train, if it has overrides, and to measure.

    Attributes:
        name: Row of the table that the results appear in.
        model: ``closed_set``, ``default``, ``erfnet`` or a file.
        overrides: ``key=value`` settings for the fine-tuning; None measures the model untrained.
        seed: Seed of the fine-tuning.
        scores: Scores to measure.
        size: (height, width) to resize frames to; None uses the model's own inference size.
    """

    name: str
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
    return study


def read_experiments(study: dict[str, Any]) -> dict[str, list[Experiment]]:
    """Lists the experiments of every table, one per row and seed.

    Args:
        study: Content of the study's file: ``common`` overrides by model, and ``tables`` with
            their ``model``, ``scores`` and ``rows``. A row maps its name to a list of overrides,
            or to null to measure the model untrained. ``models``, ``seeds`` and ``sizes`` replace,
            by row name, the table's model, seed 1 and the model's own inference size (a row at
            another size is a separate training).

    Raises:
        ParameterError: An unknown score, an override that is not text, a size that is not a pair
            of pixels, or a training of a model without common overrides.
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
        experiments = []
        for name, changes in table["rows"].items():
            model = table.get("models", {}).get(name, table["model"])
            size = _size(table.get("sizes", {}).get(name), f"table {key}, row {name!r}")
            if changes is None:
                experiments.append(Experiment(name, model, None, 0, scores, size))
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
            experiments.extend(
                Experiment(name, model, overrides, seed, scores, size) for seed in seeds
            )
        tables[key] = experiments
    # An experiment that several tables share is measured once, with the scores of all of them.
    wanted: dict[str, dict[str, None]] = {}
    for experiment in itertools.chain.from_iterable(tables.values()):
        wanted.setdefault(experiment.folder, {}).update(dict.fromkeys(experiment.scores))
    return {
        key: [replace(each, scores=tuple(wanted[each.folder])) for each in experiments]
        for key, experiments in tables.items()
    }


def protocol(study: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Describes what a study measures on, and how; stored with every result.

    Args:
        study: Content of the study's file.
        data: Folder of the data sets.

    Returns:
        ``data``, ``sets`` (name -> ``adapter`` and ``root``) and ``options``, as plain values.
    """
    # Titles are left out: they do not affect the measurement.
    sets = {
        name: {key: where[key] for key in ("adapter", "root")}
        for name, where in study["sets"].items()
    }
    options = measure_options(study)
    return {"data": str(data.resolve()), "sets": sets, "options": asdict(options)}


def measure_options(study: Mapping[str, Any]) -> MeasureOptions:
    """Reads the optional ``measure`` section of a study."""
    return to_dataclass(MeasureOptions, study.get("measure") or {})


def _size(given: Any, source: str) -> tuple[int, int] | None:
    if given is None:
        return None
    if isinstance(given, list) and [type(n) for n in given] == [int, int] and min(given) > 0:
        return tuple(given)
    raise ParameterError(f"{source}: a size is [height, width] in pixels, not {given!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def require_keys(content: Any, keys: Sequence[str], source: str) -> None:
    """Raises ParameterError if ``content`` is not a mapping with all ``keys`` set."""
    if not isinstance(content, Mapping):
        raise ParameterError(f"{source}: expected a mapping of keys to values")
    missing = [key for key in keys if content.get(key) is None]
    if missing:
        raise ParameterError(f"{source}: no {', '.join(missing)}")
