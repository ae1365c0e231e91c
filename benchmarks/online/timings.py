# SPDX-License-Identifier: Apache-2.0
"""Pure arithmetic on measured times: medians, percentiles and the ratios that are reported."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What is timed in every case, in the order of the tables: name -> what it is.
BARE = {
    "network": "network alone, the node's backend",
    "segmenter": "Segmenter.predict, the node's backend",
    "eager_network": "network alone, eager torch fp32 as the eager node runs it",
    "plain_network": "network alone, eager torch fp32 as loaded",
}
NODES = {
    "node": "our node, topic to topic",
    "eager_node": "our node with eager torch fp32",
    "naive_node": "naive node (eager torch fp32)",
    "echo_node": "echo: no work, the transport alone",
}
CONTENDERS = {**BARE, **NODES}
# The run of a file that the others are divided by when files are compared: it is the same
# arithmetic in every version of this package.
YARDSTICK = "eager_network"


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 99th percentile (interpolated), mean and number of some times.

    The fast tenth is what other work on the machine disturbs least. With fewer than a hundred
    times the 99th percentile lies close to the greatest of them.

    Raises:
        ValueError: There are none.
    """
    if not milliseconds:
        raise ValueError("no times to summarise")
    return {
        "median": statistics.median(milliseconds),
        "p10": float(np.percentile(milliseconds, 10)),
        "p99": float(np.percentile(milliseconds, 99)),
        "mean": statistics.fmean(milliseconds),
        "frames": len(milliseconds),
    }


def of(case: Mapping[str, Any], contender: str, statistic: str = "median") -> float:
    """The milliseconds of one contender of a case."""
    return case["contenders"][contender]["ms"][statistic]


def ratios(case: Mapping[str, Any], statistic: str = "median") -> dict[str, float]:
    """What a case is judged by; contenders that did not run leave their ratios out.

    An overhead is the time from topic to topic less that of the network which this very node
    runs: our node's own backend, eager torch, or the network as the naive node loads it.

    Args:
        case: A case of a report, with ``contenders``.
        statistic: The statistic of their times: ``median`` or ``p10``.

    Returns:
        ``node_minus_network_ms``, ``node_over_network``, ``overhead_<node>_ms`` of each node,
        ``naive_over_node``, ``eager_node_over_node``, ``overhead_naive_over_node`` and
        ``overhead_naive_over_eager_node`` (only where the divisor is positive).
    """
    times = {name: of(case, name, statistic) for name in case["contenders"]}
    overheads = {
        node: times[node] - times[bare]
        for node, bare in (
            ("node", "network"),
            ("eager_node", "eager_network"),
            ("naive_node", "plain_network"),
        )
        if node in times and bare in times
    }
    found = {f"overhead_{node}_ms": value for node, value in overheads.items()}

    def divide(name: str, values: Mapping[str, float], above: str, below: str) -> None:
        if above in values and below in values and values[below] > 0:
            found[name] = values[above] / values[below]

    if "node" in overheads:
        found["node_minus_network_ms"] = overheads["node"]
    divide("node_over_network", times, "node", "network")
    divide("naive_over_node", times, "naive_node", "node")
    divide("eager_node_over_node", times, "eager_node", "node")
    divide("overhead_naive_over_node", overheads, "naive_node", "node")
    divide("overhead_naive_over_eager_node", overheads, "naive_node", "eager_node")
    return found


def transport_ms(
    topic_to_topic: Sequence[float], processing: Sequence[float], take: float
) -> list[float]:
    """What is left of each frame's time after the node's own.

    That is the middleware's way to the node and back, and the waking of threads.

    Args:
        topic_to_topic: Time of each frame.
        processing: The node's own time for the same frames.
        take: The median wait of a message in the node; it is not told frame by frame.
    """
    return [whole - own - take for whole, own in zip(topic_to_topic, processing, strict=True)]
