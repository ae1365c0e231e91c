"""The result of an evaluation, as ``metrics.json`` and as a table.

``metrics.json`` is a stable surface: ``model``, ``frames.{sent,scored,lost}`` and
``scores.<name>.{AP,AUROC,FPR95}`` are always there and keep their meaning. Figures that people
read are in percent, and ``conventions`` says so. What is not defined (no anomalous pixel, no class
labels) is ``null``, never NaN, which is not JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import FPR95_CONVENTION, PixelMetrics

NAN = float("nan")

CONVENTIONS = {
    "units": "AP, AUROC, FPR95, mIoU, pixel_accuracy and IoU in percent; latencies in ms",
    "pooling": "all labelled pixels of all scored frames pooled, not averaged by frame",
    "labels": "0 in-distribution (negative), 1 anomaly (positive), anything else dropped",
    "AP": "step-wise average precision, as scikit-learn's average_precision_score",
    "AUROC": "ties count one half, as scikit-learn's roc_auc_score",
    "FPR95": FPR95_CONVENTION,
    "IoU": "classes without ground truth left out of the mean; label 255 dropped",
}

# Column -> whether higher is better.
COLUMNS = {"AP": True, "AUROC": True, "FPR95": False}


@dataclass
class FrameCounts:
    """Frames sent to the node, scored from its answers, and never answered."""

    sent: int = 0
    scored: int = 0
    lost: int = 0


@dataclass
class ScoreFigures:
    """Figures of one anomaly score in percent; NaN where not defined."""

    AP: float = NAN
    AUROC: float = NAN
    FPR95: float = NAN

    @classmethod
    def from_metrics(cls, metrics: PixelMetrics) -> ScoreFigures:
        """Converts the fractions of :class:`PixelMetrics` into percent."""
        return cls(100 * metrics.AP, 100 * metrics.AUROC, 100 * metrics.FPR95)


@dataclass
class SegmentationFigures:
    """Closed-set figures in percent; an IoU is NaN for a class without ground truth."""

    mIoU: float = NAN  # noqa: N815 - the field's name, and the key in metrics.json
    pixel_accuracy: float = NAN
    IoU: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_confusion(cls, matrix: ConfusionMatrix, names: Sequence[str]) -> SegmentationFigures:
        """Reads the figures off a confusion matrix whose classes have these names."""
        iou = (100 * matrix.iou()).tolist()
        return cls(
            mIoU=100 * matrix.mean_iou(),
            pixel_accuracy=100 * matrix.pixel_accuracy(),
            IoU=dict(zip(names, iou, strict=True)),
        )


@dataclass
class NodeFigures:
    """The node's messages against the same frames scored in-process.

    Attributes:
        score: Name of the score that the node published.
        max_abs_difference_to_in_process: Largest difference of ``~/ood_score`` in [0, 1] over
            all pixels of all frames.
        AP, AUROC, FPR95: Percent, from the messages.
    """

    score: str
    max_abs_difference_to_in_process: float = NAN
    AP: float = NAN
    AUROC: float = NAN
    FPR95: float = NAN


@dataclass
class LatencySummary:
    """Distribution of a latency in milliseconds."""

    median: float = NAN
    p95: float = NAN
    p99: float = NAN
    max: float = NAN

    @classmethod
    def from_samples(cls, milliseconds: Sequence[float]) -> LatencySummary:
        """Summarises samples; all NaN without any."""
        if not len(milliseconds):
            return cls()
        samples = np.asarray(milliseconds, np.float64)
        return cls(*(float(q) for q in np.percentile(samples, [50, 95, 99, 100])))


@dataclass
class EvaluationResult:
    """Everything that ``metrics.json`` holds.

    Attributes:
        model: Name of the model.
        frames: What became of the frames.
        scores: By score name, over the in-process scores.
        dataset: Name of the data set or bag, for people.
        pixels: Pooled pixel counts, ``{"anomaly": n, "in_distribution": n}``.
        segmentation: Where the data has class labels.
        node: Where a node took part.
        latency_ms: From sending a frame to its answer, where a node took part.
        dropped: Frames by who dropped them, such as ``{"node": 3}``.
        notes: Sentences a reader of the figures must know, such as why one is undefined.
        input: JSON-like; of a bag its topics, its stamps, and how much ground truth found a frame.
        configuration: JSON-like; everything needed to run the same again.
        conventions: How the figures are defined.
    """

    model: str
    frames: FrameCounts = field(default_factory=FrameCounts)
    scores: dict[str, ScoreFigures] = field(default_factory=dict)
    dataset: str = ""
    pixels: dict[str, int] = field(default_factory=dict)
    segmentation: SegmentationFigures | None = None
    node: NodeFigures | None = None
    latency_ms: LatencySummary | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    input: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=lambda: dict(CONVENTIONS))

    def to_json(self) -> str:
        """Serialises; sections that were not measured are left out, NaN becomes null."""
        sections = dataclasses.asdict(self)
        for name in ("segmentation", "node", "latency_ms"):
            if sections[name] is None:
                del sections[name]
        return json.dumps(_plain(sections), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvaluationResult:
        """Restores what :meth:`to_json` wrote; unknown keys are ignored.

        Raises:
            ValueError: Not JSON, or not such a document; the message says what is wrong.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or "model" not in document:
            raise ValueError("not an evaluation result: it has no key 'model'")
        result = _restore(cls, document)
        result.frames = _restore(FrameCounts, document.get("frames", {}))
        result.scores = {
            name: _restore(ScoreFigures, figures) for name, figures in result.scores.items()
        }
        for name, kind in _OPTIONAL_SECTIONS.items():
            if document.get(name) is not None:
                setattr(result, name, _restore(kind, document[name]))
        if result.segmentation is not None:
            result.segmentation.IoU = {
                name: NAN if iou is None else iou for name, iou in result.segmentation.IoU.items()
            }
        return result


