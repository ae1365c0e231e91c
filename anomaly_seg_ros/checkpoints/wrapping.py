# SPDX-License-Identifier: Apache-2.0
"""Networks of other packages as models of this one: the network, its metadata and its weights.

network, metadata = wrap("torchvision:deeplabv3_resnet50", weights=state_dict)
save_model(Path("mine.safetensors"), network, metadata)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.fit import compare, load_strictly
from anomaly_seg_ros.checkpoints.keys import (
    COUNTER,
    LEFTOVERS,
    branch,
    is_leftover,
    preferred,
    prefixes_before,
)
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.checkpoints.recognise import Recognised, adapt
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.input_scaling import IMAGENET
from anomaly_seg_ros.models.wrapped import WrappedNetwork
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy

# WrappedNetwork keeps the foreign network under this name.
_PREFIX = "network."


def wrap(
    network: nn.Module | str,
    taxonomy: Taxonomy | str = "cityscapes",
    *,
    name: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
    factory: str | None = None,
    mean: tuple[float, float, float] = IMAGENET.mean,
    std: tuple[float, float, float] = IMAGENET.std,
    inference_size: tuple[int, int] = (512, 1024),
    provenance: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> tuple[WrappedNetwork, ModelMetadata]:
    """Wraps a network and describes it.

    Args:
        network: A factory's name (see :func:`~anomaly_seg_ros.models.external.build_external`), or
            the network itself, whose weights are kept.
        taxonomy: The classes of the logits, in order; or the name of a file under
            ``config/taxonomies``.
        name: Shown to people; the factory's or the class's name if None.
        weights: State dict for a factory's network; loaded strictly.
        factory: What builds ``network`` if that is a network; without it the result works in this
            process but no file of it can be loaded again.
        mean: Input scaling per RGB channel, on [0, 1]: ``(x / 255 - mean) / std``.
        std: See ``mean``.
        inference_size: Default (height, width) of the network input.
        provenance: Free form: data, commands, figures, licence.
        **arguments: Arguments of :class:`~anomaly_seg_ros.models.wrapped.WrappedNetwork`:
            ``factory_arguments``, ``pre_logits``, ``classifier``, ``size_multiple``, ...

    Returns:
        The network in eval mode and its metadata, ready for
        :func:`~anomaly_seg_ros.checkpoints.loading.save_model`.

    Raises:
        CheckpointError: Unknown factory, or weights that do not fit it exactly.
        ParameterError: Layers or sizes that do not fit.
    """
    taxonomy = load_taxonomy(taxonomy) if isinstance(taxonomy, str) else taxonomy
    num_classes = len(taxonomy.classes)
    if isinstance(network, str):
        source = name = name or network
        wrapped = WrappedNetwork(num_classes, network, **arguments)
    elif factory is None:
        source = name = name or type(network).__name__
        wrapped = WrappedNetwork.around(network, num_classes=num_classes, **arguments)
    else:
        source = name = name or factory
        wrapped = WrappedNetwork(num_classes, factory, **arguments)
        weights = network.state_dict() if weights is None else weights
    if weights is not None:
        load_strictly(wrapped.network, weights, source)
    multiple = wrapped.size_multiple
    if any(side <= 0 or side % multiple for side in inference_size):
        raise ParameterError(
            f"inference_size {inference_size[0]} x {inference_size[1]}: height and width must be "
            f"positive multiples of size_multiple {multiple}"
        )
    metadata = ModelMetadata(
        name=name,
        architecture="wrapped",
        arguments=wrapped.arguments,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=mean,
        std=std,
        inference_size=inference_size,
        provenance=dict(provenance or {}),
    )
    return wrapped.eval(), metadata


def recognise_wrapped(
    checkpoint: Checkpoint, factory: str, taxonomy: Taxonomy, arguments: Mapping[str, Any]
) -> Recognised:
    """A checkpoint as the wrapped network that a factory builds.

    Args:
        checkpoint: Its keys are the foreign network's own.
        factory: See :func:`~anomaly_seg_ros.models.external.build_external`, such as
            ``torchvision:deeplabv3_resnet50``.
        taxonomy: The classes, which decide the number of outputs.
        arguments: For :class:`~anomaly_seg_ros.models.wrapped.WrappedNetwork`.

    Raises:
        CheckpointError, ParameterError: The network cannot be built or wrapped.
    """
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
    # Without a whole set, the difference from the likeliest names is reported.
    chosen = preferred(prefixes) if prefixes else taken
    part = branch(whole, chosen, prefixes)
    named = {_PREFIX + key: tensor for key, tensor in part.tensors.items()}
    tensors, changes = adapt(named, expected, _PREFIX)
    return Recognised(
        path=checkpoint.path,
        release=factory,
        metadata=metadata,
        network=network,
        tensors=tensors,
        misfit=compare(expected, tensors).also_unexpected(part.conflicts(own)),
        changes=(*checkpoint.changes, *part.account(), *changes),
        prefix=chosen.removeprefix(taken),
    )
