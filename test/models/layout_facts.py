# SPDX-License-Identifier: Apache-2.0
"""What public codes are and compute, kept as facts in place of the codes.

``facts/<layout>.json`` was written from the network of the public code that it names under
``source``: parameters, key and shape of every tensor, settings of every convolution, BatchNorm
and dropout, and what the code computes, before its last upsampling, for :func:`seeded_image` with
the weights of :func:`seeded_state_dict`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from models.seeded_weights import seeded_image, seeded_state_dict
from torch import Tensor, nn

from anomaly_seg_ros.models.registry import build_network

_FOLDER = Path(__file__).parent / "facts"
# For logits of which the largest are near 10: room for another order of summation in float32.
_TOLERANCE = 1e-4


def read_facts(layout: str) -> dict[str, Any]:
    """The facts of one public layout."""
    return json.loads((_FOLDER / f"{layout}.json").read_text(encoding="utf-8"))


def build_empty(architecture: str, **arguments: Any) -> nn.Module:
    """A network without memory for its tensors: for names, shapes and sizes of outputs."""
    with torch.device("meta"):
        return build_network(architecture, arguments).eval()


def build_seeded(architecture: str, **arguments: Any) -> nn.Module:
    """A network with :func:`seeded_state_dict`."""
    network = build_empty(architecture, **arguments)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(seeded_state_dict(shapes), strict=True, assign=True)
    return network


def check_structure(layout: str) -> None:
    """Our network has the layout's tensors, parameters and settings of layers, and no others."""
    facts = read_facts(layout)
    network = build_empty(facts["architecture"], **facts["arguments"])
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == facts["shapes"]
    assert sum(p.numel() for p in network.parameters()) == facts["parameters"]
    ours = {"convolutions": {}, "batchnorms": {}, "dropouts": {}}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            ours["convolutions"][name] = {
                "stride": list(module.stride),
                "padding": list(module.padding),
                "dilation": list(module.dilation),
            }
        elif isinstance(module, nn.BatchNorm2d):
            ours["batchnorms"][name] = {"eps": module.eps, "momentum": module.momentum}
        elif "Dropout" in type(module).__name__:
            ours["dropouts"][name] = {"type": type(module).__name__, "p": module.p}
    # The auxiliary branch is carried for its tensors alone, so it drops nothing.
    facts["dropouts"] = {k: v for k, v in facts["dropouts"].items() if not k.startswith("dsn.")}
    for kind, layers in ours.items():
        assert layers == facts[kind]


def check_outputs(layout: str) -> None:
    """Our network computes what the public code does, at the positions of the facts."""
    facts = read_facts(layout)
    network = build_seeded(facts["architecture"], **facts["arguments"])
    with torch.inference_mode():
        output = network(seeded_image(*facts["image"]))
        every_output = network.all_outputs(output.pre_logits)
    computed = {
        "logits": output.logits,
        "ood_logits": output.ood_logits,
        "abstention": every_output[:, network.num_classes :],
    }
    for name, expected in facts["outputs"].items():
        _check_values(name, computed[name], expected)


def _check_values(name: str, actual: Tensor, expected: dict[str, Any]) -> None:
    assert list(actual.shape) == expected["shape"], name
    rows, columns = torch.tensor(expected["positions"]).T
    torch.testing.assert_close(
        actual[0, :, rows, columns].T,
        torch.tensor(expected["values"]),
        rtol=0,
        atol=_TOLERANCE,
        msg=lambda text: f"{name}: {text}",
    )
