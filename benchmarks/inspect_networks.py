# SPDX-License-Identifier: Apache-2.0
"""Size, arithmetic and speed of every network, with the overhead of DenseHybrid's score.

    python -m benchmarks.inspect_networks [--no-time] [--only erfnet] [--device cuda]

GFLOPs count convolutions and matrix products at two FLOPs a multiply-add, as
``torch.utils.flop_counter`` does; elementwise operations count nothing. The overhead is the
outlier head plus the hybrid score, measured on the network's own pre-logits and logits; beside it
is the cheapest score without a head. The head is the node's: one output in place of two, see
``models/for_inference.py``. To beat: Table 7 of "Hybrid Open-set Segmentation with
Synthetic Negative Data" says 0.1 GFLOPs and 2.8 ms on an RTX 3090, for two megapixels. It names
neither network nor convention; the head of their LDN-121 at stride 4 has 34 M multiply-adds, which
makes 0.1 only at two FLOPs each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anomaly_seg_ros import scores
from anomaly_seg_ros.inference.devices import select_device, select_precision
from anomaly_seg_ros.inference.options import PRECISIONS
from anomaly_seg_ros.models.for_inference import FoldedOutlierHead, fold_batchnorm
from anomaly_seg_ros.models.outlier_head import OutlierHead
from anomaly_seg_ros.system.tool import run_tool
from benchmarks.machine import cpu_and_flags
from benchmarks.stopwatch import repeated
from benchmarks.variants import VARIANTS, build_variant, settle

_WARM_UP_SIZE = (64, 128)
# Networks whose head and score are timed alone, most calls and seconds for each.
DENSE_HYBRID_NETWORKS = ("wide_resnet38", "resnet101", "ladder_densenet121", "deeplab_v3plus_lite")
_HEAD_REPEATS, _HEAD_BUDGET_S = 50, 5.0
CallTimer = Callable[[Callable[[], object]], list[float]]


@dataclass(frozen=True)
class Size:
    """What a network costs, whatever the machine.

    Attributes:
        tensors: Tensors in the state dict, without an outlier head.
        parameters: Number of parameters, without an outlier head.
        flops: Operations of a forward pass without an outlier head.
        head_flops: What the outlier head adds, as the node runs it (folded).
    """

    tensors: int
    parameters: int
    flops: int
    head_flops: int

    @classmethod
    def of(cls, name: str, height: int, width: int) -> Size:
        """Counts on the meta device: no memory, no arithmetic."""
        with torch.device("meta"):
            plain, with_head = build_variant(name), build_variant(name, outlier_head=True)
            images = torch.empty(1, 3, height, width)
            with_head = fold_batchnorm(with_head)
        flops = _flops(plain, images)
        return cls(
            tensors=len(plain.state_dict()),
            parameters=sum(p.numel() for p in plain.parameters()),
            flops=flops,
            head_flops=_flops(with_head, images) - flops,
        )


@dataclass(frozen=True)
class Times:
    """Median milliseconds of one image, and how many runs of the network they come from."""

    network: float
    runs: int
    head: float
    hybrid_score: float
    max_logit: float


@torch.inference_mode()
def measure(
    name: str, size: tuple[int, int], device: torch.device, dtype: torch.dtype, timer: CallTimer
) -> Times:
    """Times a network as the node runs it: BatchNorm folded, channels last in memory.

    The head is timed alone: beside the network's, its time is lost in the noise of a difference.

    Args:
        name: Key of ``benchmarks.variants.VARIANTS``.
        size: (height, width) of the image.
        device: The device that runs it.
        dtype: The type of weights and image.
        timer: Returns the milliseconds of some calls.
    """
    torch.manual_seed(0)
    network = fold_batchnorm(settle(build_variant(name)))
    head = FoldedOutlierHead(OutlierHead(network.pre_logits_channels).eval())
    for module in (network, head):
        module.to(device, dtype, memory_format=torch.channels_last)
    network(_images(_WARM_UP_SIZE, device, dtype))
    images = _images(size, device, dtype)
    whole = timer(lambda: network(images))
    pre_logits, logits, _ = network(images)
    ood_logits = outlier_logits(head, pre_logits, logits)
    parts = {
        "head": lambda: outlier_logits(head, pre_logits, logits),
        "hybrid_score": lambda: scores.dense_hybrid(logits, ood_logits),
        "max_logit": lambda: scores.max_logit(logits),
    }
    medians = {part: median(timer(call)) for part, call in parts.items()}
    return Times(network=median(whole), runs=len(whole), **medians)


@torch.inference_mode()
def time_head_and_score(
    variant: str, size: tuple[int, int], device_name: str, precision_name: str
) -> dict[str, Any]:
    """Median milliseconds of DenseHybrid's outlier head and score alone, one call after the other.

    No network runs: the features are random, of the shapes that the network has for the size.

    Args:
        variant: Key of ``benchmarks.variants.VARIANTS``.
        size: (height, width) of the image.
        device_name: The node's parameter ``device``.
        precision_name: The node's parameter ``precision``.

    Returns:
        ``eager_ms``, and on a GPU ``graph_ms``: the same replayed as a CUDA graph.
    """
    device = select_device(device_name)
    precision, dtype = select_precision(precision_name, device)
    with torch.device("meta"):
        shapes = build_variant(variant, outlier_head=True)(torch.empty(1, 3, *size))
    pre_logits, logits = (
        torch.randn(shape.shape, device=device, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for shape in (shapes.pre_logits, shapes.logits)
    )
    head = FoldedOutlierHead(OutlierHead(pre_logits.shape[1]).eval())
    head.to(device, dtype, memory_format=torch.channels_last)

    def call() -> torch.Tensor:
        return scores.dense_hybrid(logits, outlier_logits(head, pre_logits, logits))

    call()
    timer = partial(repeated, repeats=_HEAD_REPEATS, device=device, budget=_HEAD_BUDGET_S)
    result = {
        "network": variant,
        "image_size": list(size),
        "features": list(pre_logits.shape),
        "device": str(device),
        "precision": precision,
        "eager_ms": median(timer(call)),
    }
    if device.type == "cuda":
        replay = _as_graph(call)
        result["graph_ms"] = median(timer(replay))
    return result


def _as_graph(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """The same work, captured once as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose algorithms and allocate before the capture
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def outlier_logits(head: nn.Module, pre_logits: Tensor, logits: Tensor) -> Tensor:
    """The outlier head's part of the forward pass: (N, 2, h, w) on the grid of the logits."""
    ood_logits = head(pre_logits)
    size = logits.shape[-2:]
    if ood_logits.shape[-2:] == size:
        return ood_logits
    return F.interpolate(ood_logits, size=size, mode="bilinear", align_corners=False)


