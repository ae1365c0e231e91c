# SPDX-License-Identifier: Apache-2.0
"""Networks of other packages, by names that may stand in a weights file.

A weights file may come from anywhere, so a name in it is never imported. It is looked up among
the segmentation builders of torchvision, the models of segmentation_models_pytorch, and what the
user's own installed packages offer under the entry-point group ``anomaly_seg_ros.networks``.
Nothing is downloaded: builders are called without pre-trained weights, and with no argument that
could name a file or an address.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from torch import nn

from anomaly_seg_ros.errors import CheckpointError

# Installed packages offer networks here: name -> callable(num_classes=..., **arguments).
ENTRY_POINT_GROUP = "anomaly_seg_ros.networks"

# The layers that turn pre-logits into logits, by the beginning of a factory's name.
_CLASSIFIERS = {
    "torchvision:deeplabv3_": ("classifier.4",),
    "torchvision:fcn_": ("classifier.4",),
    # LR-ASPP adds two classifiers: of its fine and of its coarse features.
    "torchvision:lraspp_": ("classifier.low_classifier", "classifier.high_classifier"),
    "smp:": ("segmentation_head.0",),
}
# What this package sets itself, or what would read files or the network.
_TORCHVISION_RESERVED = {"weights", "weights_backbone", "progress", "num_classes"}
_SMP_RESERVED = {"encoder_weights", "classes", "in_channels"}
# No address ("hf-hub:name") and no path: timm would look it up.
_PLAIN_NAME = re.compile(r"[\w.\-]+")


def build_external(factory: str, num_outputs: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Builds a network of another package with random weights.

    Args:
        factory: ``torchvision:<builder>``, ``smp:<class>`` (segmentation_models_pytorch), or a
            name that an installed package registers.
        num_outputs: Channels of the last layer.
        arguments: Further keyword arguments, JSON values.

    Raises:
        CheckpointError: Unknown name (lists what is known), its package is not installed, or an
            argument that the factory does not take or that may not stand in a file.
    """
    kind, _, name = factory.partition(":")
    if kind == "torchvision" and name:
        return _build_torchvision(factory, name, num_outputs, arguments)
    if kind == "smp" and name:
        return _build_smp(factory, name, num_outputs, arguments)
    registered = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if factory not in registered:
        raise CheckpointError(
            f"unknown network factory {factory!r}, known: torchvision:<builder>, smp:<class>, and "
            f"registered by installed packages under {ENTRY_POINT_GROUP!r}: "
            + (", ".join(sorted(registered)) or "none")
        )
    network = _call(factory, registered[factory].load(), num_classes=num_outputs, **arguments)
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"{factory} built a {type(network).__name__}, no nn.Module")
    return network


def default_classifier(factory: str | None) -> tuple[str, ...] | None:
    """Paths of the layers that make the logits in a known family of networks, or None."""
    matches = (
        paths for prefix, paths in _CLASSIFIERS.items() if (factory or "").startswith(prefix)
    )
    return next(matches, None)


def _build_torchvision(
    factory: str, name: str, num_outputs: int, arguments: Mapping[str, Any]
) -> nn.Module:
    models = _package(factory, "torchvision.models")
    builders = models.list_models(module=models.segmentation)
    if name not in builders:
        raise CheckpointError(
            f"unknown network factory {factory!r}, torchvision has: {', '.join(builders)}"
        )
    builder = models.get_model_builder(name)
    _check_arguments(factory, builder, arguments, _TORCHVISION_RESERVED)
    return _call(
        factory,
        builder,
        weights=None,
        weights_backbone=None,
        num_classes=num_outputs,
        **arguments,
    )


def _build_smp(
    factory: str, name: str, num_outputs: int, arguments: Mapping[str, Any]
) -> nn.Module:
    package = _package(factory, "segmentation_models_pytorch")
    base = package.base.SegmentationModel
    classes = {
        key: value
        for key, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    if name not in classes:
        raise CheckpointError(
            f"unknown network factory {factory!r}, segmentation_models_pytorch has: "
            + ", ".join(sorted(classes))
        )
    _check_arguments(factory, classes[name], arguments, _SMP_RESERVED)
    encoder = arguments.get("encoder_name", "resnet34")
    if not isinstance(encoder, str) or not _PLAIN_NAME.fullmatch(encoder):
        raise CheckpointError(f"{factory}: encoder_name {encoder!r} is not a plain name")
    return _call(factory, classes[name], encoder_weights=None, classes=num_outputs, **arguments)


def _package(factory: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            f"{factory} needs the Python package {name.partition('.')[0]}: {error}"
        ) from error


def _check_arguments(
    factory: str, builder: Callable, arguments: Mapping[str, Any], reserved: set[str]
) -> None:
    """Takes only named parameters: a builder's ``**kwargs`` reach code that reads files."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(builder).parameters.values()
    allowed = {p.name for p in parameters if p.kind in kinds} - reserved
    refused = sorted(arguments.keys() - allowed)
    if refused:
        raise CheckpointError(
            f"{factory}: argument {refused[0]!r} is not taken, expected some of: "
            + (", ".join(sorted(allowed)) or "none")
        )


def _call(factory: str, builder: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return builder(**arguments)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{factory} cannot be built from {arguments}: {error}") from error