_OPTIONAL_SECTIONS = {
    "segmentation": SegmentationFigures,
    "node": NodeFigures,
    "latency_ms": LatencySummary,
}


def write_metrics(result: EvaluationResult, path: str | Path) -> None:
    """Writes ``metrics.json``.

    Raises:
        OutputError: The file cannot be written; nothing half-written is left.
    """
    write_atomically(path, result.to_json().encode())


def read_metrics(path: str | Path) -> EvaluationResult:
    """Reads ``metrics.json``.

    Raises:
        OutputError: The file cannot be read or is no evaluation result.
    """
    try:
        return EvaluationResult.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"cannot read {path}: {error}") from error


def make_folder(folder: Path) -> None:
    """Makes a folder for results, and checks that files can be written there.

    Raises:
        OutputError: It cannot be made, or nothing can be written to it; names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error


def best_scores(scores: dict[str, ScoreFigures]) -> dict[str, str]:
    """Name of the best score for each column; columns without a figure are left out."""
    best = {}
    for column, higher_is_better in COLUMNS.items():
        figures = {name: getattr(score, column) for name, score in scores.items()}
        defined = {name: figure for name, figure in figures.items() if not math.isnan(figure)}
        if defined:
            choose = max if higher_is_better else min
            best[column] = choose(defined, key=defined.__getitem__)
    return best


def format_table(result: EvaluationResult, markdown: bool = False) -> str:
    """Formats the figures as text.

    Args:
        result: What to show.
        markdown: Markdown tables with the best figure of each column in bold, rather than
            aligned columns with it marked by a star.

    Returns:
        Lines without a final newline.
    """
    best = best_scores(result.scores)
    rows = [["score", *(f"{column} [%]" for column in COLUMNS)]]
    for name, figures in result.scores.items():
        cells = [
            _cell(getattr(figures, column), best.get(column) == name, markdown)
            for column in COLUMNS
        ]
        rows.append([f"`{name}`" if markdown else name, *cells])
    frames = result.frames
    title = " on ".join(filter(None, [result.model, result.dataset]))
    lines = [
        f"{title}: {frames.sent} frames sent, {frames.scored} scored, {frames.lost} lost",
        "",
        *(_markdown_rows(rows) if markdown else _aligned_rows(rows)),
    ]
    if summary := _summary_lines(result):
        lines += ["", *(f"- {line}" if markdown else line for line in summary)]
    return "\n".join(lines)


def format_figure(value: float, digits: int = 2) -> str:
    """A figure for people; a dash where it is not defined."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(value: float, best: bool, markdown: bool) -> str:
    text = format_figure(value)
    if markdown:
        return f"**{text}**" if best else text
    # The space keeps the digits of marked and unmarked figures in line.
    return f"{text}*" if best else f"{text} "


def _aligned_rows(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows = [[*rows[0]], ["-" * width for width in widths], *rows[1:]]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _markdown_rows(rows: list[list[str]]) -> list[str]:
    ruler = ["---", *["---:"] * (len(rows[0]) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], ruler, *rows[1:])]


def _summary_lines(result: EvaluationResult) -> list[str]:
    lines = []
    if (segmentation := result.segmentation) is not None:
        lines.append(
            f"segmentation: mIoU {format_figure(segmentation.mIoU)} %, "
            f"pixel accuracy {format_figure(segmentation.pixel_accuracy)} %"
        )
    if (node := result.node) is not None:
        lines.append(
            f"node ({node.score}): AP {format_figure(node.AP)} % from its messages; largest "
            f"difference to in-process {node.max_abs_difference_to_in_process:.2g}"
        )
    if (latency := result.latency_ms) is not None:
        lines.append(
            f"latency: median {format_figure(latency.median, 1)} ms, 95th percentile "
            f"{format_figure(latency.p95, 1)} ms, 99th {format_figure(latency.p99, 1)} ms, "
            f"worst {format_figure(latency.max, 1)} ms"
        )
    lines += [f"dropped by {who}: {count}" for who, count in result.dropped.items() if count]
    lines += [f"note: {note}" for note in result.notes]
    return lines


def _plain(value: Any) -> Any:
    """Turns NumPy scalars, paths and tuples into JSON types, and non-finite numbers into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _restore(kind: type, document: dict[str, Any]) -> Any:
    """Builds a dataclass from its known keys; null in a number's place becomes NaN."""
    fields = {item.name: item for item in dataclasses.fields(kind)}
    values = {}
    for key, value in document.items():
        if key in fields:
            is_number = isinstance(fields[key].default, float)
            values[key] = NAN if value is None and is_number else value
    return kind(**values)
