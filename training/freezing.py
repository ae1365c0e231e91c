"""What a fine-tuning trains: parameters by part of the network, BatchNorm and dropout modes.

The choice outlives ``network.train()``: modules that are held in eval mode stay there.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType

from torch import nn

from anomaly_seg_ros.errors import ParameterError

PARTS = ("last_layer", "classification_head", "decoder", "upper", "all")
MODES = ("train", "eval")

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Trained:
    """What :func:`set_trainable` chose; prints itself.

    Attributes:
        part: Of the network.
        modules: Paths of the trained modules; ``""`` is the whole network.
        trained_parameters: Numbers that the optimizer changes.
        all_parameters: Numbers in all.
        batchnorm: Layers whose statistics are updated, and layers in all.
        dropout: Layers that drop, and layers in all (those with rate 0 do not count).
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


def set_trainable(
    network: nn.Module,
    part: str,
    batchnorm: str = "eval",
    frozen_parts: str = "eval",
    outlier_head: bool = True,
) -> Trained:
    """Freezes everything but a part of the network, and puts it in training mode.

    The outlier head is trained with whatever part, and its BatchNorm updates its statistics,
    because it starts from nothing.

    Args:
        network: Declares ``trainable_parts``, module paths by part name; changed in place. May be
            called again.
        part: ``last_layer`` (the classifier), ``classification_head`` (what PEBAL trains as its
            ``final`` block: the last stage of the decoder and the classifier), ``decoder``,
            ``upper`` (the decoder and the deep half of the trunk: its first stages are costly and
            general) or ``all`` (what the forward pass uses).
        batchnorm: ``train`` updates the statistics of the trained part and normalises with the
            batch's; ``eval`` keeps the running ones. Its weight and bias are trained either way.
        frozen_parts: Mode of BatchNorm and dropout in what is not trained. PEBAL's public code
            leaves them in ``train``.
        outlier_head: False freezes the head as well, for a loss that does not use it.

    Returns:
        A summary that prints what is trained.

    Raises:
        ParameterError: Unknown part or mode, or the network does not declare it.
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
    if head is not None and outlier_head and "" not in paths:
        paths = (*paths, "outlier_head")
    trained = {m for path in paths for m in network.get_submodule(path).modules()}
    head_modules = set() if head is None else set(head.modules())
    if not outlier_head:
        trained -= head_modules

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
    if part not in parts:
        raise ParameterError(
            f"{type(network).__name__} does not declare the part {part!r}; it has "
            + ", ".join(parts)
        )
    return parts[part]


def _hold_in_eval(network: nn.Module, paths: tuple[str, ...]) -> None:
    """Makes ``network.train()`` leave these modules in eval mode."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        type(self).train(self, mode)
        for path in paths:
            self.get_submodule(path).training = False
        return self

    # On the instance: a wrapper such as DistributedDataParallel calls it for its children, and
    # a deep copy (the averaged weights) binds it to the copy.
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
