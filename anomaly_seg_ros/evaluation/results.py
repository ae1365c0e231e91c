# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation, and the two JSON files that show it.

A :class:`Run` is one model on one data set, however it was measured. ``benchmark.json`` lists runs
with all their figures; ``metrics.json`` is the view of one replayed bag. Both files are stable
surfaces: their keys are always there and keep their meaning. Figures are in percent; what is not
defined (no anomalous pixel, no class labels) or was not measured is None, in the files ``null``,
never NaN, which is not JSON.
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
from anomaly_seg_ros.metrics import threshold_counts
from anomaly_seg_ros.metrics.by_distance import DISTANCE_EDGES
from anomaly_seg_ros.metrics.calibration_error import ECE_CONVENTION
from anomaly_seg_ros.metrics.components import ANOMALY_TRACK, OBSTACLE_TRACK
from anomaly_seg_ros.metrics.pixel_scores import FPR95_CONVENTION

FORMAT = 1
FILE_NAME = "benchmark.json"

CONVENTIONS = {
    "units": "AP, AUROC, FPR95, mIoU, pixel_accuracy and IoU in percent; latencies in ms",
    "pooling": "all labelled pixels of all scored frames pooled, not averaged by frame",
    "labels": "0 in-distribution (negative), 1 anomaly (positive), anything else dropped",
    "AP": "step-wise average precision, as scikit-learn's average_precision_score",
    "AUROC": "ties count one half, as scikit-learn's roc_auc_score",
    "FPR95": FPR95_CONVENTION,
    "IoU": "classes without ground truth left out of the mean; label 255 dropped",
}

# Key in FPR95_conventions -> name in metrics/threshold_counts.py.
FPR95_KEYS = {
    "at_least": threshold_counts.FIRST_AT_LEAST,
    "above": threshold_counts.FIRST_ABOVE,
    "nearest": threshold_counts.NEAREST,
    "interpolated": threshold_counts.INTERPOLATED,
}

BENCHMARK_CONVENTIONS: dict[str, Any] = {
    **CONVENTIONS,
    "units": "all rates in percent; thresholds in the score's own unit; distances in metres",
    "FPR95_conventions": {
        key: threshold_counts.CONVENTIONS[name] for key, name in FPR95_KEYS.items()
    },
    "scores": "higher = more anomalous; a pixel is an alarm where score >= threshold",
    "per_image": "unweighted means over the images that have both kinds of pixels",
    "best_F1": "highest pixel F1 over all thresholds, no bins",
    "components": (
        "SegmentMeIfYouCan (Chan et al. 2021) at the threshold of best_F1; minimum pixels of a "
        f"predicted / true component: {ANOMALY_TRACK.predicted} / {ANOMALY_TRACK.target} "
        f"(anomaly_track), {OBSTACLE_TRACK.predicted} / {OBSTACLE_TRACK.target} (obstacle_track)"
    ),
    "objects": (
        "components at the deployed threshold, as pixels and as objects: regions that extend down "
        "to 0.45 on the unit scale, from the smallest score that the model's table gives for 0.5 "
        "false alarms per frame; found: sIoU >= 0.25, false alarm: PPV < 0.25"
    ),
    "open_set": (
        "DenseHybrid (Grcic et al. 2022), eq. 21; threshold_from 'folds': detects 95 % of the "
        "anomalous pixels of the other folds, figures weighted by images; 'calibration': the "
        "threshold that the model is deployed with"
    ),
    "distance": "baseline x focal length / disparity; [from_m, to_m); without disparity: dropped",
    "distance_edges_m": list(DISTANCE_EDGES),
    "calibration": "target and measured rates at the deployed threshold, 0.5 on the unit scale",
    "ECE": ECE_CONVENTION,
}


@dataclass
class PerImage:
    """Means over the images where the figures are defined, percent."""

    AP: float | None = None
    AUROC: float | None = None
    FPR95: float | None = None
    images: int = 0


