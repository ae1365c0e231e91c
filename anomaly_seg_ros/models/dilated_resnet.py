"""ResNet's stems and stages, with dilation in place of stride.

Sources: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the stride in
the 3x3 convolution; Xie et al. and Zhao et al. (PSPNet, CVPR 2017) for the deep stem of three 3x3
convolutions. Module names follow torchvision and the public checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

_EXPANSION = 4


def plain_stem() -> nn.Sequential:
    """7x7 convolution and max pooling: (N, 3, H, W) to (N, 64, H / 4, W / 4)."""
    return nn.Sequential(*_conv_norm_relu(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1))


def deep_stem() -> nn.Sequential:
    """Three 3x3 convolutions and max pooling: (N, 3, H, W) to (N, 128, H / 4, W / 4)."""
    return nn.Sequential(
        *_conv_norm_relu(3, 64, 3, stride=2),
        *_conv_norm_relu(64, 64, 3),
        *_conv_norm_relu(64, 128, 3),
        nn.MaxPool2d(3, 2, 1),
    )


class Bottleneck(nn.Module):
    """1x1 - 3x3 - 1x1 convolutions and a shortcut; ReLU after the sum.

    Args:
        c_in: Channels of the input; the output has 4 ``width``.
        width: Channels of the 3x3 convolution.
        stride: Of the 3x3 convolution.
        dilation: Of the 3x3 convolution.
    """

    def __init__(self, c_in: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        c_out = _EXPANSION * width
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, 4 width, ceil(h / stride), ceil(w / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y.add_(x if self.downsample is None else self.downsample(x)))


def bottleneck_stage(
    c_in: int, width: int, blocks: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Bottlenecks of which the first takes the stride and changes the channels to 4 ``width``."""
    first = Bottleneck(c_in, width, stride, dilation)
    others = (Bottleneck(_EXPANSION * width, width, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def _conv_norm_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )
