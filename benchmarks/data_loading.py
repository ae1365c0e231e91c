# SPDX-License-Identifier: Apache-2.0
"""Full-size frames streamed from disk: images a second beside torchvision, memory, start times.

    python -m benchmarks.data_loading --data ../shared/data --workers 2

Builds the folder tree of Cityscapes with 2,975 frames of 1024 x 2048 out of the few frames below
``DATA/cityscapes``: each is stored once, as PNG like the original, and linked under many names. So
the files are in the page cache, and decoding is timed rather than a disk.

Three loaders take turns in one run, so that what else the machine does hits all of them:

* torchvision: ``decode_image`` of image and labels, a table to trainIds, ``RandomResizedCrop``,
  ``RandomHorizontalFlip``, and normalised float32 images.
* views: :class:`~training.data.views.ViewDataset` through ``SampleStream``, with nothing kept in
  memory (``cache_mib: 0``). It also varies light and blur, and draws half of its crops around a
  class; it leaves the images as uint8, to be normalised on the device.
* mixed views: :class:`~training.data.mixing.mixed_views.MixedViewDataset`, with the default
  objects, decoys and styles of ``training.fine_tune``.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import multiprocessing
import os
import pstats
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import torch
import torchvision.io
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from anomaly_seg_ros.datasets.cityscapes import CITYSCAPES_IDS
from anomaly_seg_ros.io.images import read_image
from anomaly_seg_ros.labels import IGNORE_INDEX
from benchmarks.machine import commit, cpu_and_flags
from training.data.cache import VARIABLE
from training.data.corpora import Corpus, TrainingData
from training.data.mixing.mixed_views import MixedViewDataset
from training.data.mixing.mixer import build_mixer
from training.data.stream import SampleStream, StepSampler
from training.data.views import ViewDataset, view_options
from training.engine.config import CONFIGS, load_config
from training.engine.storage import tensor_bytes

FRAMES = 2975  # of Cityscapes' training split
_ENDLESS = 10**6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Seconds between two looks at the memory.
_INTERVAL = 0.1
_PROFILED = 25  # functions of the table of CPU time


def build_tree(source: Path, folder: Path, frames: int) -> None:
    """Links the frames of a Cityscapes folder under many names, as its training split.

    Args:
        source: Folder with leftImg8bit/ and gtFine/.
        folder: New folder.
        frames: Number of frames.
    """
    stored: list[tuple[Path, Path]] = []
    for image in sorted((source / "leftImg8bit").glob("*/*/*_leftImg8bit.*")):
        name = image.stem.removesuffix("_leftImg8bit")
        split = image.relative_to(source / "leftImg8bit").parent
        labels = source / "gtFine" / split / f"{name}_gtFine_labelIds.png"
        kept = folder / "stored" / f"{name}.png", folder / "stored" / f"{name}_labels.png"
        kept[0].parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(kept[0]), read_image(image)[..., ::-1])
        kept[1].write_bytes(labels.read_bytes())
        stored.append(kept)
    for i, (image, labels) in zip(range(frames), itertools.cycle(stored), strict=False):
        name = f"town_{i:06d}_000019"
        link = folder / "leftImg8bit" / "train" / "town" / f"{name}_leftImg8bit.png"
        other = folder / "gtFine" / "train" / "town" / f"{name}_gtFine_labelIds.png"
        for target, path in ((image, link), (labels, other)):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(target, path)


def configuration(arguments: argparse.Namespace, cache_mib: float) -> dict[str, Any]:
    """The default fine-tuning on the tree, with the crop and scales of a training at full size."""
    config = load_config(CONFIGS / "fine_tune.yaml", overrides=arguments.overrides)
    objects = str((arguments.data / "coco").absolute())
    corpus = {"adapter": "cityscapes", "root": ".", "split": "train"}
    return {
        **config,
        "crop": list(arguments.crop),
        "height_range": [512, 2048],
        "batch_size": arguments.batch_size,
        "steps": _ENDLESS,
        "data": {
            "taxonomy": "cityscapes",
            "cache_mib": cache_mib,
            "train": {"cityscapes": corpus},
            "objects": {"coco": {**config["data"]["objects"]["coco"], "root": objects}},
        },
    }


def our_datasets(config: dict[str, Any], data: TrainingData) -> dict[str, ViewDataset]:
    """The plain and the mixed views of the configuration."""
    options, classes = view_options(config), len(data.taxonomy.classes)
    mixer = build_mixer(config["mixing"], data)
    mixed = MixedViewDataset(data.train, options, mixer, classes)
    return {"views": ViewDataset(data.train, options, classes), "mixed views": mixed}


class PlainDataset(Dataset):
    """Random resized crops as a training script with torchvision draws them.

    Args:
        tree: Folder with leftImg8bit/ and gtFine/.
        crop: (height, width) in pixels.
    """

    def __init__(self, tree: Path, crop: tuple[int, int]) -> None:
        self.images = sorted((tree / "leftImg8bit" / "train").glob("*/*.png"))
        self.labels = sorted((tree / "gtFine" / "train").glob("*/*.png"))
        self.table = torch.full((256,), IGNORE_INDEX)
        for stored, train_id in CITYSCAPES_IDS.items():
            self.table[stored] = train_id
        # The same range of scales: the crop's area in a frame of half to twice its height.
        area = crop[0] * crop[1] / (1024 * 2048)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(crop, scale=(area / 4, min(1.0, 4 * area)), ratio=(1.6, 2.5)),
                v2.RandomHorizontalFlip(),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(_MEAN, _STD),
            ]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns (3, h, w) float32 and (h, w) int64 trainIds."""
        position = hash((1, index)) % len(self.images)
        image = torchvision.io.decode_image(str(self.images[position]), "RGB")
        stored = torchvision.io.decode_image(str(self.labels[position]))
        image, labels = self.transform(tv_tensors.Image(image), tv_tensors.Mask(stored[0]))
        return image, self.table[labels.long()]


