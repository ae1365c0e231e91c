# SPDX-License-Identifier: Apache-2.0
"""Finds out how a foreign network is built, by one run on a small image.

What is found is written into the model's metadata, so a model file is never probed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError

_INTERPOLATIONS: tuple[dict[str, Any], ...] = (
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "bicubic", "align_corners": False},
    {"mode": "bicubic", "align_corners": True},
    {"mode": "nearest"},
)
# Relative to the largest logit: allows another order of summation, not another function.
_TOLERANCE = 1e-4
# Strides of the features that an outlier branch reads. Coarser maps are image-level context.
_FINEST, _COARSEST = 4, 32


@dataclass(frozen=True)
class Layout:
    """How a network is built.

    Attributes:
        classifier: Paths of the layers that make the logits, in the order in which they run;
            the logits are the sum of their outputs.
        pre_logits_channels: Channels that these layers read together.
        output_stride: Rows of the image for each row of the logits.
        align_corners: What the network upsamples its logits with; False where it does not.
        trainable_parts: Paths by part, see
            :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        trunk: Paths of the part that usually comes pre-trained; empty where none stands out.
        feature_layers: Channels by path of the last layer of the trunk at each stride from 4 on.
    """

    classifier: tuple[str, ...]
    pre_logits_channels: int
    output_stride: int
    align_corners: bool
    trainable_parts: Mapping[str, tuple[str, ...]]
    trunk: tuple[str, ...]
    feature_layers: Mapping[str, int]


class _Call(NamedTuple):
    path: str
    module: nn.Module
    read: Tensor | None
    output: Tensor | None


class _Classifier(NamedTuple):
    path: str
    read: Tensor
    output: Tensor


def probe(
    network: nn.Module,
    num_outputs: int,
    size_multiple: int,
    pre_logits: str | None = None,
    classifier: Sequence[str] | None = None,
    returns_logits: bool = True,
) -> Layout:
    """Runs a network once on noise and reads off its layout.

    Args:
        network: Maps (N, 3, H, W) to a tensor, or to a mapping with ``out`` or ``logits``, or to
            a sequence whose first entry is the tensor; left as it was.
        num_outputs: Channels of the logits.
        size_multiple: H and W must be multiples of it.
        pre_logits: Path of the layer whose output the classifier reads.
        classifier: Paths of the layers that make the logits; found from ``pre_logits`` if None.
        returns_logits: The network returns its logits, interpolated or not, which is checked.
            False, for one that ends in a softmax, say, also sets ``align_corners`` to False.

    Raises:
        ParameterError: A layer that does not exist, does not run or does not fit; names it.
    """
    images, calls, returned = _run(network, size_multiple)
    if classifier is None:
        classifier = (_find_classifier(calls, pre_logits, num_outputs),)
    made = _classifier_calls(network, calls, classifier, num_outputs)
    if pre_logits is not None:
        _check_pre_logits(calls, pre_logits, made)
    logits = torch.stack([call.output for call in made]).sum(0)
    align_corners = returns_logits and _check_returned(returned, logits, made)
    strides = {a / b for a, b in zip(images.shape[-2:], logits.shape[-2:], strict=True)}
    if len(strides) > 1 or not (stride := strides.pop()).is_integer():
        raise ParameterError(
            f"logits of {tuple(logits.shape[-2:])} for an image of {tuple(images.shape[-2:])}: no "
            f"whole output stride; is size_multiple {size_multiple} right?"
        )
    paths = tuple(call.path for call in made)
    used = _used(calls, paths)
    trunk, parts = _parts(network, used, paths)
    channels = sum(call.read.shape[1] for call in made)
    layers = _feature_layers(calls, trunk, paths, images)
    return Layout(paths, channels, int(stride), align_corners, parts, trunk, layers)


def _run(network: nn.Module, size_multiple: int) -> tuple[Tensor, list[_Call], Any]:
    calls: list[_Call] = []

    def hook_of(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            read = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            tensor = output if isinstance(output, Tensor) else None
            # Cloned: a layer behind may work in place.
            calls.append(_Call(path, module, _copy(read), _copy(tensor)))

        return hook

    modes = {module: module.training for module in network.modules()}
    handles = [m.register_forward_hook(hook_of(path)) for path, m in network.named_modules()]
    parameter = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 4 * size_multiple, 6 * size_multiple, generator=generator)
    images = noise.to(parameter.device, parameter.dtype)
    try:
        with torch.no_grad():
            returned = network.eval()(images)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise ParameterError(
            f"{type(network).__name__} does not run on images of {tuple(images.shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return images, calls, returned


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _find_classifier(calls: Sequence[_Call], pre_logits: str | None, num_outputs: int) -> str:
    if pre_logits is None:
        raise ParameterError("name the layer whose output the classifier reads (pre_logits)")
    start = _last_index(calls, pre_logits)
    for call in calls[start + 1 :]:
        if _has_parameters(call.module) and _is_dense(call.output, num_outputs):
            return call.path
    behind = [call.path for call in calls[start + 1 :] if _has_parameters(call.module)]
    raise ParameterError(
        f"no layer with {num_outputs} output channels runs behind the pre-logit layer "
        f"{pre_logits!r}; layers with parameters behind it: {', '.join(behind[:8]) or 'none'}"
    )


def _last_index(calls: Sequence[_Call], path: str) -> int:
    indices = [index for index, call in enumerate(calls) if call.path == path]
    if not indices:
        last = [call.path for call in calls if _has_parameters(call.module)][-8:]
        raise ParameterError(
            f"layer {path!r} does not run in the network; the last layers with parameters that "
            f"run are {', '.join(last)}"
        )
    return indices[-1]


def _classifier_calls(
    network: nn.Module, calls: Sequence[_Call], paths: Sequence[str], num_outputs: int
) -> list[_Classifier]:
    made = []
    for path in paths:
        call = calls[_last_index(calls, path)]
        shape = None if call.output is None else tuple(call.output.shape)
        if call.read is None or call.output is None or not _is_dense(call.output, num_outputs):
            raise ParameterError(
                f"classifier {path!r} gives {shape}, expected (N, {num_outputs}, h, w) "
                "from one tensor"
            )
        if not _has_parameters(call.module):
            below = [
                c.path for c in calls if c.path.startswith(path) and _has_parameters(c.module)
            ]
            raise ParameterError(
                f"classifier {path!r} has no parameters of its own; name the layer that makes the "
                f"logits, of {', '.join(below) or 'none below it'}"
            )
        if sum(other.path == path for other in calls) > 1:
            raise ParameterError(f"classifier {path!r} runs more than once in a forward pass")
        made.append(_Classifier(path, call.read, call.output))
    return sorted(made, key=lambda call: _last_index(calls, call.path))


def _check_pre_logits(
    calls: Sequence[_Call], pre_logits: str, made: Sequence[_Classifier]
) -> None:
    output = calls[_last_index(calls, pre_logits)].output
    reads = [call.read for call in made]
    if not any(_same(output, read) for read in reads):
        raise ParameterError(
            f"classifier {', '.join(call.path for call in made)} reads "
            f"{', '.join(str(tuple(read.shape)) for read in reads)}, which is not the output of "
            f"{pre_logits!r}; name another layer, or the classifier itself"
        )


def _check_returned(returned: Any, logits: Tensor, made: Sequence[_Classifier]) -> bool:
    """Refuses a classifier whose output is not what the network returns.

    Returns:
        ``align_corners`` of the interpolation between the two; False if it has none or if both
        give the same.
    """
    final = _dense_output(returned)
    fitting: list[tuple[float, bool]] = []
    for interpolation in _INTERPOLATIONS:
        candidate = F.interpolate(logits, size=final.shape[-2:], **interpolation)
        if _same(final, candidate):
            error = float((final - candidate).abs().max())
            fitting.append((error, interpolation.get("align_corners", False)))
    if not fitting:
        raise ParameterError(
            f"the network's output is no interpolation of what {', '.join(c.path for c in made)} "
            "gives: something else makes the logits (or pass returns_logits=False)"
        )
    # The best, not the first: where a bias outweighs the rest, several are within the tolerance.
    # False sorts before True.
    return min(fitting)[1]


def _dense_output(returned: Any) -> Tensor:
    if isinstance(returned, Mapping):
        returned = returned.get("out", returned.get("logits"))
    elif isinstance(returned, Sequence) and returned:
        returned = returned[0]
    if not isinstance(returned, Tensor) or returned.ndim != 4:
        raise ParameterError(
            f"the network returns a {type(returned).__name__}, expected logits (N, K, H, W), "
            "alone, first in a sequence, or as 'out' or 'logits' (or pass returns_logits=False)"
        )
    return returned


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= _TOLERANCE * max(1.0, float(b.abs().max())))


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _is_dense(output: Tensor | None, channels: int) -> bool:
    return output is not None and output.ndim == 4 and output.shape[1] == channels


def _used(calls: Iterable[_Call], classifier: Sequence[str]) -> list[str]:
    """Modules with parameters of their own that run up to the last classifier, in that order."""
    used: dict[str, None] = {}
    for call in calls:
        if _has_parameters(call.module):
            used[call.path] = None
        if call.path == classifier[-1]:
            break
    return list(used)


def _parts(
    network: nn.Module, used: Sequence[str], classifier: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The trunk and the trainable parts.

    The first branch of the module tree that runs is the trunk, if there is more than one; the
    rest is the decoder, of which the branch with the classifier is the classification head.
    """
    branches = _branches(used)
    first = next(iter(branches))
    trunk = branches.pop(first) if len(branches) > 1 else []
    decoder = [path for paths in branches.values() for path in paths]
    head = next(paths for paths in branches.values() if classifier[-1] in paths)
    positions = {path: index for index, path in enumerate(trunk)}
    upper = [
        path
        for paths in _branches(trunk).values()
        if 2 * positions[paths[-1]] >= len(trunk)
        for path in paths
    ]
    chosen = {
        "classification_head": head,
        "decoder": decoder,
        "upper": [*upper, *decoder],
        "all": [*trunk, *decoder],
    }
    parts = {part: _cover(network, set(paths)) for part, paths in chosen.items()}
    return ((first,) if trunk else ()), {"last_layer": classifier, **parts}


