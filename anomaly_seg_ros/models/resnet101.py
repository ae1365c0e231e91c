# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ on ResNet101 at stride 8, in its two public forms.

Sources: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the stride in
the 3x3 convolution; Xie et al. and Zhao et al. (PSPNet, CVPR 2017) for the deep stem of three 3x3
convolutions. Module names follow torchvision and the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from anomaly_seg_ros.models.deeplab_v3plus import (
    CONTEXT_CHANNELS,
    FINE_CHANNELS,
    AtrousSpatialPyramid,
    DeepLabV3Plus,
    conv_norm_relu,
    refinement,
)
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_EXPANSION = 4
_STEMS = ("deep", "plain")
_STAGES = ("layer0", "layer1", "layer2", "layer3", "layer4")


class DeepLabV3PlusResNet101(DeepLabV3Plus):
    """ResNet101 at stride 8, ASPP, and a decoder at a quarter of the resolution.

    ``deep`` is the layout of RobustNet (Choi et al., CVPR 2021) and Standardized Max Logits (Jung
    et al., ICCV 2021), ``r101_os8_base_cty.pth``: a stem of three 3x3 convolutions, BatchNorm and
    ReLU after ``bot_fine`` and ``bot_aspp``, the classifier ``final1`` and ``final2`` (with a
    bias). ``plain`` is the layout of Zhu et al. (CVPR 2019), their ``DeepV3Plus`` with the trunk
    ``resnet-101``: a 7x7 stem, bare 1x1 convolutions, the classifier ``final`` (no bias), the same
    decoder as with WideResNet38.

    Fine features come from ``layer1``, at stride 4. The pre-logits are, as with WideResNet38, the
    304 channels before the classifier.

    Args:
        num_classes: K.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
        abstention: The last layer has K + 1 outputs, of which the first K are the logits.
        stem: ``deep`` or ``plain``.
        auxiliary: Has the branch ``dsn`` on ``layer3``, which only helped the training of the
            public checkpoint: it is carried along, not run. None: as in the public layout of the
            stem, so with the deep one only.

    Raises:
        ValueError: Unknown stem.
    """

    output_stride = 4
    trunk = _STAGES
    feature_layers = MappingProxyType({"layer1": 256, "layer2": 512, "layer4": 2048})

    def __init__(
        self,
        num_classes: int = 19,
        outlier_head: bool | Mapping[str, Any] = False,
        abstention: bool = False,
        stem: str = "deep",
        auxiliary: bool | None = None,
    ) -> None:
        super().__init__(num_classes, abstention)
        if stem not in _STEMS:
            raise ValueError(f"stem {stem!r}, expected one of {', '.join(_STEMS)}")
        self.stem = stem
        deep = stem == "deep"
        self.layer0 = _deep_stem() if deep else _plain_stem()
        self.layer1 = _bottleneck_stage(128 if deep else 64, 64, 3)
        self.layer2 = _bottleneck_stage(256, 128, 4, stride=2)
        self.layer3 = _bottleneck_stage(512, 256, 23, dilation=2)
        self.layer4 = _bottleneck_stage(1024, 512, 3, dilation=4)
        self.aspp = AtrousSpatialPyramid(2048)
        outputs = num_classes + int(abstention)
        if deep:
            self.bot_fine = conv_norm_relu(256, FINE_CHANNELS)
            self.bot_aspp = conv_norm_relu(self.aspp.out_channels, CONTEXT_CHANNELS)
            self.final1 = refinement()
            self.final2 = nn.Sequential(nn.Conv2d(CONTEXT_CHANNELS, outputs, 1))
        else:
            self.bot_fine = nn.Conv2d(256, FINE_CHANNELS, 1, bias=False)
            self.bot_aspp = nn.Conv2d(self.aspp.out_channels, CONTEXT_CHANNELS, 1, bias=False)
            self.final = refinement().append(nn.Conv2d(CONTEXT_CHANNELS, outputs, 1, bias=False))
        has_branch = deep if auxiliary is None else auxiliary
        self.dsn = _auxiliary_branch(num_classes) if has_branch else None
        self.logits_ood = build_outlier_head(self, outlier_head)

    @property
    def trainable_parts(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """Paths of submodules by part; ``all`` leaves out the auxiliary branch."""
        head = ("final1", "final2") if self.stem == "deep" else ("final",)
        decoder = ("aspp", "bot_fine", "bot_aspp", *head)
        return {
            "last_layer": ("final2.0" if self.stem == "deep" else "final.6",),
            "classification_head": head,
            "decoder": decoder,
            # The trunk's dilated stages.
            "upper": ("layer3", "layer4", *decoder),
            "all": (*_STAGES, *decoder),
        }

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 3, H, W) to (N, 256, H / 4, W / 4) and (N, 2048, H / 8, W / 8)."""
        fine = self.layer1(self.layer0(images))
        return fine, self.layer4(self.layer3(self.layer2(fine)))

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 304, h, w) to all outputs: (N, K or K + 1, h, w)."""
        if self.stem == "deep":
            return self.final2(self.final1(pre_logits))
        return self.final(pre_logits)


def rename_imagenet_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames torchvision's ImageNet ResNet101 to the trunk with the plain stem.

    torchvision's stem is ``conv1`` and ``bn1``; its stages have our names. Its strides are our
    dilations, which hold no parameters.

    Args:
        state_dict: torchvision's ``resnet101``.

    Returns:
        All tensors but ImageNet's classifier ``fc``, by key of :class:`DeepLabV3PlusResNet101`.
    """
    stem = {"conv1": "layer0.0", "bn1": "layer0.1"}
    renamed = {}
    for key, value in state_dict.items():
        module, _, rest = key.partition(".")
        if module != "fc":
            renamed[f"{stem.get(module, module)}.{rest}"] = value
    return renamed


def _auxiliary_branch(num_classes: int) -> nn.Sequential:
    # An identity in place of its dropout: the branch is not run, and MC dropout must not take
    # that for a dropout of the network.
    return nn.Sequential(
        nn.Conv2d(1024, 512, 3, padding=1),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
        nn.Identity(),
        nn.Conv2d(512, num_classes, 1),
    )


def _plain_stem() -> nn.Sequential:
    """7x7 convolution and max pooling: (N, 3, H, W) to (N, 64, H / 4, W / 4)."""
    return nn.Sequential(*_conv_norm_relu(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1))


def _deep_stem() -> nn.Sequential:
    """Three 3x3 convolutions and max pooling: (N, 3, H, W) to (N, 128, H / 4, W / 4)."""
    return nn.Sequential(
        *_conv_norm_relu(3, 64, 3, stride=2),
        *_conv_norm_relu(64, 64, 3),
        *_conv_norm_relu(64, 128, 3),
        nn.MaxPool2d(3, 2, 1),
    )


class _Bottleneck(nn.Module):
    """1x1 - 3x3 - 1x1 convolutions and a shortcut; ReLU after the sum.

    Args:
        c_in: Channels of the input; the output has 4 ``width``.
        width: Channels of the 3x3 convolution.
        stride, dilation: The 3x3 convolution's.
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


def _bottleneck_stage(
    c_in: int, width: int, blocks: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Bottlenecks of which the first takes the stride and changes the channels to 4 ``width``."""
    first = _Bottleneck(c_in, width, stride, dilation)
    others = (_Bottleneck(_EXPANSION * width, width, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def _conv_norm_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )
