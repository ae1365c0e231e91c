# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights for the trunks of networks, from torchvision, a package, or a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_seg_ros.checkpoints.fit import compare
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import adapt
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError, ParameterError, first_line
from anomaly_seg_ros.models import densenet, resnet101, wide_resnet38
from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone
from anomaly_seg_ros.models.outlier_branch import OutlierBranch

# torchvision's file names end in the first digits of their SHA-256.
_HASH = re.compile(r"-([0-9a-f]+)\.")


@dataclass(frozen=True)
class TrunkWeights:
    """Public ImageNet weights of an architecture's trunk.

    Attributes:
        landmarks: Keys that tell such a file from one of the whole network.
        rename: Maps the published tensors to the keys of our network; leaves out ImageNet's
            classifier by name, and nothing else.
        published: torchvision's name of the weights; "" if it has none.
        elsewhere: Where else to get them.
    """

    landmarks: tuple[str, ...]
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    published: str = ""
    elsewhere: str = ""


TRUNKS: dict[str, TrunkWeights] = {
    "ladder_densenet121": TrunkWeights(
        landmarks=("features.conv0.weight", "classifier.weight"),
        rename=lambda tensors: {
            f"backbone.{key}": value
            for key, value in densenet.remap_imagenet_keys(tensors).items()
        },
        published="DenseNet121_Weights.IMAGENET1K_V1",
    ),
    "resnet101": TrunkWeights(
        landmarks=("conv1.weight", "fc.weight"),
        rename=resnet101.rename_imagenet_keys,
        published="ResNet101_Weights.IMAGENET1K_V1",
    ),
    "wide_resnet38": TrunkWeights(
        landmarks=("mod1.conv1.weight", "classifier.fc.weight"),
        rename=wide_resnet38.without_imagenet_classifier,
        elsewhere="wider_resnet38.pth.tar (ImageNet) or cityscapes_cv0_wideresnet38_nosdcaug.pth "
        "(Cityscapes) of github.com/NVIDIA/semantic-segmentation, branch sdcnet",
    ),
}


@dataclass(frozen=True)
class Loaded:
    """What became of a file's tensors.

    Attributes:
        kept: Keys of the network that were loaded.
        left_out: Keys of the file that were not.
    """

    kept: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def weights_of(architecture: str, arguments: Mapping[str, Any]) -> TrunkWeights | None:
    """The ImageNet weights of a network's trunk; None if there are none for it."""
    if architecture != "wrapped":
        return TRUNKS.get(architecture)
    kind, _, builder = str(arguments.get("factory", "")).partition(":")
    return _weights_of_torchvision(builder) if kind == "torchvision" else None


