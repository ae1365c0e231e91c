"""Networks as training needs them: any model file, its own input scaling, an outlier head."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import Taxonomy
from training.losses.abstention import add_abstention


def load_for_training(
    model: str, taxonomy: Taxonomy, outlier_head: bool = False, abstention: bool = False
) -> tuple[nn.Module, ModelMetadata]:
    """Loads any model, with the outputs that a loss asks for.

    Args:
        model: ``default``, ``closed_set``, ``erfnet`` or a file.
        taxonomy: Of the training labels; the model must have the same classes.
        outlier_head: Adds an outlier head with random weights where there is none; everything
            else must be in the file.
        abstention: Adds a logit for PEBAL's abstention class, which the metadata does not mention;
            :func:`as_described` takes it away again.

    Returns:
        The network in train mode, on the CPU, and its metadata without the old calibration.

    Raises:
        CheckpointError: The file does not fit its network, or the network has no outlier head.
        ParameterError: The model has other classes than the labels.
    """
    network, metadata = load_model(model)
    check_classes(metadata, taxonomy, model)
    if outlier_head and network.outlier_head is None:
        metadata = replace(metadata, arguments={**metadata.arguments, "outlier_head": True})
        larger = build_network(metadata.architecture, metadata.arguments)
        head = _head_prefix(larger)
        new = {k: v for k, v in larger.state_dict().items() if k.startswith(head)}
        load_strictly(larger, {**network.state_dict(), **new}, model)
        network = larger
    if abstention:
        network = add_abstention(network)
    return network.train(), replace(metadata, calibration={}, statistics=None)


def check_classes(metadata: ModelMetadata, taxonomy: Taxonomy, model: str) -> None:
    """Refuses a model whose trainIds mean something else than the labels'.

    Raises:
        ParameterError: Names the first class that differs.
    """
    if metadata.classes == taxonomy.classes:
        return
    if len(metadata.classes) != len(taxonomy.classes):
        raise ParameterError(
            f"model {model!r} has {len(metadata.classes)} classes, the labels have "
            f"{len(taxonomy.classes)} (taxonomy {taxonomy.name})"
        )
    pairs = zip(metadata.classes, taxonomy.classes, strict=True)
    which, (ours, theirs) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    raise ParameterError(
        f"model {model!r}: class {which} is {ours!r}, but {theirs!r} in the labels "
        f"(taxonomy {taxonomy.name})"
    )


def as_described(network: nn.Module, metadata: ModelMetadata) -> nn.Module:
    """A copy of a trained network without extra logits, as its metadata describes it.

    Returns:
        In eval mode, on the CPU.
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
    """Optimizer groups of the parameters that are trained.

    Args:
        model: A network of the package; frozen parameters are left out.
        lr: Of everything behind the pre-trained trunk.
        trunk_lr: Of the trunk, see :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        head_lr: Of the outlier head.
        weight_decay: Of weights; norms and biases get none.
    """
    groups = []
    head = _head_prefix(model)
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


def _head_prefix(network: nn.Module) -> str:
    """How the outlier head's parameters are named ("logits_ood." in public files), "" without."""
    head = network.outlier_head
    names = (f"{name}." for name, module in network.named_modules() if module is head)
    return "" if head is None else next(names)
