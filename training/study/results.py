# SPDX-License-Identifier: Apache-2.0
"""The results of a study in one JSON file: figures, intervals, and where they come from.

The file is committed, the run folders are not. A row that has fewer finished seeds in the run
folders keeps its entry, so a study may be continued on another machine, a table at a time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.metrics.resampling import FIGURES
from training.engine.storage import write_atomically
from training.study.bootstrap import CONFIDENCE, REPLICATES, Estimate, Sampled, Samples
from training.study.experiments import Experiment, require_keys

_FORMAT = 1
Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """Reads the file; without one, there are no results.

    Raises:
        ParameterError: It is damaged or of another format.
    """
    if not path.exists():
        return _results({})
    results = safe_yaml_json.read_json(path, ParameterError)
    require_keys(results, _results({}), str(path))
    if results["format"] != _FORMAT:
        raise ParameterError(f"{path}: format {results['format']}, expected {_FORMAT}")
    return results


def _results(measured: Mapping[str, Any]) -> Results:
    return {"format": _FORMAT, "protocol": measured, "tables": {}, "findings": {}}


def write_results(path: Path, results: Results) -> None:
    """Writes the file, a line for each score of a row."""
    text = _lines(results, depth=5)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


class Collector:
    """Turns finished runs into entries of the results.

    Args:
        study: Content of the study's file.
        tables: Its experiments by table.
        finished: Result by run folder, for those that are finished.
        measured: How all of these were measured, see
            :func:`~training.study.experiments.protocol`.
        samples: Draws images.
    """

    def __init__(
        self,
        study: Mapping[str, Any],
        tables: Mapping[str, Sequence[Experiment]],
        finished: Mapping[str, Mapping[str, Any]],
        measured: Mapping[str, Any],
        samples: Samples,
    ) -> None:
        self._study = study
        self._tables = tables
        self._finished = finished
        self._samples = samples
        # Where the data are does not matter to others.
        self._protocol = {key: value for key, value in measured.items() if key != "data"}
        self._protocol |= {"replicates": REPLICATES, "confidence": CONFIDENCE}

    def update(self, results: Results) -> Results:
        """Results with what is finished on top, in the order of the study.

        Entries of rows, scores and findings that the study no longer has are dropped, and so is
        every entry whose row is now another experiment, or that was measured otherwise.
        """
        # Compared as JSON, in which tuples are lists.
        if results["protocol"] != json.loads(json.dumps(self._protocol)):
            results = _results({})
        tables: dict[str, Any] = {}
        for key, rows in self._tables.items():
            old = results["tables"].get(key, {})
            entries = {}
            for name in dict.fromkeys(each.row for each in rows):
                known = [self._row(key, name), old.get(name)]
                current = {each.folder for each in self._seeds(key, name)}
                usable = [entry for entry in known if entry and current.issuperset(entry["runs"])]
                if usable:
                    # The first of those with most seeds.
                    entries[name] = max(usable, key=lambda entry: len(entry["runs"]))
            if entries:
                tables[key] = entries
        findings = {}
        for finding in self._study.get("findings") or ():
            text = finding["finding"]
            found = self._finding(finding)
            if found is None and _same_rows(finding, results["tables"], tables):
                found = results["findings"].get(text)
            # Those that are kept may be an older wording's.
            sides = [{side: pair[side] for side in ("better", "worse")} for pair in found or ()]
            if found and sides == [dict(pair) for pair in finding["pairs"]]:
                findings[text] = found
        return {**_results(self._protocol), "tables": tables, "findings": findings}

    def _seeds(self, key: str, name: str) -> list[Experiment]:
        return [each for each in self._tables[key] if each.row == name]

    def _row(self, key: str, name: str) -> dict[str, Any] | None:
        """Entry of a row; None without a result."""
        runs = [each for each in self._seeds(key, name) if each.folder in self._finished]
        if not runs:
            return None
        found = [self._finished[each.folder] for each in runs]
        reference = self._study["tables"][key].get("reference")
        scores: dict[str, dict[str, Any]] = {}
        for score, where in itertools.product(
            self._study["tables"][key]["scores"], self._study["sets"]
        ):
            sampled = self._sampled(key, name, where, score)
            if sampled is not None:
                than = None
                if reference not in (None, name):
                    than = self._sampled(key, str(reference), where, score)
                scores.setdefault(score, {})[where] = _figures(sampled, than)
        return {
            "runs": [each.folder for each in runs],
            "seeds": [each.seed for each in runs],
            **{
                part: ", ".join(dict.fromkeys(result[part] for result in found))
                for part in ("commit", "date", "device")
            },
            "mIoU": {
                corpus: [_rounded(100 * result["mIoU"][corpus]) for result in found]
                for corpus in found[0]["mIoU"]
            },
            "scores": scores,
        }

    def _sampled(self, key: str, name: str, where: str, score: str) -> Sampled | None:
        """Finished seeds of a row; None if it lacks the score or a result."""
        parts = []
        for each in self._seeds(key, name):
            figures = self._finished.get(each.folder, {}).get("sets", {}).get(where, {})
            if score in figures:
                parts.append(self._samples(each.folder, where, score, figures[score]))
        return Sampled.joined(parts) if parts else None

    def _finding(self, finding: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Differences of the pairs of a finding; None unless all pairs have results."""
        entries = []
        for pair in finding["pairs"]:
            by_set = {}
            for where in finding.get("sets") or self._study["sets"]:
                sides = [
                    self._sampled(finding["table"], row, where, score)
                    for row, score in (pair["better"], pair["worse"])
                ]
                if sides[0] is None or sides[1] is None:
                    return None
                by_set[where] = {
                    figure: _numbers(sides[0].estimate(figure, sides[1]))
                    for figure in finding["figures"]
                }
            entries.append({"better": pair["better"], "worse": pair["worse"], "sets": by_set})
        return entries


def _same_rows(finding: Mapping[str, Any], old: Results, new: Results) -> bool:
    """Whether all rows that a finding compares have the entries that they had before."""
    before, after = (tables.get(finding["table"], {}) for tables in (old, new))
    rows = {row for pair in finding["pairs"] for row, _ in pair.values()}
    return all(row in before and before[row] == after.get(row) for row in rows)


def _figures(sampled: Sampled, than: Sampled | None) -> dict[str, dict[str, list[float]]]:
    """Figures of each seed, interval of their mean, and difference to the reference row."""
    entries = {}
    for figure in FIGURES:
        own = sampled.estimate(figure)
        entries[figure] = {
            "seeds": [*map(_rounded, sampled.seeds[figure])],
            "interval": [_rounded(own.low), _rounded(own.high)],
        }
        if than is not None:
            entries[figure]["difference"] = _numbers(sampled.estimate(figure, than))
    return entries


def _numbers(estimate: Estimate) -> list[float]:
    return [*map(_rounded, astuple(estimate))]


def _rounded(value: float) -> float:
    return round(float(value), 2)


def _lines(value: Any, depth: int, indent: str = "") -> str:
    """JSON with a line for each item down to a depth."""
    if not isinstance(value, dict) or not value or depth == 0:
        return json.dumps(value, ensure_ascii=False)
    deeper = f"{indent} "
    items = (
        f"{deeper}{json.dumps(key, ensure_ascii=False)}: {_lines(item, depth - 1, deeper)}"
        for key, item in value.items()
    )
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