def images_per_second(
    loaders: dict[str, Iterator[object]], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Images a second of each loader in every block; the loaders take turns."""
    ahead = 2 * arguments.workers  # what workers prepared while another loader was timed
    for loader in loaders.values():
        _take(loader, 2 * ahead)
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in tqdm(range(arguments.blocks), "blocks"):
        for name, loader in loaders.items():
            _take(loader, ahead)
            began = time.perf_counter()
            _take(loader, arguments.batches)
            seconds = time.perf_counter() - began
            speeds[name].append(arguments.batches * arguments.batch_size / seconds)
    return speeds


def _take(loader: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(loader)


def _streamed(dataset: Dataset, batch_size: int, workers: int) -> Iterator[object]:
    one_rank: Any = SimpleNamespace(rank=0, world_size=1)
    return SampleStream(dataset, batch_size, _ENDLESS, one_rank, workers).batches(0)


def memory(tree: Path, cache_mib: float, workers: int, arguments: argparse.Namespace) -> None:
    """Prints the highest memory of a process of its own and its workers, with mixed views."""
    # Workers are forked, as in a training, though this process was not.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    config = configuration(arguments, cache_mib)
    dataset = our_datasets(config, TrainingData(config["data"], tree))["mixed views"]
    before = family_bytes()
    peak = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL):
            peak[:] = map(max, peak, family_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    _take(_streamed(dataset, arguments.batch_size, workers), arguments.memory_batches)
    done.set()
    watcher.join()
    # Two of each worker; no process has them mapped.
    waiting = 2 * workers * arguments.batch_size * tensor_bytes(dataset[0])
    gib = [value / 2**30 for value in (before[0], *peak, waiting, peak[0] + waiting)]
    print(f"| {workers} | {cache_mib:.0f} | {' | '.join(f'{x:.2f}' for x in gib)} |", flush=True)


def family_bytes() -> tuple[int, int]:
    """Proportional and resident memory of this process and its children. Linux only."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task").glob("*/children")
    processes = [me, *(int(n) for path in children for n in path.read_text("ascii").split())]
    totals = [0, 0]
    for process in processes:
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        fields = {line.split()[0]: line.split()[1] for line in text.splitlines()[1:]}
        totals = [totals[0] + int(fields["Pss:"]), totals[1] + int(fields["Rss:"])]
    return 1024 * totals[0], 1024 * totals[1]


