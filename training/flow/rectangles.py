# SPDX-License-Identifier: Apache-2.0
"""Rectangles for synthetic negatives: at most one per image, one size for the whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX
from training.data.mixing.mixed_views import MixedBatch


class Rectangles(NamedTuple):
    """Rectangles of one size, at most one per image.

    Attributes:
        height, width: Size in pixels.
        images: (n,) int64 indices into the batch, ascending.
        tops, lefts: (n,) int64 coordinates of the top left corners.
    """

    height: int
    width: int
    images: Tensor
    tops: Tensor
    lefts: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def cut(self, x: Tensor) -> Tensor:
        """Cuts out the content of the rectangles.

        Args:
            x: (N, C, H, W) or (N, H, W).

        Returns:
            (n, C, height, width) or (n, height, width).
        """
        pieces = [
            x[i, ..., top : top + self.height, left : left + self.width]
            for i, top, left in self._places()
        ]
        return torch.stack(pieces) if pieces else x.new_zeros(0, *x.shape[1:-2], *self.size)

    def fill(self, x: Tensor, content: Tensor | int) -> Tensor:
        """Returns a copy of ``x`` with new content in the rectangles.

        Args:
            x: (N, C, H, W) or (N, H, W).
            content: Content shaped as from :meth:`cut`, or one value for every pixel.
        """
        filled = x.clone()
        for k, (i, top, left) in enumerate(self._places()):
            piece = content[k] if isinstance(content, Tensor) else content
            filled[i, ..., top : top + self.height, left : left + self.width] = piece
        return filled

    def paste(self, batch: MixedBatch, images: Tensor) -> MixedBatch:
        """Marks the rectangles as outliers without a class label.

        Args:
            batch: Labels and mask before pasting.
            images: (N, 3, H, W) images with the rectangles filled.
        """
        return MixedBatch(
            images, self.fill(batch.labels, IGNORE_INDEX), self.fill(batch.ood_mask, ANOMALY)
        )

    def _places(self) -> list[tuple[int, int, int]]:
        return list(
            zip(self.images.tolist(), self.tops.tolist(), self.lefts.tolist(), strict=True)
        )


def draw_rectangles(
    count: int,
    crop: tuple[int, int],
    sides: range,
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rectangles:
    """Draws a size for the batch, and a uniform position inside each chosen image.

    Args:
        count: Number of images, N.
        crop: (height, width) of the images.
        sides: Candidate heights and widths; those larger than the crop are ignored.
        probability: Probability that an image gets a rectangle.
        generator: Random generator on the CPU; None uses torch's global one.

    Raises:
        ParameterError: No candidate fits into the crop.
    """

    def below(limit: int, n: int = 1) -> Tensor:
        return torch.randint(limit, (n,), generator=generator)

    heights, widths = ([side for side in sides if side <= extent] for extent in crop)
    if not heights or not widths:
        raise ParameterError(
            f"a crop of {crop[0]}x{crop[1]} has no room for synthetic negatives, whose sides are "
            f"{sides.start} to {sides[-1]} pixels"
        )
    height, width = heights[int(below(len(heights)))], widths[int(below(len(widths)))]
    images = torch.nonzero(torch.rand(count, generator=generator) < probability)[:, 0]
    tops = below(crop[0] - height + 1, len(images))
    lefts = below(crop[1] - width + 1, len(images))
    return Rectangles(height, width, images, tops, lefts)
