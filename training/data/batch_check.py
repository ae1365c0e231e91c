"""Whether a network can normalise the batches that it will be given, found out before the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from training.data.stream import micro_batch_size
from training.engine.distributed import Distributed

# How torch's normalisation layers refuse a batch without a variance.
NO_VARIANCE = "Expected more than 1"


def check_batch(
    network: nn.Module, config: Mapping[str, Any], distributed: Distributed, remedy: str = ""
) -> None:
    """Refuses a batch of one where a layer would normalise a single value a channel.

    A layer behind global pooling sees as many values as there are images in the batch of one
    process and one micro-batch.

    Args:
        network: In the modes in which it will be trained.
        config: With ``batch_size`` and ``crop``, perhaps ``accumulate``.
        distributed: The processes that share a batch.
        remedy: What else helps than a larger batch.

    Raises:
        ParameterError: Names the layer; or the batch does not split evenly.
    """
    accumulate, processes = config.get("accumulate", 1), distributed.world_size
    size = micro_batch_size(config["batch_size"], processes, accumulate)
    if size > 1:  # two values always have a variance
        return
    layer = layer_without_variance(network, (size, 3, *config["crop"]))
    if layer is not None:
        shares = f"{processes} processes x {accumulate} micro-batches"
        least = 2 * processes * accumulate
        raise ParameterError(
            f"batch_size {config['batch_size']}: layer {layer!r} would normalise a single value a "
            f"channel in a batch of {size} ({shares} share it); use a batch_size of at least "
            f"{least}{remedy and ', ' + remedy}"
        )


def layer_without_variance(network: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Runs a network on tensors without memory; neither it nor its statistics change.

    Args:
        network: Any.
        shape: (N, 3, H, W) of its input.

    Returns:
        The path of the first layer that cannot normalise what it gets; None if all can, or where
        the network does not run without memory.
    """
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: entered.append(path))
        for path, module in network.named_modules()
    ]
    state: dict[str, Tensor] = {
        name: tensor.to("meta")
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    try:
        with torch.no_grad():
            torch.func.functional_call(network, state, (torch.empty(shape, device="meta"),))
    except ValueError as error:
        if str(error).startswith(NO_VARIANCE):
            return entered[-1]  # a layer is entered after all that hold it
    except RuntimeError:  # such as an operator that knows no meta tensors
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return None