def print_cpu(datasets: dict[str, Dataset], samples: int) -> None:
    """Prints CPU milliseconds of a sample in one process, which other work disturbs least."""
    seconds = dict.fromkeys(datasets, 0.0)
    for index in range(samples):
        for name, dataset in datasets.items():
            began = time.thread_time()
            dataset[index]
            seconds[name] += time.thread_time() - began
    for name, total in seconds.items():
        ratio = seconds["torchvision"] / total
        print(f"{name}: {1e3 * total / samples:.1f} ms of CPU a sample; ratio {ratio:.2f}")


def print_profile(dataset: Dataset, samples: int) -> None:
    """Prints the functions of one process that take most of a sample's CPU time."""
    for index in range(samples):
        dataset[index]
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    for index in range(samples, 2 * samples):
        dataset[index]
    profile.disable()
    rows = pstats.Stats(profile).stats.items()
    for (path, line, name), (_, calls, own, *_) in sorted(rows, key=lambda row: -row[1][2])[
        :_PROFILED
    ]:
        where = f"{Path(path).name}:{line} " if line else ""
        print(f"{1e3 * own / samples:8.2f} ms  {calls / samples:7.1f} calls  {where}{name}")


def main() -> None:
    """Prints the tables of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=[512, 1024])
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--batches", type=int, default=6, help="of each loader in a block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--memory-workers", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--memory-batches", type=int, default=40)
    parser.add_argument("--profile", type=int, default=0, metavar="SAMPLES", help="by function")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = str(Path(folder) / "cache")
        tree = Path(folder) / "tree"
        build_tree(arguments.data / "cityscapes", tree, arguments.frames)
        measure(tree, arguments)


def measure(tree: Path, arguments: argparse.Namespace) -> None:
    """Prints start times, images a second and memory on one tree."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    processor, _ = cpu_and_flags()
    load = os.getloadavg()[0]
    print(f"{processor}, {len(os.sched_getaffinity(0))} cores; commit {commit()}; load {load:.1f}")
    config = configuration(arguments, cache_mib=0)
    for start in ("first", "second"):
        began, cpu = time.perf_counter(), time.process_time()
        data = TrainingData(config["data"], tree)
        corpora: list[Corpus] = data.train
        for corpus in corpora:
            len(corpus.index.counts)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        times = f"{seconds:.2f} s, {cpu:.2f} s of CPU"
        print(f"{start} start, {arguments.frames} label files: {times}", flush=True)
    ours = our_datasets(config, data)
    plain = PlainDataset(tree, tuple(arguments.crop))
    if arguments.profile:
        print_cpu({"torchvision": plain, **ours}, arguments.profile)
        for name, dataset in ours.items():
            print(f"\n{name}: CPU time of functions, a sample")
            print_profile(dataset, arguments.profile)
        return
    if arguments.blocks:
        compare(plain, ours, arguments)
    print("\nPeak memory in GiB, over all processes:\n")
    print(
        "| workers | cache_mib | before loading | PSS | RSS | batches, waiting | PSS + batches |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for workers in arguments.memory_workers:
        for cache_mib in (0, 1024):
            # A fresh process, whose memory nothing else has touched.
            process = multiprocessing.get_context("spawn").Process(
                target=memory, args=(tree, cache_mib, workers, arguments)
            )
            process.start()
            process.join()


def compare(
    plain: PlainDataset, ours: dict[str, ViewDataset], arguments: argparse.Namespace
) -> None:
    """Prints the images a second of all loaders."""
    size, workers = arguments.batch_size, arguments.workers
    sampler = StepSampler(size, 0, _ENDLESS)
    theirs = DataLoader(plain, size, sampler=sampler, num_workers=workers)
    loaders: dict[str, Iterator[object]] = {"torchvision": iter(theirs)}
    for name, dataset in ours.items():
        loaders[name] = _streamed(dataset, size, workers)
    speeds = images_per_second(loaders, arguments)
    print("\n| loader | images/s, median | slowest to fastest block | beside torchvision |")
    print("| --- | ---: | ---: | ---: |")
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        blocks = f"{min(found):.1f} to {max(found):.1f}"
        print(f"| {name} | {medians[name]:.1f} | {blocks} | {_beside(speeds, name):.2f} |")


def _beside(speeds: dict[str, list[float]], name: str) -> float:
    """Median over the blocks of the ratio to torchvision's loader in the same block."""
    return statistics.median(
        own / theirs for own, theirs in zip(speeds[name], speeds["torchvision"], strict=True)
    )


if __name__ == "__main__":
    main()