def is_trunk_file(path: Path, architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a file holds ImageNet weights of this network's trunk, not a whole network.

    Raises:
        CheckpointError: It cannot be read.
    """
    weights = weights_of(architecture, arguments)
    tensors = read_checkpoint(path).tensors
    return weights is not None and all(key in tensors for key in weights.landmarks)


def load_imagenet(
    network: SegmentationNetwork, architecture: str, arguments: Mapping[str, Any]
) -> Loaded:
    """Gives the trunk its public ImageNet weights, which are downloaded if torch has none yet.

    Args:
        network: Changed in place, trunk only.
        architecture: Its key in the registry.
        arguments: Its arguments.

    Raises:
        CheckpointError: There are none for this network, they cannot be downloaded, or they do not
            fit it.
        ParameterError: The arguments choose a trunk that they do not fit.
    """
    if architecture == "deeplab_v3plus_lite":
        return _load_lite(network)
    weights = weights_of(architecture, arguments)
    if weights is None or not weights.published:
        known = ", ".join(["deeplab_v3plus_lite", *(k for k, v in TRUNKS.items() if v.published)])
        remedy = f"get {weights.elsewhere} and " if weights is not None else ""
        raise CheckpointError(
            f"start: imagenet: no weights of {architecture} can be downloaded; {remedy}set "
            f"start=FILE, or start='' for random weights (imagenet is for {known} and "
            "torchvision's networks)"
        )
    _check_stem(network)
    return load_trunk(network, _downloaded(weights.published), weights)


def load_trunk(network: SegmentationNetwork, path: Path, weights: TrunkWeights) -> Loaded:
    """Loads a file of ImageNet weights into the trunk: every tensor of it, or none.

    Args:
        network: Changed in place, trunk only.
        path: The file.
        weights: What it holds.

    Raises:
        CheckpointError: The file cannot be read, or a tensor is missing, left over or of another
            shape.
        ParameterError: The network's arguments choose another trunk.
    """
    _check_stem(network)
    expected = {
        key: value
        for key, value in network.state_dict().items()
        if key.startswith(tuple(f"{part}." for part in network.trunk))
    }
    found = read_checkpoint(path).tensors
    try:
        renamed = weights.rename(found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors, _ = adapt(renamed, expected)
    if misfit := compare(expected, tensors):
        raise CheckpointError(
            f"{path} does not fit the trunk of {type(network).__name__}: {misfit}"
        )
    network.load_state_dict({**network.state_dict(), **tensors}, strict=True)
    used = {id(value) for value in renamed.values()}
    left_out = (key for key, value in found.items() if id(value) not in used)
    return Loaded(tuple(expected), tuple(left_out))


def _check_stem(network: SegmentationNetwork) -> None:
    stem = getattr(network, "stem", "plain")
    if stem != "plain":
        raise ParameterError(
            f"network.arguments: the stem of ImageNet's ResNet101 is one 7x7 convolution, not "
            f"{stem!r}; set stem to plain, or start from a model with a {stem} stem"
        )


def _load_lite(network: SegmentationNetwork) -> Loaded:
    """EfficientNet-Lite's weights come in packages of the training's requirements."""
    try:
        trunk = load_imagenet_backbone(network.backbone.variant)  # type: ignore[union-attr]
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise CheckpointError(f"start: imagenet: {first_line(error)}") from error
    network.backbone = trunk
    return Loaded(tuple(f"backbone.{key}" for key in trunk.state_dict()))


def load_context(branch: OutlierBranch) -> None:
    """Loads ImageNet's weights into a branch's context trunk, if it has one.

    Raises:
        CheckpointError: The package that carries them is not installed.
    """
    if branch.context is None:
        return
    try:
        trunk = load_imagenet_backbone(branch.context.variant)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise CheckpointError(f"outlier_branch.context: {first_line(error)}") from error
    branch.context.load_state_dict(trunk.state_dict(), strict=True)


def _weights_of_torchvision(builder: str) -> TrunkWeights:
    """Those that a segmentation builder of torchvision would download for its trunk."""
    try:
        from torchvision import models

        parameters = inspect.signature(models.get_model_builder(builder)).parameters
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"network.arguments: torchvision:{builder}: {error}") from error
    name = str(parameters["weights_backbone"].default)

    def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The trunk is a ResNet without "fc", or the "features" of a MobileNet.
        trunk = {k: v for k, v in tensors.items() if not k.startswith(("fc.", "classifier."))}
        return {f"network.backbone.{k.removeprefix('features.')}": v for k, v in trunk.items()}

    resnet = ("conv1.weight", "fc.weight")
    landmarks = resnet if "ResNet" in name else ("features.0.0.weight", "classifier.0.weight")
    return TrunkWeights(landmarks, rename, name)


def _downloaded(name: str) -> Path:
    """The file of torchvision's weights in torch's cache, where it is put first if missing.

    Raises:
        CheckpointError: torchvision is missing or the file cannot be downloaded; names the URL
            and the path.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise CheckpointError(f"start: imagenet needs torchvision: {error}") from error
    url = models.get_weight(name).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    found = _HASH.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), found and found[1])
    # A RuntimeError: the hash is another.
    except (OSError, RuntimeError, HTTPException) as error:
        raise CheckpointError(
            f"start: imagenet: {url} cannot be downloaded ({first_line(error)}); put the file at "
            f"{path}, or anywhere else and set start=FILE"
        ) from error
    return path
