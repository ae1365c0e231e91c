# SPDX-License-Identifier: Apache-2.0
"""Any segmentation network under this package's contract, by naming its pre-logit layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.models.external import build_external, default_classifier
from anomaly_seg_ros.models.outlier_branch import build_outlier_head
from anomaly_seg_ros.models.probing import Layout, probe

_PREFIX = "network"


class _Reached(BaseException):
    """Raised to end the forward pass at the classifier, since nothing behind it is needed.

    Not an ``Exception``, so that the wrapped network's own handlers do not catch it.
    """


class _Tap:
    """Keeps what a layer reads; the hook is a bound method, so a deep copy has its own tap.

    Args:
        stops: Ends the forward pass at this layer.

    Attributes:
        is_open: If False, the tap does nothing: the wrapped network can be called by itself.
    """

    def __init__(self, stops: bool) -> None:
        self.is_open = False
        self._stops = stops
        self._read: Tensor | None = None

    def before_layer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not self.is_open:
            return
        self._read = inputs[0]
        # A compiler drops unused results by itself and cannot follow the jump.
        if self._stops and not torch.compiler.is_compiling():
            raise _Reached

    def take(self) -> Tensor:
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError("the wrapped network did not run its classifier")
        return read


class WrappedNetwork(SegmentationNetwork):
    """A foreign network whose pre-logits are what its classifier reads.

    The classifier is one layer, or several whose outputs are added (LR-ASPP), and then the
    pre-logits are what they read, side by side. The network runs up to its classifier only: the
    upsampling behind it, and auxiliary heads, cost nothing. One thread at a time may run it.

    All arguments but ``module`` are JSON values and part of the metadata. Paths are those of the
    wrapped network. What is None is found by :func:`~anomaly_seg_ros.models.probing.probe` and is
    in :attr:`arguments` afterwards.

    Args:
        num_classes: K.
        factory: See :func:`~anomaly_seg_ros.models.external.build_external`.
        factory_arguments: Arguments for the factory.
        pre_logits: Path of the layer whose output the classifier reads.
        classifier: Path or paths of the layers that make the logits; None finds the next layer
            behind ``pre_logits`` that gives K (or K + 1) channels.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
        abstention: The last layer has K + 1 outputs (PEBAL), of which the first K are returned.
        size_multiple: H and W must be multiples of it.
        output_stride: Rows of the image for each row of the logits.
        pre_logits_channels: Channels of the pre-logits.
        trainable_parts: Paths by part; replaces the parts that are found, one by one.
        trunk: Paths of the part that usually comes pre-trained.
        feature_layers: Channels by path, see
            :class:`~anomaly_seg_ros.contract.SegmentationNetwork`. Older files lack it; if only
            this is None, the network has none.
        returns_logits: See :func:`~anomaly_seg_ros.models.probing.probe`.
        align_corners: How the network upsamples its logits, which is left to the caller here.
            If only this is None it is False: older files lack it.
        module: The network itself, in place of a factory; see :meth:`around`.

    Raises:
        CheckpointError: Unknown factory, or one that cannot be built.
        ParameterError: A layer that does not exist, does not run or does not fit.
    """

    def __init__(
        self,
        num_classes: int = 19,
        factory: str | None = None,
        factory_arguments: Mapping[str, Any] | None = None,
        pre_logits: str | None = None,
        classifier: str | Sequence[str] | None = None,
        outlier_head: bool | Mapping[str, Any] = False,
        abstention: bool = False,
        size_multiple: int = 32,
        output_stride: int | None = None,
        pre_logits_channels: int | None = None,
        trainable_parts: Mapping[str, Sequence[str]] | None = None,
        trunk: Sequence[str] | None = None,
        feature_layers: Mapping[str, int] | None = None,
        returns_logits: bool = True,
        align_corners: bool | None = None,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.abstention = abstention
        self.size_multiple = size_multiple
        self._factory = factory
        self._factory_arguments = dict(factory_arguments or {})
        self._pre_logits = pre_logits
        num_outputs = num_classes + abstention
        if module is None:
            module = self._build(num_outputs)
        elif not isinstance(module, nn.Module):
            raise TypeError(f"module is a {type(module).__name__}, expected an nn.Module")
        self.network = module

        if isinstance(classifier, str):
            classifier = (classifier,)
        if classifier is None and pre_logits is None:
            classifier = default_classifier(factory)
        given: dict[str, Any] = {
            "classifier": classifier,
            "output_stride": output_stride,
            "pre_logits_channels": pre_logits_channels,
            "trainable_parts": trainable_parts,
            "trunk": trunk,
        }
        if any(value is None for value in given.values()):
            found = probe(
                self.network, num_outputs, size_multiple, pre_logits, classifier, returns_logits
            )
            parts = {**found.trainable_parts, **(trainable_parts or {})}
            given = {**vars(found), **_not_none(given), "trainable_parts": parts}
            given["classifier"] = found.classifier
        if feature_layers is None:
            feature_layers = given.get("feature_layers", {})
        given["feature_layers"] = feature_layers
        if align_corners is None:
            align_corners = given.get("align_corners", False)
        given["align_corners"] = align_corners
        self._layout = _checked(self.network, Layout(**given))
        self.output_stride = self._layout.output_stride
        self.align_corners = self._layout.align_corners
        self.pre_logits_channels = self._layout.pre_logits_channels
        self.trunk = _prefixed(self._layout.trunk)
        self.feature_layers = {
            f"{_PREFIX}.{path}": channels for path, channels in self._layout.feature_layers.items()
        }
        self.trainable_parts = {
            part: _prefixed(paths) for part, paths in self._layout.trainable_parts.items()
        }
        self._taps = []
        for path in self._layout.classifier:
            tap = _Tap(stops=path == self._layout.classifier[-1])
            self.network.get_submodule(path).register_forward_pre_hook(tap.before_layer)
            self._taps.append(tap)
        self.outlier_head = build_outlier_head(self, outlier_head)
        self._outlier_head = outlier_head

    @classmethod
    def around(cls, module: nn.Module, **arguments: Any) -> WrappedNetwork:
        """Wraps a network that exists already, and keeps its weights.

        Such a network works in this process; to load it from a file again, a ``factory`` must
        build it, see :mod:`~anomaly_seg_ros.models.external`.

        Args:
            module: Shared, not copied; it can still be called by itself.
            **arguments: The class's arguments.
        """
        return cls(module=module, **arguments)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, with everything that was found, for the metadata."""
        layout = self._layout
        return {
            "num_classes": self.num_classes,
            "factory": self._factory,
            "factory_arguments": self._factory_arguments,
            "pre_logits": self._pre_logits,
            "classifier": list(layout.classifier),
            "outlier_head": self._outlier_head,
            "abstention": self.abstention,
            "size_multiple": self.size_multiple,
            "output_stride": layout.output_stride,
            "align_corners": layout.align_corners,
            "pre_logits_channels": layout.pre_logits_channels,
            "trainable_parts": {k: list(v) for k, v in layout.trainable_parts.items()},
            "trunk": list(layout.trunk),
            "feature_layers": dict(layout.feature_layers),
        }

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network up to its logits.

        Args:
            images: (N, 3, H, W), scaled as the metadata says; H and W multiples of
                ``size_multiple``.

        Returns:
            Pre-logits, logits before the network's last upsampling, and outlier logits on the
            grid of the logits.
        """
        return self.outputs(self._run_to_classifier(images))

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits to logits (N, K, h, w): the classifier alone."""
        return self.all_outputs(pre_logits)[:, : self.num_classes]

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits to all outputs: (N, K or K + 1, h, w)."""
        layers = [self.network.get_submodule(path) for path in self._layout.classifier]
        if len(layers) == 1:
            # `forward`, here and below: past the tap.
            return layers[0].forward(pre_logits)
        reads = pre_logits.split([layer.in_channels for layer in layers], 1)
        return sum(layer.forward(read) for layer, read in zip(layers, reads, strict=True))

    def _run_to_classifier(self, images: Tensor) -> Tensor:
        for tap in self._taps:
            tap.is_open = True
        try:
            self.network(images)
        except _Reached:
            pass
        finally:
            for tap in self._taps:
                tap.is_open = False
        reads = [tap.take() for tap in self._taps]
        return reads[0] if len(reads) == 1 else torch.cat(reads, 1)

    def _build(self, num_outputs: int) -> nn.Module:
        if self._factory is None:
            raise CheckpointError(
                "a wrapped network was saved without a factory, so nothing can build it again: "
                "register one and name it, see docs/models.md"
            )
        return build_external(self._factory, num_outputs, self._factory_arguments)


def _checked(network: nn.Module, layout: Layout) -> Layout:
    """The layout with tuples, if every path in it exists.

    Raises:
        CheckpointError: Names the first one that does not, or an ``align_corners`` that is
            neither true nor false.
    """
    if not isinstance(layout.align_corners, bool):
        raise CheckpointError(
            f"align_corners is {short_repr(layout.align_corners)}, expected true or false"
        )
    parts = {part: tuple(paths) for part, paths in layout.trainable_parts.items()}
    classifier, trunk = tuple(layout.classifier), tuple(layout.trunk)
    named = (*classifier, *trunk, *layout.feature_layers)
    named += tuple(path for paths in parts.values() for path in paths)
    missing = set(named) - {path for path, _ in network.named_modules()}
    if missing:
        raise CheckpointError(
            f"wrapped {type(network).__name__} has no layer {sorted(missing)[0]!r}"
        )
    return Layout(
        classifier,
        int(layout.pre_logits_channels),
        int(layout.output_stride),
        layout.align_corners,
        parts,
        trunk,
        {path: int(channels) for path, channels in layout.feature_layers.items()},
    )


def _prefixed(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{_PREFIX}.{path}" for path in paths)


def _not_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
