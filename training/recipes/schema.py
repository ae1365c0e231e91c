# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files that say how a published result is reached, and what its figures are.

``training/recipes/topk_ovr_wide_resnet38.yaml`` explains every key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.checkpoints.loading import PUBLIC
from training.data.block import source_folder
from training.engine.config import CONFIGS, chosen, merged_config

EVALUATION = "evaluation"
# Keys of "FPR95_conventions" in benchmark.json.
FPR95_CONVENTIONS = ("at_least", "above", "nearest", "interpolated")
# Entry -> its default configuration, and what it writes for later stages: a file, or "" for the
# run folder itself, a data set.
ENTRIES = {
    "pseudo_label": ("pseudo_label.yaml", ""),
    "closed_set": ("closed_set.yaml", "final.safetensors"),
    "train_flow": ("flow.yaml", "flow.safetensors"),
    "fine_tune": ("fine_tune.yaml", "final.safetensors"),
}
# Metric -> whether it belongs to a score.
METRICS = {
    **dict.fromkeys(("AUROC", "AP", "FPR95", "open_mIoU", "closed_mIoU", "gap", "mean_F1"), True),
    "mIoU": False,
}


@dataclass(frozen=True)
class Checkpoint:
    """A public file that a recipe starts from.

    Attributes:
        file: Where it goes, relative to the data folder; or a public model's name, which is looked
            for as everywhere (``docs/models.md``).
        get: Where to get it.
    """

    file: str = ""
    get: str = ""

    def model(self, data: Path) -> str:
        """The value of a configuration that names it: a public model's name, or a path."""
        return self.file if self.file in PUBLIC else str(source_folder(self.file, data).absolute())


@dataclass(frozen=True)
class Needs:
    """What a recipe needs besides the data of its stages.

    Attributes:
        checkpoints: Public files by name.
        gpu_gib: Memory of the GPU, estimated.
        gpu_hours: Time on it, estimated; 0 for a recipe that needs no GPU.
        estimate: How both were estimated, and for which GPU; or the time on which CPU.
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
            or folder becomes the value.
        config: What differs from the entry's default configuration.
    """

    entry: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def product(self) -> str:
        """Name of the file that it writes for later stages; "" for its folder, see ENTRIES."""
        return ENTRIES[self.entry][1]

    @property
    def trains(self) -> bool:
        """Whether it has steps, which several processes may share."""
        return self.entry != "pseudo_label"

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
        fpr95: The convention that the published pooled FPR95 follow, one of
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
class PublishedFigures:
    """Published figures for one set, in percent: a row of a paper's table, or a shipped model's.

    Attributes:
        row: Table and row, or the model.
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
        figures: What was published for them; () keeps the recipe's.
    """

    title: str = ""
    set: tuple[str, ...] = ()
    figures: tuple[PublishedFigures, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A set-up of a paper, or of a shipped model.

    Attributes:
        title: One line.
        paper: Authors, title, year; "" for a set-up of this repository.
        tables: Tables and rows of the paper that it is for.
        needs: What it needs.
        open_choices: "STAGE.KEY" or a few words -> what no public source settles, and what is
            chosen here.
        differs: What is known to differ from the paper.
        stages: Runs of training entries by name, in order.
        evaluation: What is measured on which data.
        figures: What was published.
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
    figures: tuple[PublishedFigures, ...] = ()
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
