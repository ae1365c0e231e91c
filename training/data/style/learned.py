# SPDX-License-Identifier: Apache-2.0
"""Learned style alignment: renders an object as the exemplar's camera would show it.

First the Lab moments of the object are matched to the exemplar's. Then the networks of
``style.network`` render it in the exemplar's style: sharpness, local contrast, tone. They were
trained on road scenes only (``training/train_style.py``), not on objects.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from training.data.style.lab import LabMoments
from training.data.style.network import STRIDE, StyleTransfer, to_bytes, to_unit

DEFAULT_WEIGHTS = Path(__file__).parents[2] / "weights" / "style_transfer.safetensors"
# Margin of repeated border pixels, so that the edge of a crop is rendered like its middle.
_MARGIN = 8


class LearnedStyle:
    """A :class:`~training.data.style.StyleAlignment` by a small encoder and generator.

    Args:
        network: The network, in eval mode, on the CPU.
        strength: 0 keeps the object, 1 aligns it fully, values between blend.
        exemplar_side: Maximum height and width of the random window of the exemplar that gives the
            style. The window is not resized, because sharpness and grain are part of the style.
        max_side: Larger objects are rendered at this size, to limit the time, and the change is
            enlarged. Their detail is kept.

    Raises:
        ParameterError: A value is out of range.
    """

    def __init__(
        self,
        network: StyleTransfer,
        strength: float = 1.0,
        exemplar_side: int = 160,
        max_side: int = 256,
    ) -> None:
        if not 0 <= strength <= 1:
            raise ParameterError(f"strength: expected 0 to 1, got {strength}")
        if exemplar_side < STRIDE or max_side < STRIDE:
            raise ParameterError(
                f"exemplar_side, max_side: expected at least {STRIDE}, "
                f"got {exemplar_side}, {max_side}"
            )
        self.network = network
        self.moments = LabMoments()
        self.strength = strength
        self.exemplar_side = exemplar_side
        self.max_side = max_side

    @classmethod
    def load(
        cls,
        weights: str | Path = DEFAULT_WEIGHTS,
        strength: float = 1.0,
        exemplar_side: int = 160,
        max_side: int = 256,
    ) -> LearnedStyle:
        """Loads weights written by ``training/train_style.py``.

        Args:
            weights: A safetensors file.
            strength: See the class.
            exemplar_side: See the class.
            max_side: See the class.

        Raises:
            CheckpointError: The file is missing, damaged or for another network.
            ParameterError: A value out of range.
        """
        return cls(load_network(Path(weights)), strength, exemplar_side, max_side)

    @torch.inference_mode()
    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        exemplar: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Aligns one object, see :class:`training.data.style.StyleAlignment`."""
        if not mask.any() or self.strength == 0:
            return image.copy()
        filled = spread_object(image, mask)
        aligned = self.moments(filled, mask, exemplar, rng)
        shrink = min(1.0, self.max_side / max(mask.shape))
        small, coverage = aligned, mask.astype(np.float32)
        if shrink < 1:
            size = tuple(max(1, round(side * shrink)) for side in mask.shape[::-1])
            small, coverage = (
                cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (aligned, coverage)
            )
        padded, weights, inside = _pad(small, coverage)
        rendered = self.network(padded, self._window(exemplar, rng), weights)
        rendered = to_bytes(rendered)[0].permute(1, 2, 0).numpy()[inside]
        change = rendered.astype(np.float32) - small
        if shrink < 1:
            change = cv2.resize(change, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        result = filled + self.strength * (aligned + change - filled)
        return np.rint(np.clip(result, 0, 255)).astype(np.uint8)

    def _window(self, exemplar: np.ndarray, rng: np.random.Generator) -> Tensor:
        sides = [min(self.exemplar_side, side) for side in exemplar.shape[:2]]
        top, left = (
            int(rng.integers(whole - side + 1))
            for whole, side in zip(exemplar.shape[:2], sides, strict=True)
        )
        height, width = (max(STRIDE, side - side % STRIDE) for side in sides)
        window = exemplar[top : top + height, left : left + width]
        below, right = height - window.shape[0], width - window.shape[1]
        window = cv2.copyMakeBorder(window, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return to_unit(torch.from_numpy(window).permute(2, 0, 1)[None])


def load_network(path: Path) -> StyleTransfer:
    """Loads encoder and generator in eval mode, in float32.

    Raises:
        CheckpointError: The file is missing, damaged or for another network.
    """
    try:
        state_dict = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; python -m training.train_style writes it"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    network = StyleTransfer()
    load_strictly(network, {k: v.float() for k, v in state_dict.items()}, str(path))
    return network.eval().requires_grad_(False)


def spread_object(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills the surroundings of an object with its nearest pixels.

    Otherwise the background, a foreign scene or black, would show in the object's rim.

    Args:
        image: (h, w, 3) uint8.
        mask: (h, w) bool with at least one True.

    Returns:
        (h, w, 3) uint8, a new array.
    """
    if mask.all():
        return image.copy()
    # Labels number the mask's pixels from 1, in the order of np.nonzero.
    _, nearest = cv2.distanceTransformWithLabels(
        np.where(mask, 0, 255).astype(np.uint8),
        cv2.DIST_L2,
        cv2.DIST_MASK_5,
        labelType=cv2.DIST_LABEL_PIXEL,
    )
    return image[mask][nearest - 1]


def _pad(image: np.ndarray, coverage: np.ndarray) -> tuple[Tensor, Tensor, tuple[slice, slice]]:
    """Returns the network's inputs (1, 3, H, W) and (1, 1, H, W), and slices of the image."""
    height, width = image.shape[:2]
    below, right = (_MARGIN + -side % STRIDE for side in (height, width))
    sides = _MARGIN, below, _MARGIN, right
    padded = cv2.copyMakeBorder(image, *sides, cv2.BORDER_REPLICATE)
    weights = cv2.copyMakeBorder(coverage, *sides, cv2.BORDER_CONSTANT, value=0)
    inside = (slice(_MARGIN, _MARGIN + height), slice(_MARGIN, _MARGIN + width))
    images = to_unit(torch.from_numpy(padded).permute(2, 0, 1)[None])
    return images, torch.from_numpy(weights)[None, None], inside
