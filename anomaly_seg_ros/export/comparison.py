# SPDX-License-Identifier: Apache-2.0
"""Compares an exported network with the original, at sizes other than the traced one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_seg_ros.errors import ExportError, first_line
from anomaly_seg_ros.export.deployment import Deployment

TOLERANCE = 1e-3
_TRACED = (128, 256)
# Another aspect ratio, not just another scale.
_CHECKED = ((96, 160), (160, 288))

Runner = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """Largest absolute differences between two runs of one network.

    Attributes:
        sizes: (H, W) of the compared images.
        differences: The largest difference of each output over all sizes.
        largest_logit: Largest absolute logit, for scale.
    """

    sizes: tuple[tuple[int, int], ...]
    differences: dict[str, float]
    largest_logit: float

    @property
    def worst(self) -> float:
        """The largest difference of any output."""
        return max(self.differences.values())

    def require(self, tolerance: float, what: str) -> None:
        """Raises ExportError unless every difference is a number up to ``tolerance``."""
        for name, difference in self.differences.items():
            if not difference <= tolerance:  # also true for NaN
                raise ExportError(
                    f"{what}: {name} differs from the network's by up to {difference:.3g}, "
                    f"allowed is {tolerance:.3g}"
                )


def traced_size(multiple: int) -> tuple[int, int]:
    """Returns the (H, W) at which networks are traced."""
    return _rounded_up(_TRACED, multiple)


def checked_sizes(multiple: int) -> tuple[tuple[int, int], ...]:
    """Returns sizes (H, W) to compare at, none of which is the traced one."""
    return tuple(_rounded_up(size, multiple) for size in _CHECKED)


def random_image(size: tuple[int, int], batch: int = 1, seed: int = 0) -> Tensor:
    """Makes a (batch, 3, H, W) uint8 image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def compare(
    run: Runner, deployment: Deployment, sizes: Sequence[tuple[int, int]] | None = None
) -> Comparison:
    """Runs both on random images.

    Args:
        run: The exported network, from uint8 images to outputs by name.
        deployment: The module that was exported.
        sizes: (H, W) of the images; None takes two that differ from the traced size.

    Raises:
        ExportError: The exported network fails, or an output is absent or has another shape or
            dtype.
    """
    sizes = checked_sizes(deployment.network.size_multiple) if sizes is None else tuple(sizes)
    differences = dict.fromkeys(deployment.output_names, 0.0)
    largest_logit = 0.0
    for seed, size in enumerate(sizes):
        image = random_image(size, seed=seed)
        expected, actual = deployment(image), _run(run, image)
        if actual.keys() != expected.keys():
            raise ExportError(f"outputs {', '.join(actual)} instead of {', '.join(expected)}")
        for name, want in expected.items():
            got = actual[name]
            if (got.shape, got.dtype) != (want.shape, want.dtype):
                raise ExportError(
                    f"{name} of a {size[0]} x {size[1]} image is {tuple(got.shape)} {got.dtype}, "
                    f"the network's {tuple(want.shape)} {want.dtype}"
                )
            # torch.maximum keeps a NaN, Python's max may drop it.
            so_far = torch.tensor(differences[name])
            differences[name] = torch.maximum((got - want).abs().max(), so_far).item()
        largest_logit = max(largest_logit, expected["logits"].abs().max().item())
    return Comparison(sizes, differences, largest_logit)


def _run(run: Runner, image: Tensor) -> Mapping[str, Tensor]:
    # AssertionError: torch.export turns conditions on the size into assertions.
    try:
        return run(image)
    except (RuntimeError, AssertionError) as error:
        height, width = image.shape[-2:]
        raise ExportError(
            f"the exported network fails on a {height} x {width} image: {first_line(error)}"
        ) from error


def _rounded_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width