def _images(size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    images = torch.randn(1, 3, *size, device=device, dtype=dtype)
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _flops(network: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops()


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_and_flags()[0]}, {torch.get_num_threads()} threads"


def _print_table(arguments: argparse.Namespace) -> None:
    device = select_device(arguments.device)
    precision, dtype = select_precision(arguments.precision, device)
    height, width = arguments.size
    # Name, tensors, parameters and GFLOPs stand one space apart: lines to search for.
    title = f"name tensors Mparameters GFLOPs ({height}x{width}, 2 FLOPs a multiply-add)"
    print(f"{title:70s} +GFLOPs", end="")
    if arguments.time:
        print("         ms runs  head ms  hybrid ms  overhead ms  max-logit ms", end="")
    print(flush=True)
    for name in arguments.only:
        size = Size.of(name, height, width)
        counts = f"{name} {size.tensors} {size.parameters / 1e6:.2f} {size.flops / 1e9:.1f}"
        print(f"{counts:70s} {size.head_flops / 1e9:7.2f}", end="", flush=True)
        if arguments.time:
            print(f"  timing {name} ...", file=sys.stderr)
            timer = partial(
                repeated, repeats=arguments.repeats, device=device, budget=arguments.budget
            )
            times = measure(name, (height, width), device, dtype, timer)
            print(
                f" {times.network:10.1f} {times.runs:4d} {times.head:8.2f} "
                f"{times.hybrid_score:10.2f} {times.head + times.hybrid_score:12.2f} "
                f"{times.max_logit:13.2f}",
                end="",
            )
        print(flush=True)
    paper = "Table 7 (RTX 3090, two megapixels)"
    print(f"{paper:70s} {0.1:7.2f}" + (f" {2.8:47.2f}" if arguments.time else ""))
    print(
        "+GFLOPs and overhead: outlier head and hybrid score. "
        + (f"Times: {_machine(device)}, {precision}, median." if arguments.time else "")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=tuple(VARIANTS))
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--no-time", dest="time", action="store_false", help="only count")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=20, help="runs of each part at most")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each part")
    arguments = parser.parse_args(argv)
    return run_tool("inspect_networks", lambda: _print_table(arguments))


if __name__ == "__main__":
    sys.exit(main())
