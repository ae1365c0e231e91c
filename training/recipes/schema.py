"""Recipes: YAML files that say how a result of a paper is reached, and what the paper got.

``training/recipes/topk_ovr_wide_resnet38.yaml`` explains every key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.options import INFERENCE_MODES
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.scores import SCORES
from training.engine.config import (
    CONFIGS,
    chosen,
    joined,
    merged_config,
    read_yaml,
    to_dataclass,
)

RECIPES = Path(__file__).parent
EVALUATION = "evaluation"
# Keys of "FPR95_conventions" in benchmark.json.
FPR95_CONVENTIONS = ("at_least", "above", "nearest", "interpolated")
# Entry -> its default configuration, and the file that it writes for later stages.
ENTRIES = {
    "closed_set": ("closed_set.yaml", "final.safetensors"),
    "train_flow": ("flow.yaml", "flow.safetensors"),
    "fine_tune": ("fine_tune.yaml", "final.safetensors"),
}
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# Metric -> whether it belongs to a score.
METRICS = {
    **dict.fromkeys(("AUROC", "AP", "FPR95", "open_mIoU", "closed_mIoU", "gap", "mean_F1"), True),
    "mIoU": False,
}


@dataclass(frozen=True)
class Checkpoint:
    """A public file that a recipe starts from.

    Attributes:
        file: Where it goes, relative to the data folder.
        get: Where to get it.
    """

    file: str = ""
    get: str = ""


@dataclass(frozen=True)
class Needs:
    """What a recipe needs besides the data of its stages.

    Attributes:
        checkpoints: Public files by name.
        gpu_gib: Memory of the GPU, estimated.
        gpu_hours: Time on it, estimated.
        estimate: How both were estimated, and for which GPU.
    """

    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    gpu_gib: float = 0.0
    gpu_hours: float = 0.0
    estimate: str = ""


@dataclass(frozen=True)
class Stage:
    """One run of a training entry.

    Attributes:
        entry: A key of :data:`ENTRIES`.
        inputs: Key of the configuration -> name of an earlier stage or of a checkpoint, whose file
            becomes the value.
        config: What differs from the entry's default configuration.
    """

    entry: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def product(self) -> str:
        """Name of the file that it writes for later stages."""
        return ENTRIES[self.entry][1]

    def configuration(self, source: Path, overrides: Sequence[str]) -> dict[str, Any]:
        """The whole configuration of the entry.

        Args:
            source: File of the recipe.
            overrides: ``key=value`` items.

        Raises:
            ParameterError: An unknown key, or a value of the wrong type.
        """
        return merged_config(CONFIGS / ENTRIES[self.entry][0], self.config, source, overrides)


@dataclass(frozen=True)
class EvaluationSet:
    """Data to evaluate on.

    Attributes:
        adapter: Data set, see ``docs/datasets.md``.
        root: Folder, relative to the data folder.
        options: Options of the adapter; ``images``, a folder, is relative to the data folder, too.
    """

    adapter: str = ""
    root: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """How the last stage's model is evaluated.

    Attributes:
        scores: Anomaly scores.
        inference_mode: As in :class:`~anomaly_seg_ros.inference.options.SegmenterOptions`.
        inference_size: Height and width; () is the model's, or in mode ``full`` each frame's own.
        fpr95: The convention that the paper's pooled FPR95 follow, one of
            :data:`FPR95_CONVENTIONS` (``docs/metrics.md``).
        limit: Use only the first frames of each set; 0 uses all.
        sets: Data by name.
    """

    scores: tuple[str, ...] = ()
    inference_mode: str = "full"
    inference_size: tuple[int, ...] = ()
    fpr95: str = "at_least"
    limit: int = 0
    sets: Mapping[str, EvaluationSet] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperFigures:
    """One row of a paper's table for one set, in percent.

    Attributes:
        row: Table and row.
        set: Name of the set.
        score: Anomaly score; "" for the mIoU alone.
        per_image: The AUROC, AP and FPR95 are means over images, not pooled.
        from_m: Distance from the camera, in metres, at which a bin of Table 6 begins; -1: all.
        values: Metric -> value.
    """

    row: str = ""
    set: str = ""
    score: str = ""
    per_image: bool = False
    from_m: float = -1.0
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A recipe with a few values changed, for another row of a table.

    Attributes:
        title: One line.
        set: Overrides, ``STAGE.KEY=VALUE``.
        figures: What the paper got with them; () keeps the recipe's.
    """

    title: str = ""
    set: tuple[str, ...] = ()
    figures: tuple[PaperFigures, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A set-up of a paper.

    Attributes:
        title: One line.
        paper: Authors, title, year.
        tables: Tables and rows that it is for.
        needs: What it needs.
        open_choices: "STAGE.KEY" or a few words -> what no public source settles, and what is
            chosen here.
        differs: What is known to differ from the paper.
        stages: Trainings by name, in order.
        evaluation: What is measured on which data.
        figures: What the paper got.
        variants: Changed recipes by name.
        source: The file. Its key ``base`` names a recipe that it changes.
    """

    title: str = ""
    paper: str = ""
    tables: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    open_choices: Mapping[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    stages: Mapping[str, Stage] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)
    figures: tuple[PaperFigures, ...] = ()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    source: Path = Path()

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.source.stem

    def varied(self, name: str) -> tuple[Recipe, tuple[str, ...]]:
        """The recipe with a variant's figures, and the variant's overrides.

        Raises:
            ParameterError: There is no such variant.
        """
        variant = chosen(self.variants, f"{self.name}: variant", name)
        figures = variant.figures or self.figures
        return replace(self, title=variant.title, figures=figures), variant.set


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
    result = joined(_content(RECIPES / f"{base}.yaml"), content)
    # A file with further stages lists all of them, in their order.
    order = [*content.get("stages", {}), *result.get("stages", {})]
    return {**result, "stages": {name: result["stages"][name] for name in order}}


def _typed(values: dict[str, Any]) -> Recipe:
    needs = dict(_mapping(values.get("needs"), "needs"))
    needs["checkpoints"] = _named(needs.get("checkpoints"), Checkpoint, "needs.checkpoints")
    evaluation = dict(_mapping(values.get(EVALUATION), EVALUATION))
    evaluation["sets"] = _named(evaluation.get("sets"), EvaluationSet, f"{EVALUATION}.sets")
    values["needs"], values[EVALUATION] = needs, evaluation
    values["stages"] = _named(values.get("stages"), Stage, "stages")
    values["figures"] = _figures(values.get("figures"), "figures")
    values["variants"] = {
        key: {**variant, "figures": _figures(variant.get("figures"), f"variants.{key}.figures")}
        for key, variant in _mapping(values.get("variants"), "variants").items()
    }
    values["variants"] = _named(values["variants"], Variant, "variants")
    return to_dataclass(Recipe, values)


def _mapping(content: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping | None):
        raise ParameterError(f"{key}: expected a mapping, got {short_repr(content)}")
    return content or {}


def _named(content: Any, cls: type, key: str) -> dict[str, Any]:
    return {
        name: to_dataclass(cls, _mapping(values, f"{key}.{name}"), f"{key}.{name}")
        for name, values in _mapping(content, key).items()
    }


def _figures(content: Any, key: str) -> list[PaperFigures]:
    """Rows, whose keys that are metrics become their ``values``."""
    if not isinstance(content, list | None):
        raise ParameterError(f"{key}: expected a list of rows, got {short_repr(content)}")
    rows = []
    for i, row in enumerate(content or []):
        where = f"{key}[{i}]"
        values = {k: v for k, v in _mapping(row, where).items() if k in METRICS}
        for metric, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ParameterError(f"{where}.{metric}: expected a number, got {value!r}")
        other = {k: v for k, v in row.items() if k not in METRICS}
        rows.append(to_dataclass(PaperFigures, {**other, "values": values}, where))
    return rows


def _check(recipe: Recipe) -> None:
    """Checks what one part of a recipe says of another."""
    for key in ("title", "paper", "tables", "stages"):
        if not getattr(recipe, key):
            raise ParameterError(f"{key}: missing")
    known = set(recipe.needs.checkpoints)
    for name, stage in recipe.stages.items():
        chosen(ENTRIES, f"stages.{name}.entry:", stage.entry)
        if name == EVALUATION or name in known:
            raise ParameterError(f"stages.{name}: the name is taken")
        for key, source in stage.inputs.items():
            if source not in known:
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
    if evaluation.inference_mode not in INFERENCE_MODES:
        raise ParameterError(
            f"{EVALUATION}.inference_mode {evaluation.inference_mode!r}, expected one of "
            f"{', '.join(INFERENCE_MODES)}"
        )
    if evaluation.fpr95 not in FPR95_CONVENTIONS:
        raise ParameterError(
            f"{EVALUATION}.fpr95 {evaluation.fpr95!r}, expected one of "
            f"{', '.join(FPR95_CONVENTIONS)}"
        )
    for name, data in evaluation.sets.items():
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
