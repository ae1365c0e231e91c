# SPDX-License-Identifier: Apache-2.0
"""Reads and checks recipes, and sorts overrides by stage."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.options import INFERENCE_MODES
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.scores import SCORES
from training.engine.config import (
    chosen,
    joined,
    mapping,
    read_yaml,
    to_dataclass,
    to_dataclasses,
)
from training.recipes.schema import (
    ENTRIES,
    EVALUATION,
    FPR95_CONVENTIONS,
    METRICS,
    Checkpoint,
    Evaluation,
    EvaluationSet,
    PublishedFigures,
    Recipe,
    Stage,
    Variant,
)

RECIPES = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """Reads and checks a recipe.

    Args:
        name: One of :func:`names`, or the path of a file like those.

    Raises:
        ParameterError: There is no such recipe, a key is unknown (the message names the nearest),
            or a value is wrong or names what is not there.
    """
    path = Path(name)
    if not path.suffix:
        if name not in names():
            raise ParameterError(f"no recipe {name!r}; there are {', '.join(names())}")
        path = RECIPES / f"{name}.yaml"
    try:
        recipe = _typed(_content(path))
        _check(recipe)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    return replace(recipe, source=path)


def _content(path: Path) -> dict[str, Any]:
    """The content of a file, on top of that of its ``base``."""
    content = read_yaml(path)
    base = content.pop("base", None)
    if base is None:
        return content
    if base not in names():
        raise ParameterError(f"base: no recipe {base!r}; there are {', '.join(names())}")
    stages = mapping(content.get("stages", {}), "stages")
    result = joined(_content(RECIPES / f"{base}.yaml"), {**content, "stages": stages})
    # A file with further stages lists all of them, in their order.
    order = [*stages, *result["stages"]]
    return {**result, "stages": {name: result["stages"][name] for name in order}}


def _typed(values: dict[str, Any]) -> Recipe:
    needs = dict(mapping(values.get("needs"), "needs"))
    needs["checkpoints"] = to_dataclasses(
        Checkpoint, needs.get("checkpoints"), "needs.checkpoints"
    )
    evaluation = dict(mapping(values.get(EVALUATION), EVALUATION))
    sets = evaluation.get("sets")
    evaluation["sets"] = to_dataclasses(EvaluationSet, sets, f"{EVALUATION}.sets")
    values["needs"], values[EVALUATION] = needs, evaluation
    values["stages"] = to_dataclasses(Stage, values.get("stages"), "stages")
    values["figures"] = _figures(values.get("figures"), "figures")
    values["variants"] = {
        key: {**variant, "figures": _figures(variant.get("figures"), f"variants.{key}.figures")}
        for key, content in mapping(values.get("variants"), "variants").items()
        for variant in [mapping(content, f"variants.{key}")]
    }
    values["variants"] = to_dataclasses(Variant, values["variants"], "variants")
    return to_dataclass(Recipe, values)


def _figures(content: Any, key: str) -> list[PublishedFigures]:
    """Rows, whose keys that are metrics become their ``values``."""
    if not isinstance(content, list | None):
        raise ParameterError(f"{key}: expected a list of rows, got {short_repr(content)}")
    rows = []
    for i, row in enumerate(content or []):
        where = f"{key}[{i}]"
        values = {k: v for k, v in mapping(row, where).items() if k in METRICS}
        for metric, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ParameterError(f"{where}.{metric}: expected a number, got {value!r}")
        other = {k: v for k, v in row.items() if k not in METRICS}
        rows.append(to_dataclass(PublishedFigures, {**other, "values": values}, where))
    return rows


def _check(recipe: Recipe) -> None:
    """Checks what one part of a recipe says of another."""
    of_paper = ("paper", "tables") if recipe.paper or recipe.tables else ()
    for key in ("title", *of_paper, "stages"):
        if not getattr(recipe, key):
            raise ParameterError(f"{key}: missing")
    known = set(recipe.needs.checkpoints)
    for name, stage in recipe.stages.items():
        chosen(ENTRIES, f"stages.{name}.entry:", stage.entry)
        if name == EVALUATION or name in known:
            raise ParameterError(f"stages.{name}: the name is taken")
        for key, source in stage.inputs.items():
            if source not in tuple(known):
                raise ParameterError(
                    f"stages.{name}.inputs.{key}: {source!r} is neither an earlier stage nor one "
                    f"of needs.checkpoints ({', '.join(sorted(known)) or 'none'})"
                )
        known.add(name)
    for name in recipe.evaluation.sets:
        if not _NAME.fullmatch(name):
            raise ParameterError(
                f"{EVALUATION}.sets: {name!r}: names consist of letters, digits and _ . -"
            )
    check_evaluation(recipe.evaluation)
    variants = [figure for variant in recipe.variants.values() for figure in variant.figures]
    for figure in (*recipe.figures, *variants):
        chosen(recipe.evaluation.sets, f"figures: {figure.row}: set", figure.set)
        if figure.score and figure.score not in recipe.evaluation.scores:
            raise ParameterError(f"figures: {figure.row}: score {figure.score!r} is not evaluated")
        if not figure.score and any(METRICS[metric] for metric in figure.values):
            raise ParameterError(f"figures: {figure.row}: names no score")


def check_evaluation(evaluation: Evaluation) -> None:
    """Checks the names in an evaluation.

    Raises:
        ParameterError: An unknown score, mode or data set.
    """
    for score in evaluation.scores:
        chosen(SCORES, f"{EVALUATION}.scores:", score)
    for key, choices in (("inference_mode", INFERENCE_MODES), ("fpr95", FPR95_CONVENTIONS)):
        chosen(dict.fromkeys(choices), f"{EVALUATION}.{key}", getattr(evaluation, key))
    if evaluation.limit < 0:
        raise ParameterError(f"{EVALUATION}.limit: {evaluation.limit} is negative")
    size = evaluation.inference_size
    if size and (len(size) != 2 or any(type(n) is not int or n < 1 for n in size)):
        raise ParameterError(
            f"{EVALUATION}.inference_size: expected [height, width] in pixels, got {size}"
        )
    for name, data in evaluation.sets.items():
        mapping(data.options, f"{EVALUATION}.sets.{name}.options")
        chosen(DATASETS, f"{EVALUATION}.sets.{name}.adapter", data.adapter)
        if not data.root:
            raise ParameterError(f"{EVALUATION}.sets.{name}.root: missing")


def overridden(recipe: Recipe, overrides: Sequence[str]) -> tuple[Recipe, dict[str, list[str]]]:
    """Sorts overrides by stage; those of the evaluation are applied.

    Args:
        recipe: The recipe.
        overrides: ``STAGE.KEY=VALUE`` or ``evaluation.KEY=VALUE``.

    Returns:
        The recipe with its evaluation changed, and ``KEY=VALUE`` by stage.

    Raises:
        ParameterError: There is no such stage, or the evaluation's value is wrong.
    """
    by_stage: dict[str, list[str]] = {name: [] for name in recipe.stages}
    changes: dict[str, Any] = {}
    for item in overrides:
        stage, dot, rest = item.partition(".")
        key, equals, text = rest.partition("=")
        if not dot or not equals:
            raise ParameterError(f"--set {item}: expected STAGE.KEY=VALUE")
        if stage == EVALUATION and key != "sets":
            changes[key] = safe_yaml_json.parse_yaml(text, f"--set {stage}.{key}", ParameterError)
        else:
            chosen(by_stage, f"--set {item}: stage", stage).append(rest)
    evaluation = replace_options(recipe.evaluation, changes)
    check_evaluation(evaluation)
    return replace(recipe, evaluation=evaluation), by_stage


def replace_options(evaluation: Evaluation, changes: Mapping[str, Any]) -> Evaluation:
    """The evaluation with some of its options changed, checked like a file's."""
    checked = to_dataclass(Evaluation, changes, f"--set {EVALUATION}")
    return replace(evaluation, **{key: getattr(checked, key) for key in changes})
