# SPDX-License-Identifier: Apache-2.0
"""How well can pasted objects be told from the scene by their look, for each style alignment?

    python -m benchmarks.style_gap --data ../shared/data

Objects of COCO are resized and aligned as for pasting into Cityscapes frames. A patch of the
object and the patch of the frame that it would cover are the two classes of a linear classifier;
another one is trained for each style. It is tested on other objects and other frames. 0.5 is
perfect alignment; "scene", pieces of other Cityscapes frames in place of the object, is what can
be hoped for. Objects also differ from scenes in what they show, so the absolute value matters
less than the differences.

Two kinds of features: statistics that hold only the look (Lab moments, gradients, frequency bands,
chroma), and the early layers of EfficientNet-Lite0 with ImageNet weights, averaged over the patch.

"detail kept" is the correlation of the object's lightness, less its local mean, before and after:
an alignment that blurs the object away also hides it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone
from anomaly_seg_ros.system.tool import run_tool
from training.data.corpora import Corpus, TrainingData
from training.data.mixing.paste import fit_to_box
from training.data.mixing.placement import Box
from training.data.negatives import CocoObjects, JoinedObjects, ObjectSource
from training.data.style import STYLES, StyleAlignment, build_style
from training.engine.config import read_data

PATCH = 16
# Rows of an object in a frame of 256 rows.
_HEIGHTS = (24, 110)
# Objects stand in the lower part of the frame.
_HIGHEST_CENTRE = 0.35
_TRIES = 20


@dataclass(frozen=True)
class Patches:
    """What the classifier sees.

    Attributes:
        objects: (N, PATCH, PATCH, 3) uint8 RGB.
        frames: Patches of the frames at the same places, likewise.
        milliseconds: Median time of an alignment.
        kept: Mean correlation of the detail before and after.
    """

    objects: np.ndarray
    frames: np.ndarray
    milliseconds: float
    kept: float


def draw_patches(
    objects: ObjectSource,
    corpus: Corpus,
    style: StyleAlignment | None,
    scenes: bool,
    count: int,
    seed: int,
) -> Patches:
    """Draws the same objects, frames and places for every style of a seed."""
    of_objects, of_frames, times, kept = [], [], [], []
    index = 0
    while len(of_objects) < count:
        rng = np.random.default_rng([seed, index])
        index += 1
        item = objects[int(rng.integers(len(objects)))]
        which, other = rng.choice(len(corpus), 2, replace=False)
        frame, labels = corpus.load(int(which))
        box = _draw_box(item.mask.shape, labels.shape, corpus.aspect, rng)
        colours, coverage = fit_to_box(item.image, item.mask, box, mirror=False)
        inside = coverage >= 0.5
        corner = _draw_corner(inside, labels[box.slices] != IGNORE_INDEX, rng)
        if corner is None:
            continue
        if scenes:
            colours = corpus.load(int(other))[0][box.slices]
        aligned = colours
        if style is not None:
            began = time.perf_counter()
            aligned = style(colours, inside, frame, rng)
            times.append(1e3 * (time.perf_counter() - began))
        place = slice(corner[0], corner[0] + PATCH), slice(corner[1], corner[1] + PATCH)
        of_objects.append(aligned[place])
        of_frames.append(frame[box.slices][place])
        kept.append(_correlation(colours[place], aligned[place]))
    milliseconds = float(np.median(times)) if times else 0.0
    return Patches(np.stack(of_objects), np.stack(of_frames), milliseconds, float(np.mean(kept)))


def _draw_box(
    shape: tuple[int, int], frame: tuple[int, int], aspect: float, rng: np.random.Generator
) -> Box:
    rows = np.exp(rng.uniform(*np.log(_HEIGHTS)))
    # The frames are stored squeezed.
    squeeze = aspect * frame[0] / frame[1] if aspect else 1.0
    columns = rows * shape[1] / shape[0] / squeeze
    height, width = (
        int(np.clip(round(n), PATCH, 0.8 * whole))
        for n, whole in zip((rows, columns), frame, strict=True)
    )
    centre = rng.uniform(_HIGHEST_CENTRE, 1) * frame[0]
    top = int(np.clip(centre - height / 2, 0, frame[0] - height))
    return Box(top, int(rng.integers(frame[1] - width + 1)), height, width)


def _draw_corner(
    inside: np.ndarray, labelled: np.ndarray, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A place where the patch lies on the object and on labelled pixels, or None."""
    for _ in range(_TRIES):
        top, left = (int(rng.integers(n - PATCH + 1)) for n in inside.shape)
        place = slice(top, top + PATCH), slice(left, left + PATCH)
        if inside[place].mean() > 0.9 and labelled[place].mean() > 0.9:
            return top, left
    return None


def _correlation(before: np.ndarray, after: np.ndarray) -> float:
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (before, after))
    x, y = (p - cv2.GaussianBlur(p, (0, 0), 2) for p in (x, y))
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / norm if norm > 0 else 1.0


