"""What the DeepLabV3+ networks promise alike."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models.layout_facts import build_empty, build_seeded
from models.seeded_weights import seeded_image

NETWORKS: dict[str, dict[str, Any]] = {
    "wide_resnet38": {"architecture": "wide_resnet38"},
    "resnet101_deep": {"architecture": "resnet101", "stem": "deep"},
    "resnet101_plain": {"architecture": "resnet101", "stem": "plain"},
}
every_network = pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS.keys())


@every_network
@pytest.mark.parametrize("multiples", [(1, 1), (3, 5), (7, 4)])
def test_sizes_on_odd_multiples(arguments: dict, multiples: tuple[int, int]) -> None:
    network = build_empty(**arguments, num_classes=7, outlier_head=True)
    height, width = (m * network.size_multiple for m in multiples)
    output = network(torch.empty(2, 3, height, width, device="meta"))
    grid = (height // network.output_stride, width // network.output_stride)
    assert output.pre_logits.shape == (2, network.pre_logits_channels, *grid)
    assert output.logits.shape == (2, 7, *grid)
    assert output.ood_logits.shape == (2, 2, *grid)


@every_network
def test_classifier_and_outlier_head_read_the_pre_logits(arguments: dict) -> None:
    network = build_seeded(**arguments, outlier_head=True, abstention=True)
    with torch.inference_mode():
        output = network(seeded_image(24, 40))
        every_output = network.all_outputs(output.pre_logits)
        logits = network.classify(output.pre_logits)
        ood_logits = network.outlier_head(output.pre_logits)
    assert every_output.shape[1] == 20
    torch.testing.assert_close(every_output[:, :19], output.logits)
    torch.testing.assert_close(logits, output.logits)
    torch.testing.assert_close(ood_logits, output.ood_logits)


@every_network
def test_outlier_head_is_optional_and_has_the_public_name(arguments: dict) -> None:
    without = build_empty(**arguments)
    assert without.outlier_head is None
    assert without(torch.empty(1, 3, 16, 16, device="meta")).ood_logits is None
    head = build_empty(**arguments, outlier_head=True)
    added = head.state_dict().keys() - without.state_dict().keys()
    assert added == {f"logits_ood.{key}" for key in head.outlier_head.state_dict()}
    assert head.get_submodule("outlier_head") is head.logits_ood


@every_network
def test_abstention_adds_one_output_to_the_last_layer(arguments: dict) -> None:
    network = build_empty(**arguments, num_classes=7, abstention=True)
    assert network.num_classes == 7
    (path,) = network.trainable_parts["last_layer"]
    assert network.get_submodule(path).out_channels == 8
    plain = {k: v.shape for k, v in build_empty(**arguments, num_classes=7).state_dict().items()}
    wider = {k for k, v in network.state_dict().items() if v.shape != plain[k]}
    assert wider == {key for key in plain if key.startswith(f"{path}.")}


@every_network
def test_each_part_holds_the_one_before(arguments: dict) -> None:
    network = build_empty(**arguments)
    parts = {"all": ("",), **network.trainable_parts}
    inner: set[str] = set()
    for part in ("last_layer", "classification_head", "decoder", "upper", "all"):
        outer = {
            f"{path}.{name}".lstrip(".")
            for path in parts[part]
            for name, _ in network.get_submodule(path).named_parameters()
        }
        assert inner < outer, part
        inner = outer


@every_network
def test_trunk_is_all_but_decoder_and_heads(arguments: dict) -> None:
    network = build_empty(**arguments, outlier_head=True)
    decoder = tuple(f"{path}." for path in network.trainable_parts["decoder"])
    names = [name for name, _ in network.named_parameters()]
    paths = tuple(f"{path}." for path in network.trunk)
    trunk = {name for name in names if name.startswith(paths)}
    assert trunk == {n for n in names if not n.startswith((*decoder, "logits_ood.", "dsn."))}
    assert all(any(name.startswith(prefix) for name in trunk) for prefix in paths)


@pytest.mark.slow
@every_network
def test_gradients_reach_all_that_is_declared_trainable(arguments: dict) -> None:
    """In training mode, through the layers that work in place."""
    torch.manual_seed(0)
    network = build_seeded(**arguments, outlier_head=True).train()
    paths = (*network.trainable_parts.get("all", ("",)), "outlier_head")
    declared = {id(p) for path in paths for p in network.get_submodule(path).parameters()}
    output = network(seeded_image(32, 32).repeat(2, 1, 1, 1) * torch.rand(2, 3, 1, 1))
    (output.logits.square().mean() + output.ood_logits.square().mean()).backward()
    reached = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert reached == declared


@every_network
def test_copies(arguments: dict) -> None:
    """An average of the weights is kept in a copy of the network."""
    network = build_empty(**arguments, outlier_head=True)
    twin = copy.deepcopy(network)
    assert twin.outlier_head is twin.logits_ood is not network.logits_ood
    assert twin.trainable_parts == network.trainable_parts
