# SPDX-License-Identifier: Apache-2.0
r"""The one weight of the fused score: how much the outlier head counts beside the class logits.

The score ``k_plus_1``, :math:`o - \ln \sum_c \exp l_c`, adds the log-odds o of the outlier head
and the free energy of the logits as if both spoke in the same unit. They were trained apart, so
they do not. Scaling o by a constant is a change of the head's last layer alone: neither labels nor
the order of the scores ``outlier_head`` and ``energy`` change, and no part of the product needs to
know of the weight.

It is fitted to held-out frames, with pasted objects and, where the data has them, with natural
unknown things. Both count alike: a head knows pasted things by their edges as well, and by them
alone it would get too much weight. FPR95 is what is fitted, for AP hardly sees what is missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from training.data.held_out import MaskedFrame
from training.losses.grids import nearest
from training.validation import Viewer

# 1/8 to 8 in steps of a quarter octave.
SCALES = tuple(float(x) for x in 2.0 ** np.arange(-3, 3.01, 0.25))


def fuse_scores(
    network: nn.Module, kinds: Sequence[Sequence[MaskedFrame]], viewer: Viewer
) -> float:
    """Scales the outlier logits for the lowest FPR95 of the score ``k_plus_1``.

    Args:
        network: In eval mode, with an outlier head; the head's last layer is changed.
        kinds: Held-out frames with outlier masks; the mean is over the FPR95 of each kind. One
            without frames is left out.
        viewer: Runs the network on the frames.

    Returns:
        The scale.

    Raises:
        ParameterError: There are no frames, or a kind shows no outlier.
    """
    kinds = [frames for frames in kinds if frames]
    pooled = [_evidence(network, frames, viewer) for frames in kinds]
    if not pooled or not all((mask == ANOMALY).any() for *_, mask in pooled):
        raise ParameterError(
            "fuse_scores: needs held-out frames with outliers, see validation.mixed_frames"
        )
    rates = {
        scale: sum(fpr95(scale * odds + energy, mask) for odds, energy, mask in pooled)
        / len(pooled)
        for scale in SCALES
    }
    best = min(rates, key=rates.__getitem__)
    conv = network.outlier_head.conv
    with torch.no_grad():
        conv.weight.mul_(best)
        conv.bias.mul_(best)
    print(
        f"fused score: outlier logits times {best:.3g}, mean FPR95 {rates[1.0]:.4f} before and "
        f"{rates[best]:.4f} after, on {' and '.join(map(str, map(len, kinds)))} held-out frames"
    )
    return best


def fpr95(scores: Tensor, mask: Tensor) -> float:
    """FPR95 of (n,) scores against a mask of 0, 1 and 255."""
    pixels = PixelScores()
    pixels.update(scores.numpy()[None], mask.numpy()[None], "held-out pixels")
    return pixels.compute().FPR95


def _evidence(
    network: nn.Module, frames: Sequence[MaskedFrame], viewer: Viewer
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-odds, free energy and mask of all frames' pixels, on the network's grid."""
    parts = [_of_frame(network, frame, viewer) for frame in frames]
    odds, energy, mask = (torch.cat(part) for part in zip(*parts, strict=True))
    return odds, energy, mask


def _of_frame(
    network: nn.Module, frame: MaskedFrame, viewer: Viewer
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-odds, free energy and mask of a frame's pixels, on the network's grid."""
    output = viewer.output(network, frame.image)
    odds = output.ood_logits.float().diff(dim=1).flatten()
    energy = -output.logits.logsumexp(1).flatten()
    mask = nearest(torch.from_numpy(frame.mask)[None], output.logits.shape[-2:]).flatten()
    counted = (mask == ANOMALY) | (mask == IN_DISTRIBUTION)
    return odds.cpu()[counted], energy.cpu()[counted], mask[counted]
