"""Rounding convolution kernels to half precision without shifting their mean response."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def round_kernels(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Rounds the kernels of every Conv2d to values of ``dtype``; they stay in their own dtype.

    Rounding each tap to the nearest value changes a kernel's sum by up to half a percent of its
    largest tap. Images are smooth, so that error is the same at every pixel, adds up over layers
    and moves class boundaries: it is most of what bfloat16 costs (systematic error of weight
    quantisation: Nagel et al., Data-Free Quantization, ICCV 2019, section 3.2). Here each tap's
    rounding error is handed on to the next smaller tap, whose grid is finer, so that the sum
    keeps nearly all its digits.

    Args:
        network: Changed in place, BatchNorm folded already.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Returns:
        The same network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(rounded_kernel(module.weight, dtype))
    return network


def rounded_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernel (O, I, h, w) rounded by error diffusion over its h x w taps, in its own dtype."""
    taps = weight.double().flatten(2)
    order = taps.abs().argsort(2, descending=True)
    rounded = torch.empty_like(taps)
    error = torch.zeros_like(taps[..., :1])
    for place in order.split(1, 2):
        wanted = taps.gather(2, place) + error
        nearest = wanted.to(dtype).double()
        rounded.scatter_(2, place, nearest)
        error = wanted - nearest
    return rounded.view_as(weight).to(weight.dtype)
