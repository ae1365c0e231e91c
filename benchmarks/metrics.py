# SPDX-License-Identifier: Apache-2.0
"""Exact AP, AUROC and FPR95 of many frames: PixelScores beside scikit-learn in one run.

    python -m benchmarks.metrics

Every row is measured in fresh processes, on the same made-up frames of 2048x1024: score maps
upsampled from a quarter of the size as a network's are, a tenth of the pixels unlabelled, 0.3 %
anomalous. PixelScores gets frame after frame, and the figures of each frame and all four
conventions of FPR95 are part of its time. scikit-learn gets all labelled pixels at once and runs
``average_precision_score``, ``roc_curve`` and ``auc``: two sorts, one less than with
``roc_auc_score``. Sizes that scikit-learn cannot hold in the memory that is free are left to
PixelScores alone.

Memory is what the process takes at most, less what it took once the frames were there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import resident_bytes

HEIGHT, WIDTH = 1024, 2048
_MIB = 1 << 20
_SIZES = (1, 5, 25, 100)


def frame(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A score map (H, W) float32 like a negated max logit, and its mask (H, W) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((HEIGHT // 32, WIDTH // 32)).astype(np.float32) * 3 - 12
    score = cv2.resize(coarse, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_CUBIC)
    score += rng.standard_normal(score.shape).astype(np.float32) * 0.5
    score = cv2.resize(score, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[-HEIGHT // 10 :] = 255
    y, x = int(rng.integers(0, 800)), int(rng.integers(0, WIDTH - 105))
    mask[y : y + 60, x : x + 105] = 1
    score[mask == 1] += rng.normal(6, 2)
    return score, mask


def measure_ours(frames: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The figures by PixelScores."""
    from anomaly_seg_ros.metrics.pixel_scores import PixelScores

    pixels = PixelScores()
    for number, (score, mask) in enumerate(frames):
        pixels.update(score, mask, str(number))
    metrics = pixels.compute()
    return {"AP": metrics.AP, "AUROC": metrics.AUROC, "FPR95": metrics.FPR95}


def measure_sklearn(frames: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The figures by scikit-learn."""
    from sklearn.metrics import auc, average_precision_score, roc_curve

    labelled = [mask < 2 for _, mask in frames]
    truth = np.concatenate([m[use] for (_, m), use in zip(frames, labelled, strict=True)])
    score = np.concatenate([s[use] for (s, _), use in zip(frames, labelled, strict=True)])
    del labelled
    precision = average_precision_score(truth, score)
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    return {
        "AP": float(precision),
        "AUROC": float(auc(fpr, tpr)),
        "FPR95": float(fpr[np.searchsorted(tpr, 0.95)]),
    }


_METHODS = {"ours": measure_ours, "sklearn": measure_sklearn}


def child(method: str, count: int) -> None:
    """Measures one method on ``count`` frames and prints a line of JSON."""
    cv2.setNumThreads(1)
    _METHODS[method]([frame(0)])  # imports and warms up
    frames = [frame(seed) for seed in range(count)]
    resident = resident_bytes()
    began, began_cpu = time.perf_counter(), time.process_time()
    figures = _METHODS[method](frames)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**figures, "s": seconds, "cpu_s": cpu, "bytes": max(peak - resident, 0)}))


def run(method: str, count: int) -> dict[str, float]:
    """Runs :func:`child` in a process of its own, on one thread."""
    command = [sys.executable, "-m", "benchmarks.metrics", "--child", method, str(count)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, **threads}
    )
    return json.loads(done.stdout)


def free_bytes() -> int:
    """Memory available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo names no MemAvailable")


def main() -> None:
    """Prints a table over sizes; its last line says ratio and memory at the largest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "FRAMES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]))
        return
    print(f"frames of {WIDTH}x{HEIGHT}; seconds (CPU seconds), memory above the frames")
    print(
        f"{'frames':>6} {'pixels':>10} {'PixelScores':>16} {'ns/pixel':>8} {'MiB':>6} "
        f"{'scikit-learn':>18} {'MiB':>7} {'ratio':>6}  largest difference"
    )
    last_line, sklearn_bytes = "", 0.0
    for count in sorted(arguments.frames):
        size = count * HEIGHT * WIDTH
        ours = run("ours", count)
        line = (
            f"{count:>6} {size:>10.2e} {ours['s']:>7.2f} ({ours['cpu_s']:>5.2f}) "
            f"{1e9 * ours['s'] / size:>9.1f} {ours['bytes'] / _MIB:>6.0f} "
        )
        needed = size * (sklearn_bytes + 5)
        if needed > 0.9 * free_bytes():
            print(f"{line}  scikit-learn needs {needed / 2**30:.1f} GiB, more than is free")
            continue
        theirs = run("sklearn", count)
        sklearn_bytes = theirs["bytes"] / size
        difference = max(abs(ours[key] - theirs[key]) for key in ("AP", "AUROC", "FPR95"))
        ratio = theirs["s"] / ours["s"]
        print(
            f"{line}{theirs['s']:>9.2f} ({theirs['cpu_s']:>6.2f}) {theirs['bytes'] / _MIB:>7.0f} "
            f"{ratio:>6.1f}  {difference:.1e}",
            flush=True,
        )
        last_line = (
            f"{count} frames, {size:.2e} pixels: {ratio:.1f} times faster than scikit-learn, "
            f"{ours['bytes'] / _MIB:.0f} MiB above the data at most"
        )
    print(last_line)


if __name__ == "__main__":
    main()
