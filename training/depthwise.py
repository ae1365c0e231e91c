"""Depthwise convolutions whose backward pass is fast in bfloat16 on the CPU.

oneDNN's bfloat16 backward of strided and of 5x5 depthwise convolutions falls off its fast path:
on a 2-core machine with AMX, 8 x 144 x 64 x 64 with a strided 5x5 kernel takes 29 ms for the
input gradient and 27 ms for the weight gradient, against 0.8 and 6 ms in float32
(``benchmarks/depthwise_backward.py``). They are 60 % of a training step, so the backward alone
runs in float32; the forward and all other layers stay as autocast leaves them.
"""

from __future__ import annotations

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Float32Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x, weight)
        ctx.geometry = (list(stride), list(padding), list(dilation))
        groups = weight.shape[0]
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        x, weight = ctx.saved_tensors
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad.float(),
            x.float(),
            weight.float(),
            None,
            *ctx.geometry,
            False,
            [0, 0],
            weight.shape[0],
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        grad_x = None if grad_x is None else grad_x.to(x.dtype)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        x = x.to(torch.get_autocast_dtype("cpu"))
    if x.dtype == torch.float32 or x.device.type != "cpu":
        return F.conv2d(
            x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    return _Float32Backward.apply(x, conv.weight, conv.stride, conv.padding, conv.dilation)


def use_float32_backward(model: nn.Module) -> int:
    """Switches the depthwise convolutions of ``model`` in place; the state dict is unchanged.

    Returns:
        How many convolutions were switched.
    """
    switched = 0
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels == module.out_channels > 1
            and (module.kernel_size[0] > 3 or module.stride[0] > 1)
            and module.bias is None
        ):
            module.forward = MethodType(_forward, module)
            switched += 1
    return switched
