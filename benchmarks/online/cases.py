"""What is measured: a model on a backend, at a network size, with frames of a size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from anomaly_seg_ros.errors import ParameterError

Size = tuple[int, int]
FRAME_SIZE = (1024, 2048)


@dataclass(frozen=True)
class Case:
    """One row of the report. Sizes are (height, width).

    Attributes:
        model: Name or weights file, or a key of :data:`~benchmarks.online.random_models.RANDOM`.
        frame_size: Of the published images.
        network_size: To which the node resizes; None = the model's own.
        backend, precision: As the node's parameters of these names.
    """

    model: str
    frame_size: Size = FRAME_SIZE
    network_size: Size | None = None
    backend: str = "auto"
    precision: str = "auto"

    @property
    def key(self) -> str:
        """Names the case in files that are compared."""
        network = size_text(self.network_size) if self.network_size else "own"
        frame = size_text(self.frame_size)
        return f"{self.model}/{self.backend}/{self.precision}/{network}/{frame}"


# About five minutes on two cores.
QUICK = (
    Case("default"),
    Case("default", network_size=(512, 1024)),
    Case("default", network_size=(512, 1024), frame_size=(512, 1024)),
    Case("erfnet_open_set"),
)
# The published networks with random weights; a CPU takes minutes a frame.
HEAVY = (
    "random_wide_resnet38",
    "random_resnet101",
    "random_ladder_densenet121",
)


def full(backends: Sequence[str], heavy: bool) -> tuple[Case, ...]:
    """The quick cases, those with each backend by name, and the heavy networks if asked for."""
    by_backend = [
        Case("default", network_size=size, backend=backend)
        for backend, size in product(backends, (None, (512, 1024)))
    ]
    return (*QUICK, *by_backend, *(Case(model) for model in HEAVY if heavy))


def chosen(
    models: Sequence[str],
    backends: Sequence[str],
    precision: str,
    network_sizes: Sequence[Size | None],
    frame_sizes: Sequence[Size],
) -> tuple[Case, ...]:
    """Every combination."""
    return tuple(
        Case(model, frame, network, backend, precision)
        for model, backend, network, frame in product(models, backends, network_sizes, frame_sizes)
    )


def parse_size(text: str) -> Size:
    """``512x1024``, height first.

    Raises:
        ParameterError: It is none.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise ParameterError(f"size {text!r}: expected height x width, such as 1024x2048")
    return int(found[1]), int(found[2])


def size_text(size: Sequence[int]) -> str:
    """``512x1024``, height first."""
    return "{}x{}".format(*size)
