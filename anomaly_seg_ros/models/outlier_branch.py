"""An outlier branch: unknown things from the trunk's features, beside an untouched closed set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.efficientnet_lite import EfficientNetLite
from anomaly_seg_ros.models.outlier_head import OutlierHead

if TYPE_CHECKING:
    from anomaly_seg_ros.contract import SegmentationNetwork

_EXPANSION = 4
# ImageNet's moments, which most networks of the package scale with, into EfficientNet-Lite's.
_SCALE = tuple(std * 255 / 128 for std in (0.229, 0.224, 0.225))
_SHIFT = tuple((mean * 255 - 127) / 128 for mean in (0.485, 0.456, 0.406))


class _Tap:
    """Keeps a layer's output; the hook is a bound method, so a deep copy has its own tap."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def after_layer(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._kept = output

    def before_network(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept = inputs[0]

    def take(self) -> Tensor:
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("the outlier branch runs within its network's forward pass only")
        return kept


class OutlierBranch(nn.Module):
    """Outlier logits from features at several strides, the pre-logits and the logits.

    Each input is projected by a 1x1 convolution and brought to the grid of the finest one; their
    sum goes through inverted bottlenecks. DenseHybrid's head, the smallest form of it, sees the
    pre-logits alone: what a classifier keeps for telling known classes apart. The branch sees what
    was there before. It reads and never writes, so labels and class logits are those of the
    network without it, bit for bit.

    With ``context``, it also reads a frozen ImageNet trunk that sees the image at half the size:
    a network for streets knows no animals and no machines, and that trunk knows a thousand things.

    Args:
        network: The network that the branch belongs to, all layers but this one built; forward
            hooks are put on its ``feature_layers``.
        width: Channels of the projections.
        blocks: Inverted bottlenecks.
        context: ``""``, ``lite0`` or ``lite2``: an EfficientNet-Lite beside the network, which
            expects images in ImageNet's scaling.
        context_scale: Side of the context trunk's image as a share of the network's.

    Raises:
        CheckpointError: The network declares no feature layers.
    """

    # Submodules that no training changes: neither weights nor statistics.
    frozen = ("context",)

    def __init__(
        self,
        network: SegmentationNetwork,
        width: int = 48,
        blocks: int = 2,
        context: str = "",
        context_scale: float = 0.5,
    ) -> None:
        super().__init__()
        layers = network.feature_layers
        if not layers:
            raise CheckpointError(
                f"{type(network).__name__} declares no feature_layers for an outlier branch"
            )
        self.context_scale = context_scale
        self._taps = [_Tap() for _ in layers]
        for path, tap in zip(layers, self._taps, strict=True):
            network.get_submodule(path).register_forward_hook(tap.after_layer)
        channels = [*layers.values(), network.pre_logits_channels, network.num_classes]
        self.context: EfficientNetLite | None = None
        self._image = _Tap()
        if context:
            self.context = EfficientNetLite(context).eval().requires_grad_(False)
            network.register_forward_pre_hook(self._image.before_network)
            # Of its stride-4 features the network's own have the better version.
            channels += self.context.out_channels[1:]
        self.inputs = nn.ModuleList(_projection(c, width) for c in channels)
        self.blocks = nn.Sequential(*(_Bottleneck(width) for _ in range(blocks)))
        self.activation = nn.Hardswish()
        self.conv = nn.Conv2d(width, 2, 1)

    def train(self, mode: bool = True) -> OutlierBranch:
        """Sets the mode of all but the context trunk, which stays in eval mode."""
        super().train(mode)
        if self.context is not None:
            self.context.eval()
        return self

    def forward(self, pre_logits: Tensor, logits: Tensor) -> Tensor:
        """Reads what the network's layers have just computed.

        Args:
            pre_logits: (N, C, h', w').
            logits: (N, K, h, w).

        Returns:
            (N, 2, h'', w'') outlier logits on the grid of the first feature layer.
        """
        reads = [tap.take() for tap in self._taps]
        grid = (reads[0].shape[-2], reads[0].shape[-1])
        reads += [pre_logits, logits]
        if self.context is not None:
            reads += self._context_features(self.context, self._image.take())
        x, *others = (project(x) for project, x in zip(self.inputs, reads, strict=True))
        for other in others:
            x = x + _resized(other, grid)
        return self.conv(self.activation(self.blocks(x)))

    def _context_features(self, trunk: EfficientNetLite, images: Tensor) -> list[Tensor]:
        small = F.interpolate(
            images, scale_factor=self.context_scale, mode="bilinear", align_corners=False
        )
        scale, shift = (small.new_tensor(v)[:, None, None] for v in (_SCALE, _SHIFT))
        return trunk(small * scale + shift)[1:]


def build_outlier_head(
    network: SegmentationNetwork, wanted: bool | Mapping[str, Any]
) -> OutlierHead | OutlierBranch | None:
    """Builds what a network's constructor argument ``outlier_head`` asks for.

    Args:
        network: The network, all other layers built.
        wanted: False for none, True for DenseHybrid's head, or arguments of
            :class:`OutlierBranch`, ``{}`` for its defaults.
    """
    if isinstance(wanted, Mapping):
        return OutlierBranch(network, **wanted)
    return OutlierHead(network.pre_logits_channels) if wanted else None


class _Bottleneck(nn.Module):
    """Activation, 1x1 to four times the width, depthwise 3x3, 1x1; added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        self.main = nn.Sequential(
            nn.Hardswish(),
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


def _projection(c_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width))


def _resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == grid:
        return x
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