@dataclass
class Components:
    """SegmentMeIfYouCan's component figures, percent.

    Attributes:
        sIoU: Mean over the ground-truth components.
        PPV: Mean over the predicted components.
        mean_F1: Mean over the thresholds of sIoU and PPV.
        threshold: Raw score from which a pixel is an alarm.
        sizes: ``obstacle_track`` or ``anomaly_track``: the smallest components that count.
    """

    sIoU: float | None  # noqa: N815 - the fields' names are the keys in the files
    PPV: float | None
    mean_F1: float | None  # noqa: N815
    threshold: float
    sizes: str


@dataclass
class Objects:
    """Components at the deployed threshold, as pixels and as objects; percent but for the last.

    Attributes:
        pixels_mean_F1: Mean F1 of the pixels above the threshold, as in :class:`Components`.
        pixels_PPV: Their mean PPV.
        sIoU: Of the objects, as in :class:`Components`.
        PPV: The same.
        mean_F1: The same.
        found: Share of the things with sIoU >= 0.25.
        false_alarms: Objects with PPV < 0.25 in a frame, on average.
        min_score: Smallest score of an object on the unit scale; 0 where the model's metadata
            has no table of rates.
        sizes: As in :class:`Components`.
    """

    pixels_mean_F1: float | None  # noqa: N815
    pixels_PPV: float | None  # noqa: N815
    sIoU: float | None  # noqa: N815
    PPV: float | None
    mean_F1: float | None  # noqa: N815
    found: float | None
    false_alarms: float
    min_score: float
    sizes: str


@dataclass
class DistanceBin:
    """Figures of the pixels at distances in [from_m, to_m), percent."""

    from_m: float
    to_m: float
    AP: float | None
    FPR95: float | None
    anomaly: int
    in_distribution: int


@dataclass
class Calibration:
    """The deployed threshold's target and what it reaches, percent.

    Attributes:
        threshold: Threshold on the unit scale.
        target_FPR: Rate that the threshold was set for; None if the model does not say.
        measured_FPR: Share of in-distribution pixels that are alarms.
        measured_TPR: Share of anomalous pixels that are alarms.
        ECE: Expected calibration error of the unit score.
    """

    threshold: float
    target_FPR: float | None  # noqa: N815
    measured_FPR: float | None  # noqa: N815
    measured_TPR: float | None  # noqa: N815
    ECE: float | None


@dataclass
class BestF1:
    """The best pixel F1, percent, and the raw score that reaches it."""

    F1: float
    threshold: float


@dataclass
class ScoreFigures:
    """Figures of one anomaly score in one run, percent; the first three pool all pixels."""

    AP: float | None = None
    AUROC: float | None = None
    FPR95: float | None = None
    FPR95_conventions: dict[str, float | None] = field(default_factory=dict)
    per_image: PerImage | None = None
    components: Components | None = None
    distance: list[DistanceBin] | None = None
    calibration: Calibration | None = None
    best_F1: BestF1 | None = None  # noqa: N815
    objects: Objects | None = None


@dataclass
class Segmentation:
    """Closed-set figures, percent; an IoU is None for a class without ground truth."""

    mIoU: float | None = None  # noqa: N815
    pixel_accuracy: float | None = None
    IoU: dict[str, float | None] = field(default_factory=dict)


@dataclass
class OpenSet:
    """Open-set figures of one score, percent.

    Attributes:
        open_mIoU: Mean open-IoU of the known classes.
        closed_mIoU: The segmenter's own mIoU without anomalous pixels.
        gap: ``closed_mIoU`` - ``open_mIoU``.
        mean_F1: Mean over the known classes and "unknown".
        anomaly_IoU: IoU of "unknown"; over folds, weighted by images like the others.
        TPR: Share of anomalous pixels that are alarms.
        FPR: Share of known pixels that are alarms.
        threshold_from: ``folds`` or ``calibration``.
        open_IoU: Open-IoU by class.
    """

    open_mIoU: float | None  # noqa: N815
    closed_mIoU: float | None  # noqa: N815
    gap: float | None
    mean_F1: float | None  # noqa: N815
    anomaly_IoU: float | None  # noqa: N815
    TPR: float | None
    FPR: float | None
    threshold_from: str
    open_IoU: dict[str, float | None] = field(default_factory=dict)  # noqa: N815


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
    max_abs_difference_to_in_process: float | None = None
    AP: float | None = None
    AUROC: float | None = None
    FPR95: float | None = None


