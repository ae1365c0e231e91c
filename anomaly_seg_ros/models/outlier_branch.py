# SPDX-License-Identifier: Apache-2.0
"""An outlier branch: unknown things from the trunk's features, beside an untouched closed set."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.models.efficientnet_lite import VARIANTS, EfficientNetLite
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE, IMAGENET, InputScaling, Triple
from anomaly_seg_ros.models.outlier_head import OutlierHead

if TYPE_CHECKING:
    from anomaly_seg_ros.contract import SegmentationNetwork

_EXPANSION = 4
# Far beyond any use: what stands in a file must not take all memory, or hours.
_WIDEST, _DEEPEST = 4096, 64
# What a model file and a training's configuration call the options in messages.
_KEY = "outlier_branch"


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

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts empty: after a forward pass that failed, a tap may still hold a tensor."""
        return {"_kept": None}


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
        context: ``""``, ``lite0`` or ``lite2``: an EfficientNet-Lite beside the network.
        context_scale: Side of the context trunk's image as a share of the network's.
        mean, std: Input scaling of the network, from which a context trunk's is made.

    Raises:
        CheckpointError: An option is out of range, or the network declares no feature layers.
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
        mean: Triple = IMAGENET.mean,
        std: Triple = IMAGENET.std,
    ) -> None:
        super().__init__()
        _check_number("width", width, 1, _WIDEST, whole=True)
        _check_number("blocks", blocks, 0, _DEEPEST, whole=True)
        if context not in ("", *VARIANTS):
            _refuse("context", context, f"one of '', {', '.join(VARIANTS)}")
        _check_number("context_scale", context_scale, 0.1, 1)
        layers = network.feature_layers
        if not layers:
            raise CheckpointError(
                f"{_KEY}: {type(network).__name__} declares no feature_layers for it to read (a "
                "network wrapped by an older version: wrap it again)"
            )
        self.num_classes = network.num_classes
        self.context_scale = context_scale
        self._rescaling = _rescaling(
            InputScaling(_triple("mean", mean), _triple("std", std, True))
        )
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
        # A training may give the network one more output, PEBAL's.
        reads += [pre_logits, logits[:, : self.num_classes]]
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
        # Numbers, not a tensor made here: a CUDA graph cannot copy one to the GPU.
        channels = zip(small.split(1, 1), *self._rescaling, strict=True)
        return trunk(torch.cat([x * scale + shift for x, scale, shift in channels], 1))[1:]


def build_outlier_head(
    network: SegmentationNetwork, wanted: bool | Mapping[str, Any]
) -> OutlierHead | OutlierBranch | None:
    """Builds what a network's constructor argument ``outlier_head`` asks for.

    Args:
        network: The network, all other layers built.
        wanted: False for none, True for DenseHybrid's head, or arguments of
            :class:`OutlierBranch`, ``{}`` for its defaults.

    Raises:
        CheckpointError: See :class:`OutlierBranch`, or there is no such option; the message names
            it and the nearest ones.
    """
    if isinstance(wanted, Mapping):
        return OutlierBranch(network, **branch_options(wanted))
    if not isinstance(wanted, bool):
        raise CheckpointError(
            f"outlier_head is {short_repr(wanted)}, expected true, false or options of "
            f"{OutlierBranch.__name__}"
        )
    return OutlierHead(network.pre_logits_channels) if wanted else None


def branch_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a branch: those that are given, else the defaults of :class:`OutlierBranch`.

    Raises:
        CheckpointError: There is no such option; the message names it and the nearest ones.
    """
    _, *parameters = inspect.signature(OutlierBranch).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    for name in given:
        if name not in defaults:
            near = difflib.get_close_matches(str(name), defaults, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}" if near else f"it has {', '.join(defaults)}"
            raise CheckpointError(f"{_KEY} has no option {short_repr(name)}; {hint}")
    return {**defaults, **given}


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


def _rescaling(scaling: InputScaling) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factors and offsets by channel from a network's input to that of EfficientNet-Lite."""
    ours = zip(scaling.std, EFFICIENTNET_LITE.std, strict=True)
    factors = tuple(std / wanted for std, wanted in ours)
    triples = zip(scaling.mean, EFFICIENTNET_LITE.mean, EFFICIENTNET_LITE.std, strict=True)
    return factors, tuple((mean - centre) / std for mean, centre, std in triples)


def _refuse(option: str, value: Any, expected: str) -> NoReturn:
    raise CheckpointError(f"{_KEY}.{option} is {short_repr(value)}, expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(option: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    fits = _is_number(value) and low <= value <= high
    if not fits or (whole and not isinstance(value, int)):
        kind = "a whole number" if whole else "a number"
        _refuse(option, value, f"{kind} from {low} to {high}")


def _triple(option: str, values: Any, positive: bool = False) -> Triple:
    if (
        not isinstance(values, Sequence)
        or len(values) != len(IMAGENET.mean)
        or not all(_is_number(x) and (x > 0 or not positive) for x in values)
    ):
        _refuse(option, values, f"three {'positive ' if positive else ''}numbers")
    red, green, blue = values
    return red, green, blue
