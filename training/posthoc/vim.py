# SPDX-License-Identifier: Apache-2.0
"""ViM: a virtual logit for what lies outside of the principal directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import OutputScore, on_logits_grid
from training.posthoc.principal import principal_axes
from training.posthoc.training_pixels import TrainingPixels


class Vim(OutputScore):
    r"""Log-odds of the virtual logit, :math:`\alpha \|R (z - o)\| - \ln \sum_c \exp l_c`.

    R projects onto the directions of least variance about the origin o, and :math:`\alpha` makes
    the virtual logit as large as the maximum logit, on average over the training pixels. The
    paper's score is the virtual logit's softmax probability; its log-odds have the same order and
    do not saturate.

    Source: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching" (CVPR 2022),
    eq. 4-7.

    Args:
        pixels: What the network says on in-distribution images.
        origin: (C,), o; see :func:`classifier_origin`. None takes the mean of the features.
        share: Share of the directions that are principal, rounded down. The paper keeps 1000 of
            2048 channels and 512 of 768.

    Raises:
        ParameterError: An option is out of range, or the residual is 0 on all training pixels.
    """

    def __init__(
        self, pixels: TrainingPixels, origin: Tensor | None = None, share: float = 0.5
    ) -> None:
        if not 0 < share < 1:
            raise ParameterError(f"option 'share' is {share}, expected 0 < s < 1")
        features = pixels.pre_logits.double()
        origin = features.mean(0) if origin is None else origin.double()
        _, axes = principal_axes(features - origin)
        axes = axes[:, int(share * len(axes)) :]
        residual = ((features - origin) @ axes).norm(dim=1).mean()
        # Relative to the features, as rounding leaves a little of everything.
        if residual <= 1e-6 * (features - origin).norm(dim=1).mean():
            raise ParameterError(
                f"the pre-logits of the training pixels have no part outside of the first "
                f"{axes.shape[0] - axes.shape[1]} principal directions; lower option 'share'"
            )
        self.alpha = float(pixels.logits.double().amax(1).mean() / residual)
        self.origin, self.axes = origin.float(), axes.float()

    def of(self, output: NetworkOutput) -> Tensor:
        """See the class."""
        z = output.pre_logits.float().movedim(1, -1)
        residual = ((z - self.origin.to(z.device)) @ self.axes.to(z.device)).norm(dim=-1)
        virtual = self.alpha * on_logits_grid(residual, output)
        return virtual - output.logits.float().logsumexp(1)


@torch.inference_mode()
def classifier_origin(network: nn.Module) -> Tensor | None:
    r"""The origin of the features, :math:`o = -(W^T)^+ b`, where the logits are least (eq. 3).

    W and b are read off :meth:`~anomaly_seg_ros.contract.SegmentationNetwork.classify`: a 1x1
    convolution, or a transposed one whose kernel is its stride (ERFNet), of which the mean over a
    pre-logit's logits is linear as well.

    Args:
        network: A network in eval mode.

    Returns:
        (C,) float64 on the CPU; None if the classifier is not a linear map of single pixels, as a
        head of several layers is not.
    """
    channels = network.pre_logits_channels
    like = next(network.parameters(), torch.empty(0))
    probes = torch.cat([torch.zeros(1, channels), torch.eye(channels)])[:, :, None, None]
    answers = network.classify(probes.to(like)).double().cpu().mean((2, 3))
    bias, weight = answers[0], answers[1:] - answers[0]
    generator = torch.Generator().manual_seed(0)
    trial = torch.randn(1, channels, 8, 8, generator=generator)
    logits = F.adaptive_avg_pool2d(network.classify(trial.to(like)).double().cpu(), (8, 8))
    expected = trial[0].double().movedim(0, -1) @ weight + bias
    difference = (logits[0].movedim(0, -1) - expected).abs().amax()
    if difference > 1e-3 * expected.abs().amax():
        return None
    return -torch.linalg.pinv(weight.T) @ bias