@dataclass
class Latency:
    """Distribution of a latency in milliseconds."""

    median: float
    p95: float
    p99: float
    max: float

    @classmethod
    def from_samples(cls, milliseconds: Sequence[float]) -> Latency:
        """Summarises samples, at least one."""
        samples = np.asarray(milliseconds, np.float64)
        return cls(*(float(q) for q in np.percentile(samples, [50, 95, 99, 100])))


@dataclass
class ObjectFigures:
    """Unknown objects, counted in each frame that shows them; see ``metrics/object_detection.py``.

    Attributes:
        score: Name of the score that they were found in.
        seen: Objects in all scored frames.
        judged: Frames with an anomaly mask, which the next three are about.
        targets: Unknown things in their ground truth.
        found: Those of them that were found.
        false_alarms: Objects that are none.
        threshold: On the unit scale; also the smallest score of an object.
        min_area: Pixels of the smallest object and target.
    """

    score: str
    seen: int
    judged: int
    targets: int
    found: int
    false_alarms: int
    threshold: float
    min_area: int


@dataclass
class FlickerFigures:
    """Share of pixels that differ from the frame before, percent; see ``metrics/flicker.py``.

    Attributes:
        mask: Pixels that are unknown in one of the two frames only.
        labels: Pixels with another closed-set label.
        pairs: Pairs of successive frames.
    """

    mask: float | None
    labels: float | None
    pairs: int


