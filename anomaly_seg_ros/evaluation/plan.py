# SPDX-License-Identifier: Apache-2.0
"""What to evaluate, as given on the command line: models, scores, data sets, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_seg_ros.bags.evaluation_input import BagOptions
from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.metrics.components import COMPONENT_SIZES
from anomaly_seg_ros.scores import SCORES

# How a bag is evaluated.
LOCK_STEP, REAL_TIME = "lock-step", "real-time"
IN_PROCESS, NODE, DUMPED = "in-process", "node", "dumped"
VIAS = (IN_PROCESS, NODE)
MODES = (LOCK_STEP, REAL_TIME, IN_PROCESS)
BAG = "bag"
AUTO, NONE, ALL = "auto", "none", "all"
COMPONENTS = (AUTO, *COMPONENT_SIZES, NONE)
# Memory for the counts of all scores of a run together.
MEMORY_LIMIT = 2 << 30

_LABELLED = re.compile(r"(?P<label>[A-Za-z0-9_.-]+)=(?P<rest>.+)", re.DOTALL)
# Names become names of files and folders.
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=+-]")


@dataclass(frozen=True)
class RunOptions:
    """How to evaluate one bag.

    Attributes:
        model: Name of a shipped model, or a weights file.
        segmenter: How the model runs, in this process and in a node that is started.
        score: The score that the node publishes; ``auto`` is the model's default.
        mode: ``lock-step``: one frame at a time, each waited for; ``real-time``: at the bag's
            own rate, drops and latency; ``in-process``: without a node.
        node: Fully qualified name of a running detector; None starts one.
        bag: How the bag is read; a detector listens to its image topic.
        timeout: Seconds to wait for one frame.
        start_timeout: Seconds to wait for the node to become active.
        video: Also write ``overlay.mp4``.
    """

    model: str = "default"
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)
    score: str = "auto"
    mode: str = LOCK_STEP
    node: str | None = None
    bag: BagOptions = field(default_factory=BagOptions)
    timeout: float = 60.0
    start_timeout: float = 180.0
    video: bool = False


@dataclass(frozen=True)
class NamedPath:
    """A model or a folder of scores, and its name in tables.

    Attributes:
        name: Unique among the models.
        source: Name of a shipped model, file or folder.
    """

    name: str
    source: str


@dataclass(frozen=True)
class DataSpec:
    """A data set or bag to open.

    Attributes:
        adapter: Key of ``DATASETS``, ``auto`` or ``bag``.
        folder: Its path.
        options: Options of the adapter.
        label: Its unique name in tables.
    """

    adapter: str
    folder: Path
    options: dict[str, str | bool] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that one call evaluates.

    Attributes:
        models: Models to run; may be empty if ``dumped`` is not.
        data: Data sets and bags to run them on.
        out: Folder for the results.
        scores: Names of scores, or ``("all",)``.
        dumped: Folders of scores to evaluate instead of models.
        via: ``node``: also through a detector node, in lock-step.
        components: One of :data:`COMPONENTS`.
        dump: ``(kind, folder)`` to also write the scores to files.
        segmenter: How the models run.
        limit: Use only this many frames of each data set, from the start.
        memory_limit: Bytes of counts to keep in memory before they go to temporary files.
        save_every: Seconds between saved states; a killed run loses no more than that.
        fresh: Ignore existing results and states.
    """

    models: tuple[NamedPath, ...]
    data: tuple[DataSpec, ...]
    out: Path
    scores: tuple[str, ...] = (ALL,)
    dumped: tuple[NamedPath, ...] = ()
    via: str = IN_PROCESS
    components: str = AUTO
    dump: tuple[str, Path] | None = None
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)
    limit: int | None = None
    memory_limit: int = MEMORY_LIMIT
    save_every: float = 60.0
    fresh: bool = False

    def __post_init__(self) -> None:
        for score in self.scores:
            if score != ALL and score not in SCORES:
                raise ParameterError(
                    f"unknown score {score!r}, expected {ALL} or of {', '.join(SCORES)}"
                )
        if self.limit is not None and self.limit < 1:
            raise ParameterError(f"limit must be at least 1, got {self.limit}")
        for what, labels in (
            ("models", [model.name for model in (*self.models, *self.dumped)]),
            ("data sets", [data.label for data in self.data]),
        ):
            if unsafe := [label for label in labels if not label or _UNSAFE.search(label)]:
                raise ParameterError(
                    f"{unsafe[0]!r}: names of {what} consist of letters, digits and _ . = + -"
                )
            if twice := sorted({label for label in labels if labels.count(label) > 1}):
                raise ParameterError(
                    f"two {what} are called {twice[0]!r}: name them, as in NAME={twice[0]}"
                )

    def component_sizes(self, own: str) -> str | None:
        """Key of ``COMPONENT_SIZES``; None without components.

        Args:
            own: The data set's own sizes, which ``auto`` takes.
        """
        return {AUTO: own, NONE: None}.get(self.components, self.components)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def parse_named(text: str) -> NamedPath:
    """Parses ``[NAME=]MODEL`` or ``[NAME=]FOLDER``; the name defaults to the file's stem."""
    found = None if _exists(text) else _LABELLED.fullmatch(text)
    if found:
        return NamedPath(found["label"], found["rest"])
    return NamedPath(_UNSAFE.sub("_", Path(text).stem), text)


def parse_data(text: str) -> DataSpec:
    """Parses ``[LABEL=][ADAPTER:]FOLDER[?option=value&...]``.

    The label defaults to the folder's name, followed by the options if there are any.

    Raises:
        ParameterError: An unknown adapter, or an option without a value.
    """
    rest, label = text, ""
    if "\0" in text:
        raise ParameterError(f"data {text!r}: no path has a zero byte")
    if not _exists(text) and (found := _LABELLED.fullmatch(text.partition("?")[0])):
        label, rest = found["label"], text[len(found["label"]) + 1 :]
    rest, _, query = (rest, "", "") if _exists(rest) else rest.partition("?")
    adapter, colon, folder = rest.partition(":")
    if not colon or _exists(rest):
        adapter, folder = AUTO, rest
    if adapter not in (AUTO, BAG, *DATASETS):
        raise ParameterError(
            f"data {text!r}: unknown data set {adapter!r}, expected auto, bag, "
            f"{', '.join(DATASETS)}"
        )
    options: dict[str, str | bool] = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ParameterError(f"data {text!r}: option {item!r} has no value (option=value)")
        options[key] = {"true": True, "false": False}.get(value, value)
    path = Path(folder)
    name = path.resolve().name or "root"
    label = label or _UNSAFE.sub("_", f"{name}-{query}" if query else name)
    return DataSpec(adapter, path, options, label)


def chosen_scores(wanted: Sequence[str], available: Iterable[str]) -> tuple[str, ...]:
    """Returns the requested scores that are available; for ``all``, all that are."""
    return tuple(name for name in available if ALL in wanted or name in wanted)
