# SPDX-License-Identifier: Apache-2.0
"""Replays a bag through a detector, scores its answers, and writes the results."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from tqdm import tqdm

from anomaly_seg_ros.bags.evaluation_input import (
    described,
    label_classes,
    notes_on,
    open_bag,
)
from anomaly_seg_ros.bags.reader import BagReader, Frame
from anomaly_seg_ros.errors import BagError, CheckpointError, ParameterError
from anomaly_seg_ros.evaluation.collector import Collector
from anomaly_seg_ros.evaluation.plan import IN_PROCESS, MODES, REAL_TIME, RunOptions
from anomaly_seg_ros.evaluation.results import Run, make_folder
from anomaly_seg_ros.inference.devices import select_device
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.replay import AnswerFile, Replayer
from anomaly_seg_ros.ros.transport import use_profile
from anomaly_seg_ros.system.memory import peak_memory, reset_peak


@dataclass
class _Link:
    """The connection to a detector; empty without a node."""

    replayer: Replayer | None = None
    check: Callable[[], None] = field(default=lambda: None)


def evaluate_bag(bag: Path, out: Path, options: RunOptions) -> Run:
    """Evaluates one bag.

    Args:
        bag: A rosbag2 with or without ground truth.
        out: Folder for ``metrics.json``, ``report.html``, ``node.log`` and ``overlay.mp4``.
        options: See :class:`RunOptions`.

    Raises:
        AnomalySegError: Anything that the user can fix; nothing half-written remains.
    """
    if options.mode not in MODES:
        raise ParameterError(f"mode {options.mode!r}: expected one of {', '.join(MODES)}")
    make_folder(out)
    shortage = "" if options.mode == IN_PROCESS else _prepare_transport()
    depth = BitDepth(options.bag.bit_depth)
    with open_bag(bag, options.bag) as reader:
        notes = notes_on(reader, options.bag)
        for note in notes:
            tqdm.write(f"note: {note}", file=sys.stderr)
        reset_peak(select_device(options.segmenter.device))
        segmenter = Segmenter.load(options.model, options.segmenter)
        score = _chosen_score(segmenter, options.score)
        frame_rate = reader.frame_rate or 10.0
        classes = label_classes(reader)
        reader.num_classes = len(classes or segmenter.metadata.classes)
        collector = Collector(
            segmenter.metadata,
            score,
            video=out / "overlay.mp4" if options.video else None,
            frame_rate=frame_rate,
            label_classes=classes,
        )
        collector.notes += notes
        failed = True
        try:
            with _detector(reader, out, score, options) as link:
                if options.mode == REAL_TIME:
                    _real_time(reader, link, collector, frame_rate, out, depth)
                else:
                    _one_by_one(reader, link, segmenter, score, collector, options, depth)
            failed = False
        finally:
            collector.close(failed)
        result = collector.result(
            reader.dataset or reader.path.name,
            _configuration(bag, options, segmenter, score),
            with_node=options.mode != IN_PROCESS,
        )
        result.input = described(reader, options.bag)
    result.notes += [f"{remark} (here: --bit-depth)" for remark in depth.remarks().values()]
    if shortage:
        result.notes.append(shortage)
    if link.replayer is not None and link.replayer.surplus:
        result.notes.append(
            f"{link.replayer.surplus} surplus output messages after frames were sent again"
        )
    if options.mode == REAL_TIME and result.replay is not None:
        result.replay.dropped = {"node (real time)": result.replay.lost}
    collector.write(result, out)
    return result


def _one_by_one(
    reader: BagReader,
    link: _Link,
    segmenter: Segmenter,
    score: str,
    collector: Collector,
    options: RunOptions,
    depth: BitDepth,
) -> None:
    calibration = segmenter.metadata.calibration_of(score)
    for frame in tqdm(reader.frames(), "evaluating", len(reader), unit="frame", file=sys.stderr):
        collector.sent += 1
        try:
            image = frame.to_rgb(depth)
        except BagError as error:
            # The node would count it as bad and send nothing: do not wait for it.
            collector.lost += 1
            collector.notes.append(f"unreadable: {error}")
            continue
        answer = None
        if link.replayer is not None:
            answer = link.replayer.ask(frame, options.timeout, link.check)
            if answer is None:
                collector.lost += 1
                continue
            collector.latencies.append(answer.latency_ms)
        in_process = segmenter.predict(image, segmenter.available_scores, confidence=False)
        if answer is None:
            labels, unit = in_process.labels, calibration.to_unit(in_process.scores[score])
            assert labels is not None  # noqa: S101 - predicted by default
        else:
            labels, unit = answer.labels, answer.unit_score
        _add(collector, frame, image, labels, unit, in_process)


def _real_time(
    reader: BagReader,
    link: _Link,
    collector: Collector,
    frame_rate: float,
    out: Path,
    depth: BitDepth,
) -> None:
    """Plays at the recorded pace, then reads the bag again and scores what was answered."""
    replayer = link.replayer
    assert replayer is not None  # noqa: S101 - this mode needs a node
    with AnswerFile(out) as answers:

        def collect(seconds: float) -> None:
            for stamp, answer in replayer.collect(seconds).items():
                collector.latencies.append(answer.latency_ms)
                answers.put(stamp, answer)

        started = time.monotonic()
        for frame in tqdm(reader.frames(), "playing", len(reader), unit="frame", file=sys.stderr):
            collect(max(0.0, started + frame.play_ns / 1e9 - time.monotonic()))
            collector.sent += 1
            replayer.send(frame)
            link.check()
        collect(5.0 + 2.0 / frame_rate)
        collector.lost = collector.sent - len(answers)
        for frame in tqdm(reader.frames(), "scoring", len(reader), unit="frame", file=sys.stderr):
            if frame.stamp_ns in answers:
                _add(collector, frame, frame.to_rgb(depth), *answers.get(frame.stamp_ns), None)


def _add(
    collector: Collector,
    frame: Frame,
    image: np.ndarray,
    labels: np.ndarray,
    unit_score: np.ndarray,
    in_process: Prediction | None,
) -> None:
    name = frame.name or f"{frame.stamp_ns / 1e9:.9f}"
    collector.add(name, image, frame.anomaly_mask, frame.labels, labels, unit_score, in_process)


@contextmanager
def _detector(reader: BagReader, out: Path, score: str, options: RunOptions) -> Iterator[_Link]:
    """Connects to a running detector, or to one that it starts for this bag."""
    if options.mode == IN_PROCESS:
        yield _Link()
        return
    compressed = reader.topics[reader.image_topic][0].endswith("CompressedImage")
    topic = reader.image_topic.removesuffix("/compressed")
    process = None
    if options.node is None:
        log = out / "node.log"
        log.unlink(missing_ok=True)
        namespace = f"/evaluation_{os.getpid()}"
        topic = f"{namespace}/image"
        process = NodeProcess(
            namespace,
            {
                "model": str(options.model),
                **node_parameters(options.segmenter),
                "score_method": score,
                "bit_depth": options.bag.bit_depth,
                "image_transport": "compressed" if compressed else "raw",
                # Only the node may drop frames, not the transport.
                "qos_reliability": "reliable",
            },
            log,
        )

    def check() -> None:
        if process is not None:
            process.check_alive()
            if (reason := process.failure()) is not None:
                raise CheckpointError(f"the node could not start: {reason}")

    replayer = None
    try:
        rclpy.init()
        if process is not None:
            process.start()
        name = process.name if process else str(options.node)
        replayer = Replayer(name, topic, compressed=compressed)
        is_active = None if process is None else process.is_active
        replayer.wait_for_detector(options.start_timeout, check, is_active)
        yield _Link(replayer, process.check_alive) if process else _Link(replayer)
    finally:
        if replayer is not None:
            replayer.close()
        rclpy.try_shutdown()
        if process is not None:
            process.stop()


def node_parameters(options: SegmenterOptions) -> dict[str, Any]:
    """The node's parameters for these options."""
    parameters = asdict(options)
    for prefix in ("inference", "tile"):
        height, width = parameters.pop(f"{prefix}_size") or (0, 0)
        parameters |= {f"{prefix}_height": height, f"{prefix}_width": width}
    return parameters


