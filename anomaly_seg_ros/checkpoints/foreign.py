"""Weights of a network of another package, under our contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomaly_seg_ros.checkpoints.checkpoint_file import Checkpoint
from anomaly_seg_ros.checkpoints.class_labels import Labels
from anomaly_seg_ros.checkpoints.content import LEFTOVERS, is_leftover
from anomaly_seg_ros.checkpoints.fit import compare
from anomaly_seg_ros.checkpoints.prefixes import branch, preferred, prefixes_before
from anomaly_seg_ros.checkpoints.recognise import COUNTER, Recognised, adapt
from anomaly_seg_ros.checkpoints.wrapping import wrap
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
    own = {key.removeprefix(_PREFIX): tensor for key, tensor in expected.items()}
    # A wrapper's name, such as "model.", may be the network's own as well: give it back.
    taken = "".join(checkpoint.prefixes)
    whole = {
        key if any(is_leftover(key, name) for name in LEFTOVERS) else taken + key: tensor
        for key, tensor in checkpoint.tensors.items()
    }
    prefixes = prefixes_before((key for key in own if not key.endswith(COUNTER)), whole)
    # Without a whole set, the difference from the likeliest names is told.
    chosen = preferred(prefixes) if prefixes else taken
    part = branch(whole, chosen, prefixes)
    named = {_PREFIX + key: tensor for key, tensor in part.tensors.items()}
    tensors, changes = adapt(named, expected, _PREFIX)
    return Recognised(
        release=factory,
        metadata=metadata,
        tensors=tensors,
        misfit=compare(expected, tensors).also_unexpected(part.conflicts(own)),
        changes=(*checkpoint.changes, *part.account(), *changes),
        prefix=chosen.removeprefix(taken),
    )
