# SPDX-License-Identifier: Apache-2.0
"""The object stage: what a frame costs, and what it finds on the demo clip.

    python -m benchmarks.objects                        # cost at 2048x1024, demo clip, smoothing
    python -m benchmarks.objects --data fishyscapes=/data/ls   # components with and without it

Costs are medians of process CPU time on one core, beside the same regions by scikit-image, which
takes turns. The demo clip has exact masks, distances and mounting. Flicker is the share of pixels
whose mask changes from one frame to the next; the slow scene is one frame of the clip under fresh
sensor noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label, regionprops

from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.datasets.base import Dataset
from anomaly_seg_ros.datasets.clip import ClipDataset
from anomaly_seg_ros.inference.options import AUTO
from anomaly_seg_ros.inference.prediction import OutputRequest, UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.labels import ANOMALY
from anomaly_seg_ros.metrics.components import COMPONENT_SIZES, ComponentScores
from anomaly_seg_ros.metrics.object_detection import ObjectDetections
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.objects.ground_plane import GroundPlane
from anomaly_seg_ros.objects.regions import ObjectRule, UnknownObject, find_objects, paint
from anomaly_seg_ros.objects.smoothing import ScoreSmoother, SmoothingRule
from anomaly_seg_ros.objects.tracker import Tracker
from anomaly_seg_ros.system.resources import asset_path

SIZE = (1024, 2048)
REPEATS = 5
EDGES_M = (0, 10, 20, 30, 50)
NOISE, SLOW_FRAMES = 5.0, 12


class Scored(NamedTuple):
    """A frame and what the model makes of it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) uint8
    score: np.ndarray  # (H, W) float32, unit scale
    labels: np.ndarray  # (H, W) uint8
    distance: np.ndarray | None  # (H, W) metres


def scored(segmenter: Segmenter, frames: Iterable[tuple[np.ndarray, ...]]) -> Iterator[Scored]:
    """Runs a model on (image, mask, distance or None)."""
    rule = UnknownRule(segmenter.metadata.default_score, 0.5, mask=False)
    for image, mask, distance in frames:
        (found,) = segmenter.segment([image], OutputRequest(confidence=False, unknown=rule))
        if found.unit_score is None or found.labels is None:
            raise RuntimeError("the maps were requested")
        yield Scored(image, mask, found.unit_score, found.labels, distance)


def frames_of(dataset: Dataset) -> Iterator[tuple[np.ndarray, ...]]:
    """(image, mask, distance or None) of the frames that have a mask."""
    for sample in (entry.load() for entry in dataset):
        distance, camera = None, sample.camera
        if sample.disparity is not None and camera is not None and camera.baseline_m:
            with np.errstate(divide="ignore"):
                distance = 256 * camera.fx * camera.baseline_m / sample.disparity
        if sample.anomaly_mask is not None:
            yield sample.image, sample.anomaly_mask, distance


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of this thread's CPU time."""
    began = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - began)


def peer_regions(score: np.ndarray, rule: ObjectRule) -> int:
    """The same regions by scikit-image; their number."""
    mask = apply_hysteresis_threshold(score, rule.low_threshold, rule.threshold)
    regions = regionprops(label(mask, connectivity=2), intensity_image=score)
    return sum(r.area >= rule.min_area and r.intensity_mean >= rule.min_score for r in regions)


