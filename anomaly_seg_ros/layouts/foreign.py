"""Weights of a network of another package, under our contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomaly_seg_ros.layouts.checkpoint import Checkpoint
from anomaly_seg_ros.layouts.fit import compare
from anomaly_seg_ros.layouts.labels import Labels
from anomaly_seg_ros.layouts.recognise import Recognised, adapt
from anomaly_seg_ros.models.wrapping import wrap
from anomaly_seg_ros.taxonomy import Taxonomy

# WrappedNetwork keeps the foreign network under this name.
_PREFIX = "network."


def as_foreign(
    checkpoint: Checkpoint, factory: str, labels: Labels, arguments: Mapping[str, Any]
) -> Recognised:
    """A checkpoint as the wrapped network that a factory builds.

    Args:
        checkpoint: Its keys are the foreign network's own.
        factory: See :func:`~anomaly_seg_ros.models.external.build_external`, such as
            ``torchvision:deeplabv3_resnet50``.
        labels: The classes, which decide the number of outputs.
        arguments: Of :class:`~anomaly_seg_ros.models.wrapped.WrappedNetwork`.

    Raises:
        CheckpointError, ParameterError: The network cannot be built or wrapped.
    """
    taxonomy = Taxonomy(factory, labels.classes, labels.palette)
    network, metadata = wrap(factory, taxonomy, **arguments)
    expected = network.state_dict()
    # A wrapper's name, such as "model.", may be the network's own as well: give it back then.
    prefixes = checkpoint.prefixes
    for first in range(len(prefixes), -1, -1):
        prefix = _PREFIX + "".join(prefixes[first:])
        named = {prefix + key: tensor for key, tensor in checkpoint.tensors.items()}
        tensors, changes = adapt(named, expected, prefix)
        misfit = compare(expected, tensors)
        if not misfit:
            break
    return Recognised(
        release=factory,
        metadata=metadata,
        tensors=tensors,
        misfit=misfit,
        changes=(*checkpoint.changes, *changes),
    )
