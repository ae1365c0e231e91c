"""Where synthetic negatives go: one rectangle in each image, one size for the whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX
from training.data.batches import MixedBatch


class Rectangles(NamedTuple):
    """Rectangles of one size, at most one in each image.

    Attributes:
        height, width: In pixels.
        images: (n,) int64 indices into the batch, rising.
        tops, lefts: (n,) int64 corners.
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
        """The rectangles' content.

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
        """A copy of ``x`` with other content in the rectangles.

        Args:
            x: As for :meth:`cut`.
            content: As :meth:`cut` returns it, or one value for every pixel.
        """
        filled = x.clone()
        for k, (i, top, left) in enumerate(self._places()):
            piece = content[k] if isinstance(content, Tensor) else content
            filled[i, ..., top : top + self.height, left : left + self.width] = piece
        return filled

    def paste(self, batch: MixedBatch, images: Tensor) -> MixedBatch:
        """Marks the rectangles as outliers without a class.

        Args:
            batch: Labels and mask of the images without them.
            images: (N, 3, H, W) with the rectangles filled.
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
    """Draws a size, and a uniform place wholly inside of each chosen image.

    Args:
        count: N images.
        crop: Their (height, width).
        sides: Heights and widths to choose from; those larger than the crop are left out.
        probability: Of each image to be chosen.
        generator: On the CPU; None takes torch's global one.

    Raises:
        ParameterError: No side fits into the crop.
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
