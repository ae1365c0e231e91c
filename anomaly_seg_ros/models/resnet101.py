"""DeepLabV3+ on ResNet101 at stride 8, in its two public layouts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from anomaly_seg_ros.models.deeplab_v3plus import (
    CONTEXT_CHANNELS,
    FINE_CHANNELS,
    AtrousSpatialPyramid,
    DeepLabV3Plus,
    conv_norm_relu,
    refinement,
)
from anomaly_seg_ros.models.dilated_resnet import bottleneck_stage, deep_stem, plain_stem
from anomaly_seg_ros.models.outlier_head import OutlierHead

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
        outlier_head: Adds the DenseHybrid head (BN - ReLU - 1x1) on the pre-logits.
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

    def __init__(
        self,
        num_classes: int = 19,
        outlier_head: bool = False,
        abstention: bool = False,
        stem: str = "deep",
        auxiliary: bool | None = None,
    ) -> None:
        super().__init__(num_classes, abstention)
        if stem not in _STEMS:
            raise ValueError(f"stem {stem!r}, expected one of {', '.join(_STEMS)}")
        self.stem = stem
        deep = stem == "deep"
        self.layer0 = deep_stem() if deep else plain_stem()
        self.layer1 = bottleneck_stage(128 if deep else 64, 64, 3)
        self.layer2 = bottleneck_stage(256, 128, 4, stride=2)
        self.layer3 = bottleneck_stage(512, 256, 23, dilation=2)
        self.layer4 = bottleneck_stage(1024, 512, 3, dilation=4)
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
        self.logits_ood = OutlierHead(self.pre_logits_channels) if outlier_head else None

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