def _prepare_transport() -> str:
    """Checks discovery and shared memory before the model is loaded; returns what is lacking.

    Raises:
        DiscoveryError: The node could not be found.
    """
    check_discovery(os.environ)
    shortage = use_profile()
    if shortage:
        tqdm.write(f"warning: {shortage}", file=sys.stderr)
    return shortage


def _chosen_score(segmenter: Segmenter, name: str) -> str:
    score = segmenter.metadata.default_score if name == "auto" else name
    if score not in segmenter.available_scores:
        raise ParameterError(
            f"score {score!r}: model {segmenter.metadata.name!r} offers "
            f"{', '.join(segmenter.available_scores)}"
        )
    return score


def _configuration(bag: Path, options: RunOptions, segmenter: Segmenter, score: str) -> dict:
    calibration = segmenter.metadata.calibration_of(score)
    framing = segmenter.framing
    peak = peak_memory(segmenter.device)
    # Flat, under the names of the command line, with the keys that metrics.json has always had.
    given = asdict(options)
    reading, running = given.pop("bag"), given.pop("segmenter")
    given = {"model": options.model, **running, **given, **reading}
    del given["num_threads"], given["cuda_graphs"]
    return {
        "bag": str(bag),
        "options": given,
        "model": {
            "name": segmenter.metadata.name,
            "architecture": segmenter.metadata.architecture,
            "device": str(segmenter.device),
            "backend": segmenter.backend,
            "precision": segmenter.precision,
            "inference_mode": framing.mode,
            "inference_size": framing.size and list(framing.size),
            "tile_size": framing.tile and list(framing.tile),
            "tile_overlap": framing.overlap,
            "score": score,
            "raw_threshold": calibration.threshold,
            "unit_scale": calibration.scale,
        },
        "peak_memory": {
            "MiB": round(peak.mib, 1),
            "of": f"{peak.what} (the evaluation's process)",
        },
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a str subclass that YAML refuses
            "numpy": np.__version__,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
