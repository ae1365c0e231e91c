# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of each inference mode, as a Markdown table.

    python -m benchmarks.inference_memory --model default --size 1024 2048

Every row is measured in a process of its own. Peak memory is what the frames need above the
loaded model: on a GPU the tensors that torch allocates, on the CPU the resident set of the whole
process (with it goes what oneDNN and the allocator keep for themselves). The picture is random:
neither figure depends on what it shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from anomaly_seg_ros.inference.devices import PRECISIONS, select_device
from anomaly_seg_ros.inference.options import FULL, INFERENCE_MODES, RESIZED, TILE_OVERLAP, TILED
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.memory import MIB, peak_memory, reset_peak
from benchmarks.machine import resident_bytes

TILES = (768, 512, 256)


def rows(model_size: list[int] | None) -> list[list[str]]:
    """The command-line options of each row."""
    resized = ["--mode", RESIZED]
    if model_size:
        resized += ["--inference-size", *map(str, model_size)]
    tiles = [["--mode", TILED, "--tile", str(tile)] for tile in TILES]
    return [resized, ["--mode", FULL], *tiles]


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Runs one mode in this process."""
    device = select_device(arguments.device)
    segmenter = Segmenter.load(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        inference_size=arguments.inference_size,
        inference_mode=arguments.mode,
        tile_size=(arguments.tile, arguments.tile),
        tile_overlap=min(TILE_OVERLAP, arguments.tile // 2),
    )
    height, width = arguments.size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if device.type == "cuda":
        loaded = torch.cuda.memory_allocated(device) / MIB
        reset_peak(device)
    else:
        # Linux forgets the peak of loading (proc_pid_clear_refs(5)).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        loaded = resident_bytes() / MIB
    times = [
        segmenter.predict(image, (segmenter.metadata.default_score,)).inference_ms
        for _ in range(arguments.frames + 1)
    ]
    peak = peak_memory(device).mib - loaded
    return {
        "mode": segmenter.framing.mode,
        "how": segmenter.framing.describe(),
        "ms": statistics.median(times[1:]),
        "peak_mib": peak,
        "title": f"{segmenter.metadata.name}, {segmenter.precision}, frames of {height} x {width} "
        f"on {_machine(device)}",
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} CPU threads"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--frames", type=int, default=5, help="frames to time, after a first one")
    parser.add_argument("--inference-size", type=int, nargs=2, help="size for mode resized")
    parser.add_argument("--mode", choices=INFERENCE_MODES, help="only this one, as JSON")
    parser.add_argument("--tile", type=int, default=TILES[0])
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(measure(arguments)))
        return
    common = ["--model", arguments.model, "--device", arguments.device]
    common += ["--precision", arguments.precision, "--frames", str(arguments.frames)]
    common += ["--size", *map(str, arguments.size)]
    lines = ["| mode | | ms / frame | peak memory above the model [MiB] |", "| --- " * 4 + "|"]
    title = ""
    for options in rows(arguments.inference_size):
        command = [sys.executable, "-m", "benchmarks.inference_memory", *common, *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout)
        title = row["title"]
        lines.append(f"| {row['mode']} | {row['how']} | {row['ms']:.0f} | {row['peak_mib']:.0f} |")
    print(title, "", *lines, sep="\n")


if __name__ == "__main__":
    main()
