# SPDX-License-Identifier: Apache-2.0
"""Networks prepared for training: loading, extra outputs, freezing, optimizer groups.

oneDNN's bfloat16 backward of strided and of 5x5 depthwise convolutions is slow: on a 2-core
machine with AMX, 8 x 144 x 64 x 64 with a strided 5x5 kernel takes 29 ms for the input gradient
and 27 ms for the weight gradient, against 0.8 and 6 ms in float32
(``benchmarks/depthwise_backward.py``). That is 60 % of a training step, so
:func:`use_float32_backward` runs these backward passes in float32. The forward pass and all other
layers are left to autocast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.outlier_branch import OutlierBranch, branch_options
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import Taxonomy
from training.losses.abstention import add_abstention
from training.losses.base import OpenSetLoss
from training.pretrained import load_context

PARTS = ("last_layer", "classification_head", "decoder", "upper", "all", "outlier_head")
MODES = ("train", "eval")
BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def load_for_training(
    model: str,
    taxonomy: Taxonomy,
    outlier_head: bool | Mapping[str, Any] = False,
    abstention: bool = False,
) -> tuple[nn.Module, ModelMetadata]:
    """Loads a model, with the outputs that a loss needs.

    Args:
        model: A name, such as ``closed_set``, or a file.
        taxonomy: Taxonomy of the training labels; the model must have the same classes.
        outlier_head: Add an outlier head with random weights if there is none, see
            :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`; all other weights
            must be in the file, but for a context trunk, which gets its ImageNet weights.
        abstention: Add a logit for PEBAL's abstention class. The metadata does not list it, and
            :func:`as_described` removes it.

    Returns:
        The network in train mode, on the CPU, and its metadata without the old calibration.

    Raises:
        CheckpointError: The file does not fit its network, or the network has no outlier head.
        ParameterError: The model has other classes than the labels, or another outlier branch.
    """
    network, metadata = load_model(model)
    check_classes(metadata, taxonomy, model)
    if isinstance(outlier_head, Mapping) and outlier_head.get("context"):
        scaling = {"mean": list(metadata.mean), "std": list(metadata.std)}
        outlier_head = {**outlier_head, **scaling}
    if outlier_head is not False and network.outlier_head is None:
        arguments = {**metadata.arguments, "outlier_head": outlier_head}
        metadata = replace(metadata, arguments=arguments)
        larger = build_network(metadata.architecture, metadata.arguments)
        head = head_prefix(larger)
        if isinstance(larger.outlier_head, OutlierBranch):
            load_context(larger.outlier_head)
        new = {k: v for k, v in larger.state_dict().items() if k.startswith(head)}
        load_strictly(larger, {**network.state_dict(), **new}, model)
        network = larger
    elif isinstance(outlier_head, Mapping):
        _check_same_branch(outlier_head, metadata.arguments["outlier_head"], model)
    if abstention:
        network = add_abstention(network)
    return network.train(), replace(metadata, calibration={}, statistics=None)


def load_configured(
    config: Mapping[str, Any], loss: OpenSetLoss, taxonomy: Taxonomy
) -> tuple[nn.Module, ModelMetadata]:
    """Loads the network of a fine-tuning's configuration, see :func:`load_for_training`.

    Args:
        config: Configuration of ``training.fine_tune``.
        loss: Built from it; decides on the outputs.
        taxonomy: Taxonomy of the training labels.
    """
    return load_for_training(
        config["model"],
        taxonomy,
        outlier_head=loss.needs_outlier_head and (config.get("outlier_branch") or True),
        abstention=loss.extra_logits > 0,
    )


def _check_same_branch(wanted: Mapping[str, Any], there: Any, model: str) -> None:
    """Raises ParameterError if a model has another outlier head than the options ask for."""

    def comparable(options: Mapping[str, Any]) -> dict[str, Any]:
        filled = branch_options(options).items()
        return {key: tuple(x) if isinstance(x, list) else x for key, x in filled}

    if isinstance(there, Mapping) and comparable(there) == comparable(wanted):
        return
    raise ParameterError(
        f"outlier_branch {dict(wanted)}: model {model!r} has another outlier head, {there}; start "
        "from a model without one, or leave the options out"
    )


def check_classes(metadata: ModelMetadata, taxonomy: Taxonomy, model: str) -> None:
    """Refuses a model whose classes differ from those of the labels.

    Raises:
        ParameterError: The classes differ; the message names the first difference.
    """
    if metadata.classes == taxonomy.classes:
        return
    if len(metadata.classes) != len(taxonomy.classes):
        raise ParameterError(
            f"model {model!r} has {len(metadata.classes)} classes, the labels have "
            f"{len(taxonomy.classes)} (taxonomy {taxonomy.name}): {_shown(metadata.classes)} "
            f"against {_shown(taxonomy.classes)}; training.closed_set with this start gives it "
            "the labels'"
        )
    pairs = zip(metadata.classes, taxonomy.classes, strict=True)
    which, (ours, theirs) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    raise ParameterError(
        f"model {model!r}: class {which} is {ours!r}, but {theirs!r} in the labels "
        f"(taxonomy {taxonomy.name})"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def as_described(network: nn.Module, metadata: ModelMetadata) -> nn.Module:
    """Copies a trained network without extra logits, to match its metadata.

    Returns:
        The copy, in eval mode, on the CPU.
    """
    narrow = build_network(metadata.architecture, metadata.arguments)
    expected = narrow.state_dict()
    state = {
        key: value.cpu()[tuple(slice(n) for n in expected[key].shape)]
        for key, value in network.state_dict().items()
    }
    load_strictly(narrow, state, metadata.name)
    return narrow.eval()


def parameter_groups(
    model: nn.Module, lr: float, trunk_lr: float, head_lr: float, weight_decay: float
) -> list[dict]:
    """Builds optimizer groups of the trainable parameters.

    Args:
        model: A network of the package; frozen parameters are left out.
        lr: Learning rate of everything after the pre-trained trunk.
        trunk_lr: Learning rate of the trunk, see
            :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        head_lr: Learning rate of the outlier head.
        weight_decay: Weight decay of weights; norms and biases get none.
    """
    groups = []
    head = head_prefix(model)
    trunk = tuple(f"{path}." for path in model.trunk)

    def part_of(name: str) -> str:
        if head and name.startswith(head):
            return "head"
        return "trunk" if name.startswith(trunk) else "decoder"

    rates = {"trunk": trunk_lr, "decoder": lr, "head": head_lr}
    for part, rate in rates.items():
        chosen = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and part_of(name) == part
        ]
        decayed = [p for p in chosen if p.ndim > 1]
        plain = [p for p in chosen if p.ndim <= 1]
        groups.append({"params": decayed, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": plain, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def head_prefix(network: nn.Module) -> str:
    """Prefix of the outlier head's parameters ("logits_ood." in public files), "" without one."""
    head = network.outlier_head
    names = (f"{name}." for name, module in network.named_modules() if module is head)
    return "" if head is None else next(names)


@dataclass(frozen=True)
class Trained:
    """Printable summary of what :func:`set_trainable` chose.

    Attributes:
        part: Trained part of the network.
        modules: Paths of the trained modules; ``""`` is the whole network.
        trained_parameters: Number of trained values.
        all_parameters: Number of all values.
        batchnorm: Number of layers with updated statistics, and of all BatchNorm layers.
        dropout: Number of active layers, and of all dropout layers with a rate above 0.
    """

    part: str
    modules: tuple[str, ...]
    trained_parameters: int
    all_parameters: int
    batchnorm: tuple[int, int]
    dropout: tuple[int, int]

    def __str__(self) -> str:
        where = "" if "" in self.modules else f" ({', '.join(self.modules)})"
        return (
            f"training {self.part}{where}: {self.trained_parameters:,} of "
            f"{self.all_parameters:,} parameters; "
            f"BatchNorm statistics updated in {self.batchnorm[0]} of {self.batchnorm[1]} layers; "
            f"dropout active in {self.dropout[0]} of {self.dropout[1]} layers"
        )


def check_multiples(network: nn.Module, sizes: Mapping[str, Sequence[int]]) -> None:
    """Refuses input sizes that the network does not support.

    Args:
        network: The network.
        sizes: (height, width) by configuration key.

    Raises:
        ParameterError: A size is no multiple of what the network needs; the message names its key.
    """
    multiple = network.size_multiple
    for key, size in sizes.items():
        if any(n < 1 or n % multiple for n in size):
            raise ParameterError(
                f"{key} {size}: height and width must be multiples of {multiple} for "
                f"{type(network).__name__}"
            )


def class_bias(network: nn.Module) -> nn.Parameter:
    """The bias of the last layer, whose first K numbers are of the classes.

    Of several last layers, whose outputs are added, it is that of the first one that has a bias.

    Raises:
        ParameterError: There is none, as in the public layouts of WideResNet38 and of ResNet101
            with a plain stem.
    """
    paths = network.trainable_parts.get("last_layer", ())
    biases = (getattr(network.get_submodule(path), "bias", None) for path in paths)
    found = next((bias for bias in biases if bias is not None), None)
    if found is None:
        raise ParameterError(
            f"balance_classes: {type(network).__name__} has no classifier with a bias for each "
            "class; set it to false"
        )
    return found


def set_trainable(
    network: nn.Module,
    part: str,
    batchnorm: str = "eval",
    frozen_parts: str = "eval",
    outlier_head: bool = True,
) -> Trained:
    """Freezes all but one part of a network and puts the network in training mode.

    The choice outlives ``network.train()``: modules held in eval mode stay there. The outlier head
    is trained with any part, and its BatchNorm updates its statistics, because it starts from
    scratch.

    Args:
        network: Network that declares ``trainable_parts``, module paths by part name; changed in
            place. Repeated calls are fine.
        part: ``outlier_head`` (nothing else: the closed set stays as it is), ``last_layer`` (the
            classifier), ``classification_head`` (what PEBAL trains as its ``final`` block: the
            last stage of the decoder and the classifier), ``decoder``, ``upper`` (the decoder and
            the deep half of the trunk, whose first stages are costly and general) or ``all``
            (everything that the forward pass uses).
        batchnorm: ``train`` updates the statistics of the trained part and normalises with those
            of the batch; ``eval`` uses the running statistics. Weight and bias are trained either
            way.
        frozen_parts: Mode of BatchNorm and dropout in the frozen parts. PEBAL's public code leaves
            them in ``train``.
        outlier_head: False freezes the head as well, for a loss that does not use it.

    Returns:
        A printable summary of what is trained.

    Raises:
        ParameterError: The part or mode is unknown, or the network does not declare it.
    """
    for name, value, allowed in (
        ("part", part, PARTS),
        ("batchnorm", batchnorm, MODES),
        ("frozen_parts", frozen_parts, MODES),
    ):
        if value not in allowed:
            raise ParameterError(f"{name} {value!r}, expected one of {', '.join(allowed)}")
    head = network.outlier_head
    paths = _paths(network, part)
    if head is not None and outlier_head and not {"", "outlier_head"} & set(paths):
        paths = (*paths, "outlier_head")
    trained = {m for path in paths for m in network.get_submodule(path).modules()}
    head_modules = set() if head is None else set(head.modules())
    if not outlier_head:
        trained -= head_modules
    for path in getattr(head, "frozen", ()):
        if (fixed := getattr(head, path)) is not None:
            trained -= set(fixed.modules())

    held = []
    for path, module in network.named_modules():
        module_is_trained = module in trained
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(module_is_trained)
        if isinstance(module, BATCHNORM) and module_is_trained and module not in head_modules:
            mode = batchnorm
        else:
            mode = "train" if module_is_trained else frozen_parts
        if mode == "eval" and isinstance(module, BATCHNORM + DROPOUT):
            held.append(path)
    _hold_in_eval(network, tuple(held))
    network.train()
    return _summary(network, part, paths)


def _paths(network: nn.Module, part: str) -> tuple[str, ...]:
    parts = {"all": ("",), **network.trainable_parts}
    if network.outlier_head is not None:
        parts["outlier_head"] = ("outlier_head",)
    if part not in parts:
        raise ParameterError(
            f"{type(network).__name__} does not declare the part {part!r}; it has "
            + ", ".join(parts)
        )
    return parts[part]


def _hold_in_eval(network: nn.Module, paths: tuple[str, ...]) -> None:
    """Makes ``network.train()`` keep these modules in eval mode."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        type(self).train(self, mode)
        for path in paths:
            self.get_submodule(path).training = False
        return self

    # Set on the instance, because wrappers such as DistributedDataParallel call it for their
    # children, and a deep copy (the averaged weights) binds it to the copy.
    network.train = MethodType(train, network)


def _summary(network: nn.Module, part: str, paths: tuple[str, ...]) -> Trained:
    parameters = list(network.parameters())
    norms = [m for m in network.modules() if isinstance(m, BATCHNORM)]
    dropouts = [m for m in network.modules() if isinstance(m, DROPOUT) and m.p > 0]
    return Trained(
        part,
        paths,
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(p.numel() for p in parameters),
        (sum(m.training for m in norms), len(norms)),
        (sum(m.training for m in dropouts), len(dropouts)),
    )


class _Float32Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *geometry: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = [list(values) for values in geometry]  # stride, padding, dilation
        groups = weight.shape[0]
        return F.conv2d(x, weight.to(x.dtype), None, *geometry, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad.float(),
            x.float(),
            weight.float(),
            None,
            *ctx.geometry,
            False,
            [0, 0],
            weight.shape[0],
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        grad_x = None if grad_x is None else grad_x.to(x.dtype)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        x = x.to(torch.get_autocast_dtype("cpu"))
    if x.dtype == torch.float32 or x.device.type != "cpu":
        return F.conv2d(
            x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    return _Float32Backward.apply(x, conv.weight, conv.stride, conv.padding, conv.dilation)


def use_float32_backward(model: nn.Module) -> int:
    """Makes slow bfloat16 depthwise convolutions compute their backward pass in float32.

    Changes ``model`` in place; the state dict stays the same. See the module docstring.

    Returns:
        Number of convolutions changed.
    """
    switched = 0
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels == module.out_channels > 1
            and (module.kernel_size[0] > 3 or module.stride[0] > 1)
            and module.bias is None
        ):
            module.forward = MethodType(_forward, module)
            switched += 1
    return switched
