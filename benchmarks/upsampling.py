# SPDX-License-Identifier: Apache-2.0
"""From logits to labels and score maps on the CPU: this package's ways beside torch's and NumPy's.

    python -m benchmarks.upsampling --models default erfnet_open_set --frames 6

The logits are those of real frames. Printed for each step: milliseconds (median over the frames),
those of the peer, which takes turns with it, their ratio, and the share of values that are equal.
For the argmax also the share of pixels that are interpolated at all.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.inference.options import AUTO
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.inference.upsampling import (
    mixed_blocks,
    plane_argmax,
    upsampled,
    upsampled_argmax,
)
from benchmarks.online.cases import load_frames
from benchmarks.stopwatch import milliseconds

REPEATS = 5


def steps(logits: Tensor, size: tuple[int, int]) -> dict[str, Sequence[Callable[[], np.ndarray]]]:
    """Ours first, then its peers, for the logits (1, K, h, w) of one frame."""

    def interpolated(maps: Tensor) -> Tensor:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    score = -logits.amax(1)
    planes = logits[0].flatten(1).numpy()
    found: dict[str, Sequence[Callable[[], np.ndarray]]] = {
        "argmax of upsampled logits / torch": (
            lambda: upsampled_argmax(logits, size).numpy(),
            lambda: interpolated(logits).argmax(1)[0].to(torch.uint8).numpy(),
        ),
        "argmax over planes / torch": (
            lambda: plane_argmax(planes),
            lambda: torch.from_numpy(planes).argmax(0).to(torch.uint8).numpy(),
        ),
        "argmax over planes / NumPy": (
            lambda: plane_argmax(planes),
            lambda: planes.argmax(0).astype(np.uint8),
        ),
    }
    if logits.shape[-2:] != size:
        found["score map upsampled / torch"] = (
            lambda: upsampled(score, size).numpy(),
            lambda: interpolated(score[None])[0, 0].numpy(),
        )
    return found


def mixed_share(logits: Tensor) -> float:
    """Share of the blocks between four cells that do not have one class at all four."""
    return float(mixed_blocks(np.pad(logits.argmax(1)[0].numpy(), 1, mode="edge")).mean())


def measure(model: str, count: int) -> None:
    """Prints the rows of a model."""
    segmenter = Segmenter.load(model, device="cpu", backend=AUTO)
    size = segmenter.inference_size
    images, source = load_frames(size, count)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    equal: dict[str, list[float]] = defaultdict(list)
    mixed = []
    for image in images:
        logits = segmenter.run_network(image[None]).logits.float().contiguous()
        mixed.append(mixed_share(logits))
        for name, (ours, peer) in steps(logits, size).items():
            equal[name].append(float(np.isclose(ours(), peer(), rtol=0, atol=1e-4).mean()))
            for _ in range(REPEATS):
                times[name].append((milliseconds(ours), milliseconds(peer)))
    grid = "{} x {} -> {} x {}".format(*logits.shape[-2:], *size)
    print(f"{model}, {grid}, {len(images)} frames ({source})")
    for name, pairs in times.items():
        ours, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"  {name:36} {ours:7.2f} {peer:8.2f} ms  1 : {peer / ours:5.1f}"
            f"   equal {100 * np.mean(equal[name]):.4f} %"
        )
    print(f"  interpolated for the argmax: {100 * np.mean(mixed):.1f} % of the blocks")


def main() -> None:
    """Prints a block for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["default", "erfnet_open_set"])
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    for model in arguments.models:
        measure(model, arguments.frames)


if __name__ == "__main__":
    main()
