"""Residual blocks with activation first, as WideResNet38 stacks them.

Sources: Wu, Shen & van den Hengel, "Wider or Deeper" (Pattern Recognition 2019), for the network;
He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), for the block.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

_KERNELS = {2: (3, 3), 3: (1, 3, 1)}


def norm_relu(channels: int) -> nn.Sequential:
    """BatchNorm, ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class PreActivationBlock(nn.Module):
    """Shortcut plus (BatchNorm - ReLU - convolution) for every width.

    A shortcut that must change shape is a 1x1 convolution of the activated input.

    Args:
        c_in: Channels of the input.
        widths: Output channels of the convolutions: two 3x3, or 1x1 - 3x3 - 1x1.
        stride: Of the first convolution.
        dilation: Of the 3x3 convolutions.
        dropout: Rate, for whole channels, before the last convolution.
    """

    def __init__(
        self,
        c_in: int,
        widths: tuple[int, ...],
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bn1 = norm_relu(c_in)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = c_in
        for index, (kernel, width) in enumerate(zip(_KERNELS[len(widths)], widths, strict=True)):
            if index > 0:
                layers[f"bn{index + 1}"] = norm_relu(channels)
            if dropout and index == len(widths) - 1:
                layers["dropout"] = nn.Dropout2d(dropout)
            layers[f"conv{index + 1}"] = nn.Conv2d(
                channels,
                width,
                kernel,
                stride=stride if index == 0 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation if kernel > 1 else 1,
                bias=False,
            )
            channels = width
        self.convs = nn.Sequential(layers)
        keeps_shape = stride == 1 and c_in == channels
        self.proj_conv = None if keeps_shape else nn.Conv2d(c_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, widths[-1], ceil(h / stride), ceil(w / stride))."""
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated).add_(shortcut)


def pre_activation_stage(
    c_in: int,
    widths: tuple[int, ...],
    blocks: int,
    stride: int = 1,
    dilation: int = 1,
    dropout: float = 0.0,
) -> nn.Sequential:
    """``block1``, ``block2``, ...; only the first one changes shape."""
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(blocks):
        first = index == 0
        stage[f"block{index + 1}"] = PreActivationBlock(
            c_in if first else widths[-1], widths, stride if first else 1, dilation, dropout
        )
    return nn.Sequential(stage)
