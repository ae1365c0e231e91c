# SPDX-License-Identifier: Apache-2.0
"""What a closed-set training starts from: an ImageNet trunk, another model, or random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from anomaly_seg_ros.checkpoints.fit import compare
from anomaly_seg_ros.checkpoints.loading import load_model, resolve_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.models.input_scaling import (
    EFFICIENTNET_LITE,
    IMAGENET,
    SCALINGS,
    InputScaling,
)
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import Taxonomy
from training.engine.config import chosen, without_folders
from training.networks import head_prefix
from training.pretrained import Loaded, is_trunk_file, load_imagenet, load_trunk, weights_of

# What the labels or the fine-tuning decide.
_HEADS = ("outlier_head", "abstention")
_RESERVED = ("num_classes", *_HEADS)


@dataclass(frozen=True)
class Start:
    """A network that is ready to be trained on the labels' classes.

    Attributes:
        network: In train mode, on the CPU.
        metadata: Describes it, for the file that the training writes.
        kept: Keys of its state dict whose values come from elsewhere.
        new: Keys with random values.
        left_out: What else lay where the values come from, by key.
    """

    network: SegmentationNetwork
    metadata: ModelMetadata
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.kept)} tensors kept"]
        if self.new:
            parts.append(f"{len(self.new)} new ({', '.join(_modules(self.new))})")
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out ({', '.join(_modules(self.left_out))})")
        return f"{self.metadata.name}: {'; '.join(parts)}"

    def account(self) -> str:
        """Every key, one a line."""
        groups = {"kept": self.kept, "new": self.new, "left out": self.left_out}
        return "\n".join(f"{what}: {key}" for what, keys in groups.items() for key in keys)


def build_start(config: Mapping[str, Any], taxonomy: Taxonomy) -> Start:
    """Builds the network of a configuration, with the weights that it starts from.

    Args:
        config: Configuration of ``training.closed_set``.
        taxonomy: Classes of the labels.

    Raises:
        CheckpointError: The network cannot be built, or the weights are missing or do not fit.
        ParameterError: A key below ``network`` is wrong or contradicts the start.
    """
    options, start = config["network"], config["start"]
    architecture, arguments = options["architecture"], options["arguments"]
    for key in _RESERVED:
        if key in arguments:
            raise ParameterError(f"network.arguments: {key} is not chosen here, leave it out")
    if start not in ("", "imagenet"):
        path = resolve_model(start)
        if not is_trunk_file(path, architecture, arguments):
            return _from_model(config, taxonomy)
    arguments = {"num_classes": len(taxonomy.classes), **arguments}
    network = build_network(architecture, arguments)
    if start == "":
        loaded = Loaded(())
    elif start == "imagenet":
        loaded = load_imagenet(network, architecture, arguments)
    else:
        weights = weights_of(architecture, arguments)
        loaded = load_trunk(network, path, weights)
    scaling = EFFICIENTNET_LITE if architecture == "deeplab_v3plus_lite" else IMAGENET
    provenance = {"start": {"name": without_folders(start) or "random weights"}}
    metadata = _describe(config, taxonomy, network, arguments, scaling, provenance)
    new = tuple(key for key in network.state_dict() if key not in set(loaded.kept))
    return Start(network.train(), metadata, loaded.kept, new, loaded.left_out)


def _from_model(config: Mapping[str, Any], taxonomy: Taxonomy) -> Start:
    """Starts from a whole network: only its classifier may be new, and its outlier head goes."""
    options, start = config["network"], config["start"]
    source, before = load_model(start)
    _check_agreement(options, before, start)
    arguments = _with_classes(before.arguments, source.num_classes, len(taxonomy.classes))
    arguments = {k: False if k in _HEADS else v for k, v in arguments.items()}
    network = build_network(before.architecture, arguments)
    expected = network.state_dict()
    new = set()
    if before.classes != taxonomy.classes:
        new = _class_keys(before.architecture, arguments, len(taxonomy.classes))
    head = head_prefix(source)
    kept, left_out = {}, []
    for key, value in source.state_dict().items():
        if (head and key.startswith(head)) or key in new:
            left_out.append(key)
            continue
        if source.abstention and key in expected and value.shape != expected[key].shape:
            value = value[: len(expected[key])]
            left_out.append(f"{key} (the last output, the abstention class)")
        kept[key] = value
    rest = {key: value for key, value in expected.items() if key not in new}
    if misfit := compare(rest, kept):
        raise CheckpointError(f"{start} does not fit {type(network).__name__}: {misfit}")
    network.load_state_dict({**expected, **kept}, strict=True)
    provenance = {"start": {"name": before.name, **before.provenance}}
    metadata = _describe(config, taxonomy, network, arguments, before.input_scaling, provenance)
    new_keys = tuple(key for key in expected if key in new)
    return Start(network.train(), metadata, tuple(kept), new_keys, tuple(left_out))


def _check_agreement(options: Mapping[str, Any], metadata: ModelMetadata, start: str) -> None:
    """Raises ParameterError if the configuration asks for another network than the file holds."""
    if options["architecture"] != metadata.architecture:
        raise ParameterError(
            f"network.architecture is {options['architecture']}, but {start} is a "
            f"{metadata.architecture}: set network.architecture={metadata.architecture}"
        )
    for key, value in options["arguments"].items():
        if key in metadata.arguments and metadata.arguments[key] != value:
            raise ParameterError(
                f"network.arguments: {key} is {value!r}, but {metadata.arguments[key]!r} in "
                f"{start}; leave it out"
            )


def _with_classes(arguments: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """The arguments of the same network with another number of classes."""
    changed = {**arguments, "num_classes": after}
    if arguments.get("num_outputs"):  # ERFNet's, with a void class
        changed["num_outputs"] += after - before
    return changed


def _class_keys(architecture: str, arguments: Mapping[str, Any], classes: int) -> set[str]:
    """Keys whose shapes depend on the number of classes: those of every classifier."""
    with torch.device("meta"):
        one, other = (
            build_network(architecture, _with_classes(arguments, classes, n)).state_dict()
            for n in (classes, classes + 1)
        )
    return {key for key, value in one.items() if value.shape != other[key].shape}


def _describe(
    config: Mapping[str, Any],
    taxonomy: Taxonomy,
    network: SegmentationNetwork,
    arguments: Mapping[str, Any],
    scaling: InputScaling,
    provenance: dict[str, Any],
) -> ModelMetadata:
    options = config["network"]
    architecture = options["architecture"]
    if options["scaling"]:
        scaling = chosen(SCALINGS, "network.scaling", options["scaling"])
    return ModelMetadata(
        name=config["name"] or f"{architecture}_{taxonomy.name}",
        architecture=architecture,
        # A wrapped network has found some of them itself.
        arguments=dict(getattr(network, "arguments", arguments)),
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=scaling.mean,
        std=scaling.std,
        inference_size=tuple(options["inference_size"]),
        default_score=config["default_score"],
        provenance=provenance,
    )


def _modules(keys: Iterable[str]) -> list[str]:
    """The first part of each key, once."""
    return list(dict.fromkeys(key.partition(".")[0] for key in keys))
