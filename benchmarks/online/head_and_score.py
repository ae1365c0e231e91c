"""DenseHybrid's outlier head and score alone, on features of the size that a network yields.

No network runs: the features are random, of the shapes that the network has for the image size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from anomaly_seg_ros import scores
from anomaly_seg_ros.models.folded_head import FoldedOutlierHead
from anomaly_seg_ros.models.outlier_head import OutlierHead
from anomaly_seg_ros.system.devices import select_device, select_precision
from benchmarks.inspect_networks import Stopwatch, outlier_logits
from benchmarks.online.cases import Size
from benchmarks.variants import build_variant

NETWORKS = ("wide_resnet38", "resnet101", "ladder_densenet121", "deeplab_v3plus_lite")
_REPEATS, _BUDGET_S = 50, 5.0


@torch.inference_mode()
def measure(variant: str, size: Size, device_name: str, precision_name: str) -> dict[str, Any]:
    """Median milliseconds of head and score, in one call after the other.

    Args:
        variant: Key of ``benchmarks.variants.VARIANTS``.
        size: (height, width) of the image.
        device_name: As the node's parameter ``device``.
        precision_name: As the node's parameter ``precision``.

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
    stopwatch = Stopwatch(device, _REPEATS, _BUDGET_S)
    result = {
        "network": variant,
        "image_size": list(size),
        "features": list(pre_logits.shape),
        "device": str(device),
        "precision": precision,
        "eager_ms": statistics.median(stopwatch.milliseconds(call)),
    }
    if device.type == "cuda":
        replay = _as_graph(call)
        result["graph_ms"] = statistics.median(stopwatch.milliseconds(replay))
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