def _feature_layers(
    calls: Sequence[_Call],
    trunk: Sequence[str],
    classifier: Sequence[str],
    images: Tensor,
) -> dict[str, int]:
    """The last layer inside of the trunk (of all before the classifier) at each stride.

    Not a layer that runs twice, of which a hook sees the last output only, and none inside of a
    block that leads to the next stride: the features are what that block reads.
    """
    runs = Counter(call.path for call in calls)
    within = tuple(f"{path}." for path in trunk) or ("",)
    start = next(index for index, call in enumerate(calls) if call.path in classifier)
    inside = [call for call in calls[:start] if call.path.startswith(within)]
    steps: dict[str, int] = {}
    for call in inside:
        if (before := _stride(call.read, images)) and _stride(call.output, images) == 2 * before:
            steps[f"{call.path}."] = before
    last: dict[int, tuple[str, int]] = {}
    for call in inside:
        stride = _stride(call.output, images)
        leads_on = any(call.path.startswith(p) and stride == s for p, s in steps.items())
        if call.output is not None and stride and runs[call.path] == 1 and not leads_on:
            last[stride] = (call.path, call.output.shape[1])
    return dict(last[stride] for stride in sorted(last) if _FINEST <= stride <= _COARSEST)


def _stride(tensor: Tensor | None, images: Tensor) -> int:
    """Rows of the images for each row of a map; 0 if it is none, or for no whole number."""
    if tensor is None or tensor.ndim != 4 or 0 in tensor.shape:
        return 0
    rows, columns = (a / b for a, b in zip(images.shape[-2:], tensor.shape[-2:], strict=True))
    return int(rows) if rows == columns and rows.is_integer() else 0


def _branches(paths: Sequence[str]) -> dict[str, list[str]]:
    """Groups paths by the first module at which their tree branches."""
    depth = 1
    while paths:
        groups: dict[str, list[str]] = {}
        for path in paths:
            groups.setdefault(".".join(path.split(".")[:depth]), []).append(path)
        if len(groups) > 1 or next(iter(groups)) in paths:
            return groups
        depth += 1
    return {}


def _cover(network: nn.Module, owners: set[str], path: str = "") -> tuple[str, ...]:
    """The fewest paths whose modules hold the parameters of ``owners`` and no others."""
    module = network.get_submodule(path)
    inside = {p for p, m in module.named_modules(prefix=path) if _has_parameters(m)}
    if not inside & owners:
        return ()
    # A module that holds parameters itself cannot be named without its children.
    if path and (inside <= owners or path in owners):
        return (path,)
    children = (f"{path}.{name}" if path else name for name, _ in module.named_children())
    return tuple(found for child in children for found in _cover(network, owners, child))