def look(patches: np.ndarray) -> np.ndarray:
    """(N, 25) statistics that hold the look of a patch and not what it shows."""
    return np.stack([_look(patch) for patch in patches])


def _look(patch: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(patch.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    flat = lab.reshape(-1, 3)
    chroma = np.hypot(flat[:, 1], flat[:, 2])
    figures = [*flat.mean(0), *flat.std(0), *np.percentile(flat[:, 0], (5, 95))]
    figures += [chroma.mean(), chroma.std()]
    rest = lab
    for _ in range(3):
        soft = cv2.GaussianBlur(rest, (0, 0), 1.0)
        figures += [*np.log(0.05 + (rest - soft).reshape(-1, 3).std(0))]
        rest = cv2.resize(soft, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    light = lab[..., 0]
    for axis in (0, 1):
        steps = np.abs(np.diff(light, axis=axis))
        figures += [np.log(0.05 + steps.mean()), np.log(0.05 + np.median(steps))]
    # How far the two colour axes vary together: greyish and sepia scenes have one direction.
    return np.array([*figures, *np.cov(flat[:, 1], flat[:, 2])[0]])


def trunk_features(patches: np.ndarray) -> np.ndarray:
    """(N, 224) means and deviations of the channels of the trunk's first stages."""
    backbone = load_imagenet_backbone("lite0").eval()
    features = []
    with torch.inference_mode():
        for part in np.array_split(patches, max(1, len(patches) // 128)):
            x = (torch.from_numpy(part).permute(0, 3, 1, 2).float() - 127) / 128
            statistics = []
            for layer in (backbone.stem, *backbone.stages[:3]):
                x = layer(x)
                deviation, mean = torch.std_mean(x, (2, 3), correction=0)
                statistics += [mean, deviation]
            features.append(torch.cat(statistics, 1).numpy())
    return np.concatenate(features)


def separability(
    train: Patches, test: Patches, features: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Accuracy and AUC on the test patches of a classifier of the training patches."""

    def table(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
        x = np.nan_to_num(features(np.concatenate([patches.frames, patches.objects])))
        return x, np.repeat([0, 1], len(patches.objects))

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    model.fit(*table(train))
    x, y = table(test)
    return float(model.score(x, y)), float(roc_auc_score(y, model.decision_function(x)))


def all_objects(folder: Path, split: str) -> JoinedObjects:
    """Unknown and known objects: their look is the same."""
    return JoinedObjects([CocoObjects(folder, split, known) for known in ("exclude", "only")])


def measure(
    style: StyleAlignment | None,
    scenes: bool,
    sources: tuple[ObjectSource, ObjectSource],
    corpora: tuple[Corpus, Corpus],
    count: int,
    seed: int,
) -> list[float]:
    """One row: accuracy and AUC by look, the same by trunk, detail kept, milliseconds."""
    train = draw_patches(sources[0], corpora[0], style, scenes, count, 2 * seed)
    test = draw_patches(sources[1], corpora[1], style, scenes, count // 2, 2 * seed + 1)
    return [
        *separability(train, test, look),
        *separability(train, test, trunk_features),
        test.kept,
        test.milliseconds,
    ]


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="style_gap", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="with coco/, cityscapes256/")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=STYLES)
    parser.add_argument("--weights", type=Path, help='of "learned", in place of the shipped ones')
    parser.add_argument("--patches", type=int, default=1500, help="of a class to learn from")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    def body() -> None:
        coco = arguments.data / "coco"
        sources = all_objects(coco, "train2017"), all_objects(coco, "val2017")
        data = TrainingData(read_data("development", Path()), arguments.data)
        # The squeezed frames: every fifth to learn from, and all held-out ones.
        corpora = data.train[0].every(5), data.validation[0]
        print(f"{len(sources[0])} objects to learn from, {len(sources[1])} to test with")
        print("style          look: accuracy    AUC   trunk: accuracy    AUC  detail kept      ms")
        for name in ("scene", *arguments.styles):
            given = {"weights": arguments.weights} if name == "learned" else {}
            options = {key: value for key, value in given.items() if value is not None}
            style = None if name == "scene" else build_style(name, options)
            rows = [
                measure(style, name == "scene", sources, corpora, arguments.patches, seed)
                for seed in range(arguments.seeds)
            ]
            a, b, c, d, kept, ms = np.mean(rows, 0)
            spread = np.std(rows, 0)
            print(
                f"{name:14} {a:8.3f}±{spread[0]:.3f} {b:6.3f} {c:11.3f}±{spread[2]:.3f} {d:6.3f}"
                f"{kept:13.2f} {ms:7.1f}",
                flush=True,
            )

    return run_tool("style_gap", body)


if __name__ == "__main__":
    sys.exit(main())
