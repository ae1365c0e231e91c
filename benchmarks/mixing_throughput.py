# SPDX-License-Identifier: Apache-2.0
"""Training views a second with pasted objects, beside the plain loader in one run.

    python -m benchmarks.mixing_throughput --data ../shared/data --workers 2

Times the data of ``training.fine_tune`` with its default configuration. Blocks of both loaders
alternate, so that what else the machine does hits both. The table below is CPU time of one
process, by the part of the code that spends it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from training.data.corpora import TrainingData
from training.data.mixing.mixed_views import MixedViewDataset
from training.data.mixing.mixer import build_mixer
from training.data.stream import StepSampler
from training.data.views import ViewDataset, view_options
from training.engine.config import CONFIGS, load_config

# Part of the work, by where its functions stand.
_STAGES = {
    "read objects": "training/data/negatives/",
    "place": "training/data/mixing/placement.py",
    "align style": "training/data/style/",
    "paste": "training/data/mixing/paste.py",
    "view": "training/data/views.py",
}


def datasets(data: Path, overrides: list[str]) -> tuple[ViewDataset, MixedViewDataset]:
    """The plain and the mixed stream over the same frames, with the same views."""
    config = load_config(CONFIGS / "fine_tune.yaml", overrides=overrides)
    frames = TrainingData(config["data"], data)
    corpora, options = frames.train, view_options(config)
    mixer = build_mixer(config["mixing"], frames)
    common = {
        "num_classes": len(frames.taxonomy.classes),
        "class_uniform": config["class_uniform"],
    }
    mixed = MixedViewDataset(
        corpora,
        options,
        mixer,
        focus_outlier=config["focus_outlier"],
        jpeg=config["jpeg"],
        **common,
    )
    return ViewDataset(corpora, options, **common), mixed


def seconds_by_block(
    streams: list[ViewDataset], batches: int, blocks: int, batch_size: int, workers: int
) -> list[float]:
    """Seconds that each stream's loader takes for all its batches, in alternating blocks."""
    loaders = [_endless(stream, batch_size, workers) for stream in streams]
    for loader in loaders:
        _take(loader, 2 + 2 * workers)  # the workers start and read their first objects
    totals = [0.0] * len(streams)
    for _ in tqdm(range(blocks), "blocks of both loaders"):
        for k, loader in enumerate(loaders):
            # What its workers prepared while the other was timed is not counted.
            _take(loader, 2 * workers)
            began = time.perf_counter()
            _take(loader, batches)
            totals[k] += time.perf_counter() - began
    return totals


def cpu_shares(mixed: ViewDataset, samples: int) -> dict[str, float]:
    """CPU milliseconds a sample by stage, in this process, once the objects are cached."""
    for index in range(samples):
        mixed[index]
    profile = cProfile.Profile(time.thread_time)
    began = time.thread_time()
    profile.enable()
    for index in range(samples, 2 * samples):
        mixed[index]
    profile.disable()
    total = time.thread_time() - began
    calls = pstats.Stats(profile).stats
    shares = {name: _entered(calls, part) / samples for name, part in _STAGES.items()}
    shares["rest (copy of the frame, compression, tensors)"] = total / samples - sum(
        shares.values()
    )
    return {name: 1e3 * share for name, share in shares.items()}


def _entered(calls: dict[tuple, tuple], part: str) -> float:
    """Seconds between entering the files below a path and leaving them again."""
    total = 0.0
    for (path, _, _), (*_, callers) in calls.items():
        if part in path.replace("\\", "/"):
            total += sum(
                seconds
                for (caller, _, _), (*_, seconds) in callers.items()
                if part not in caller.replace("\\", "/")
            )
    return total


def _endless(stream: ViewDataset, batch_size: int, workers: int) -> Iterator[object]:
    sampler = StepSampler(batch_size, 0, 10**9)
    loader = DataLoader(
        *(stream, batch_size),
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # as training/data/stream.py
    )
    return iter(loader)


def _take(loader: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(loader)


def cpu_milliseconds(work: Callable[[int], object], samples: int) -> float:
    """CPU milliseconds a call in this process."""
    began = time.thread_time()
    for index in range(samples):
        work(index)
    return 1e3 * (time.thread_time() - began) / samples


def main() -> None:
    """Prints images a second of both loaders, their ratio, and where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=10, help="of each loader in a block")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--samples", type=int, default=200, help="of the table of CPU time")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    plain, mixed = datasets(arguments.data, arguments.overrides)
    alone, together = seconds_by_block(
        [plain, mixed],
        arguments.batches,
        arguments.blocks,
        arguments.batch_size,
        arguments.workers,
    )
    images = arguments.batches * arguments.blocks * arguments.batch_size
    print(f"{arguments.workers} workers, crop {plain.options.crop}")
    print(f"plain views  {images / alone:8.1f} images/s")
    print(f"mixed views  {images / together:8.1f} images/s  ratio {alone / together:.2f}")
    shares = cpu_shares(mixed, arguments.samples)
    total = sum(shares.values())
    base = cpu_milliseconds(plain.__getitem__, arguments.samples)
    print(f"\nCPU of a mixed view: {total:.1f} ms (of a plain one: {base:.1f} ms)")
    for name, share in shares.items():
        print(f"  {name:<48}{share:6.2f} ms  {share / total:6.1%}")


if __name__ == "__main__":
    main()