def print_cost(frames: Sequence[Scored], rule: ObjectRule) -> None:
    """Prints what each step of the stage costs at 2 MP."""
    times: dict[str, list[float]] = {}
    counts = []

    def clock(step: str, call: Callable[[], object]) -> None:
        times.setdefault(step, []).append(cpu_ms(call))

    tracker, smoother = Tracker(), ScoreSmoother(SmoothingRule(0.3))
    for index, frame in enumerate(frames):
        score = cv2.resize(frame.score, SIZE[::-1])
        labels = cv2.resize(frame.labels, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(frame.image, SIZE[::-1])
        objects = find_objects(score, rule, labels)
        counts.append(len(objects))
        for _ in range(REPEATS):
            clock("find_objects", lambda s=score, k=labels: find_objects(s, rule, k))
        clock("scikit-image", lambda s=score: peer_regions(s, rule))
        clock("Tracker", lambda o=objects, i=index: tracker.update(o, i / 10))
        clock("ScoreSmoother", lambda s=score, p=image, i=index: smoother.update(s, p, i / 10))
    print(f"cost at {SIZE[1]}x{SIZE[0]}, {len(frames)} frames, {np.mean(counts):.1f} objects each")
    for step, values in times.items():
        tail = float(np.quantile(values, 0.95))
        print(f"  {step:14s} median {statistics.median(values):6.2f} ms, 95 % {tail:6.2f} ms")


def overlapping(objects: Sequence[UnknownObject], thing: np.ndarray) -> UnknownObject | None:
    """The object that shares most pixels with a thing (H, W) bool; None without any."""
    shared = [int((thing[o.box.slices] & o.mask).sum()) for o in objects]
    return objects[int(np.argmax(shared))] if shared and max(shared) else None


def print_clip(frames: Sequence[Scored], dataset: ClipDataset, rule: ObjectRule) -> None:
    """Prints what is found of the clip's things, the ids, and the errors of distances."""
    camera = json.loads((dataset.root / "camera.json").read_text())
    ground = GroundPlane(
        camera["fy"], camera["cy"], camera["height_m"], math.radians(camera["pitch_down_deg"])
    )
    detections, truth, tracker = ObjectDetections(rule.min_area), Tracker(), Tracker()
    ids: dict[int, list[int]] = {}
    errors: list[tuple[float, float]] = []
    exact = ObjectRule(min_area=rule.min_area)
    for index, frame in enumerate(frames):
        objects = find_objects(frame.score, rule, frame.labels, ground)
        detections.update(objects, frame.mask)
        numbers = {id(t.unknown): t.id for t in tracker.update(objects, index / 10)}
        things = find_objects((frame.mask == ANOMALY).astype(np.float32), exact)
        for name, thing in truth.update(things, index / 10):
            place = paint([thing], frame.mask.shape) > 0
            found = overlapping(objects, place)
            if found is None:
                continue
            if number := numbers.get(id(found)):
                ids.setdefault(name, []).append(number)
            if found.distance_m is not None and frame.distance is not None:
                true = float(np.median(frame.distance[place]))
                errors.append((true, found.distance_m - true))
    print("demo clip, share of its things found and false alarms per frame, by smallest score")
    for cut in (0.0, 0.5, 0.52, 0.54, 0.56, 0.58, 0.6):
        counts = detections.at(cut)
        print(
            f"  {cut:.2f}  {counts.found}/{counts.targets} = {counts.found / counts.targets:6.1%}"
            f"   {counts.false_alarms / counts.frames:5.2f}"
        )
    for name, given in ids.items():
        switches = sum(a != b for a, b in itertools.pairwise(given))
        print(f"  thing {name}: id in {len(given)} frames, {switches} switches")
    for low, high in itertools.pairwise(EDGES_M):
        here = np.array([e for true, e in errors if low <= true < high])
        if here.size:
            print(
                f"  {low} to {high} m: {here.size} objects, median error {np.median(here):+.2f} m"
                f", median absolute error {np.median(np.abs(here)):.2f} m"
            )


def print_smoothing(name: str, frames: Sequence[Scored], seconds: Sequence[float]) -> None:
    """Prints flicker and AP at several time constants."""
    print(f"smoothing, {name}: time constant, flicker of the mask, AP")
    for constant in (0.0, 0.1, 0.3, 1.0):
        smoother = ScoreSmoother(SmoothingRule(constant)) if constant else None
        pixels, before, flicker = PixelScores(per_image=False), None, []
        for frame, stamp in zip(frames, seconds, strict=True):
            score = frame.score
            if smoother is not None:
                score = smoother.update(score, frame.image, stamp)
            pixels.update(score, frame.mask)
            mask = score >= 0.5
            if before is not None:
                flicker.append(float((mask != before).mean()))
            before = mask
        ap = pixels.compute().AP
        print(f"  {constant:.1f} s   {np.mean(flicker):8.4%}   {ap:.2%}")


def print_components(name: str, dataset: Dataset, segmenter: Segmenter) -> None:
    """Prints component figures of the plain mask and of the mask of the objects."""
    sizes = COMPONENT_SIZES[dataset.component_sizes or "anomaly_track"]
    rule = ObjectRule(min_area=sizes.predicted)
    cuts = (None, 0.0, 0.52, 0.55)
    scores = [ComponentScores(0.5, sizes) for _ in cuts]
    for frame in scored(segmenter, frames_of(dataset)):
        objects = find_objects(frame.score, rule)
        for cut, components in zip(cuts, scores, strict=True):
            picture = frame.score
            if cut is not None:
                kept = [unknown for unknown in objects if unknown.score >= cut]
                picture = (paint(kept, frame.mask.shape) > 0).astype(np.float32)
            components.update(picture, frame.mask)
    print(f"{name}: components at the calibrated threshold: mean F1, sIoU, PPV, predicted")
    for cut, components in zip(cuts, scores, strict=True):
        figures = components.compute()
        stage = "mask" if cut is None else f"objects of {cut:.2f} and more"
        print(
            f"  {stage:26s} {figures.F1:6.2%} {figures.sIoU:6.2%} {figures.PPV:6.2%} "
            f"{figures.predictions:6d}"
        )


def slow_scene(frame: Scored) -> Iterator[tuple[np.ndarray, ...]]:
    """One frame under fresh noise of a few grey levels."""
    rng = np.random.default_rng(0)
    for _ in range(SLOW_FRAMES):
        noise = rng.normal(0, NOISE, frame.image.shape)
        noisy = np.clip(frame.image + noise, 0, 255).astype(np.uint8)
        yield noisy, frame.mask, None


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", nargs="*", default=[], metavar="KIND=FOLDER")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    segmenter = Segmenter.load(arguments.model, device="cpu", backend=AUTO)
    for entry in arguments.data:
        kind, _, folder = entry.partition("=")
        print_components(entry, open_dataset(kind, folder), segmenter)
    if arguments.data:
        return
    clip, rule = ClipDataset(asset_path("demo_clip")), ObjectRule()
    frames = list(scored(segmenter, frames_of(clip)))
    print_cost(frames[::4], rule)
    print_clip(frames, clip, rule)
    print_smoothing("demo clip", frames, np.arange(len(frames)) / 10)
    slow = list(scored(segmenter, slow_scene(frames[20])))
    print_smoothing("slow scene", slow, np.arange(len(slow)) / 10)


if __name__ == "__main__":
    main()