@dataclass
class Replay:
    """What only a replayed bag has.

    Attributes:
        sent: Frames sent to the node.
        lost: Frames that were never answered.
        node: The node's figures, where one took part.
        latency_ms: From sending a frame to its answer, where a node took part.
        objects: Unknown objects in the published score.
        flicker: What changes from frame to frame; None without two frames.
        dropped: Frames by who dropped them, such as ``{"node (real time)": 3}``.
        configuration: JSON-like; everything needed to run the same again.
    """

    sent: int = 0
    lost: int = 0
    node: NodeFigures | None = None
    latency_ms: Latency | None = None
    objects: ObjectFigures | None = None
    flicker: FlickerFigures | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """One model on one data set.

    Attributes:
        model: Name of the model, as in tables.
        dataset: Name of the data set's adapter, ``bag`` for a bag.
        data: Name of the folder, with the options it was opened with; of a replayed bag the name
            of its data set, for people.
        via: ``in-process``, ``node`` or ``dumped``.
        frames: Number of scored frames.
        pixels: Pooled pixel counts, ``{"anomaly": n, "in_distribution": n}``.
        segmentation: Closed-set figures, where the labels' classes are the model's.
        open_set: Figures by score, where there are class labels and anomalies.
        scores: Figures by score; empty without anomaly masks.
        notes: Sentences for the reader of the figures, such as why one is undefined.
        seconds: Time that the run took, including all resumptions.
        model_configuration: JSON-like; what the scores depend on.
        input: JSON-like; of a bag its topics, its stamps, and how much ground truth found a frame.
        replay: What only a replayed bag has; not in ``benchmark.json``.
    """

    model: str
    dataset: str
    data: str
    via: str
    frames: int
    pixels: dict[str, int]
    segmentation: Segmentation | None = None
    open_set: dict[str, OpenSet] | None = None
    scores: dict[str, ScoreFigures] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    model_configuration: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] | None = None
    replay: Replay | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells runs of a benchmark apart: model, data, via."""
        return self.model, self.data, self.via


@dataclass
class Benchmark:
    """All runs of an output folder."""

    runs: list[Run] = field(default_factory=list)
    conventions: dict[str, Any] = field(default_factory=lambda: dict(BENCHMARK_CONVENTIONS))

    def put(self, run: Run) -> None:
        """Adds a run, in place of an older one with the same key.

        A new key goes behind the runs of the same model and data that came about in other ways.
        """
        place = len(self.runs)
        for index, old in enumerate(self.runs):
            if old.key == run.key:
                self.runs[index] = run
                return
            if old.key[:2] == run.key[:2]:
                place = index + 1
        self.runs.insert(place, run)

    def drop(self, key: tuple[str, str, str]) -> bool:
        """Removes the run with this key; returns whether there was one."""
        kept = [run for run in self.runs if run.key != key]
        dropped = len(kept) < len(self.runs)
        self.runs = kept
        return dropped

    def to_json(self) -> str:
        """Serialises everything but the runs' ``replay``."""
        runs = [dataclasses.asdict(dataclasses.replace(run, replay=None)) for run in self.runs]
        for run in runs:
            del run["replay"]
        document = {"format": FORMAT, "conventions": self.conventions, "runs": runs}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Benchmark:
        """Restores what :meth:`to_json` wrote; unknown keys are ignored.

        Raises:
            ValueError: Not JSON, or not such a document; the message says what is wrong.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or "runs" not in document:
            raise ValueError("not a benchmark: it has no key 'runs'")
        if document.get("format") != FORMAT:
            raise ValueError(f"format {document.get('format')}, this version reads {FORMAT}")
        return cls([_run(raw) for raw in document["runs"]], document.get("conventions", {}))


def write_benchmark(benchmark: Benchmark, folder: Path) -> Path:
    """Writes ``benchmark.json`` and returns its path.

    Raises:
        OutputError: It cannot be written; nothing half-written is left.
    """
    path = folder / FILE_NAME
    write_atomically(path, benchmark.to_json().encode())
    return path


def read_benchmark(path: str | Path) -> Benchmark:
    """Reads ``benchmark.json``.

    Raises:
        OutputError: It cannot be read or is no benchmark.
    """
    try:
        return Benchmark.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"cannot read {path}: {error}") from error


def metrics_json(run: Run) -> str:
    """The document ``metrics.json`` of a replayed bag; sections not measured are left out."""
    replay = run.replay or Replay()
    measured = {
        "segmentation": run.segmentation,
        "node": replay.node,
        "latency_ms": replay.latency_ms,
        "objects": replay.objects,
        "flicker": replay.flicker,
    }
    document = {
        "model": run.model,
        "frames": {"sent": replay.sent, "scored": run.frames, "lost": replay.lost},
        "scores": {
            name: {"AP": score.AP, "AUROC": score.AUROC, "FPR95": score.FPR95}
            for name, score in run.scores.items()
        },
        "dataset": run.data,
        "pixels": run.pixels,
        **{name: dataclasses.asdict(part) for name, part in measured.items() if part is not None},
        "dropped": replay.dropped,
        "notes": run.notes,
        "input": run.input or {},
        "configuration": replay.configuration,
        "conventions": CONVENTIONS,
    }
    return json.dumps(plain(document), indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Turns NumPy values, paths and tuples into JSON types, and non-finite numbers into None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


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


def _run(raw: dict[str, Any]) -> Run:
    run = _restore(Run, {**raw, "replay": None})
    run.segmentation = _optional(Segmentation, run.segmentation)
    if run.open_set is not None:
        run.open_set = {name: _restore(OpenSet, value) for name, value in run.open_set.items()}
    run.scores = {name: _score(value) for name, value in run.scores.items()}
    return run


def _score(raw: dict[str, Any]) -> ScoreFigures:
    score = _restore(ScoreFigures, raw)
    score.per_image = _optional(PerImage, score.per_image)
    score.components = _optional(Components, score.components)
    score.objects = _optional(Objects, score.objects)
    score.calibration = _optional(Calibration, score.calibration)
    score.best_F1 = _optional(BestF1, score.best_F1)
    if score.distance is not None:
        score.distance = [_restore(DistanceBin, row) for row in score.distance]
    return score


def _optional(kind: type, raw: dict[str, Any] | None) -> Any:
    return None if raw is None else _restore(kind, raw)


def _restore(kind: type, raw: dict[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in raw.items() if key in known})
