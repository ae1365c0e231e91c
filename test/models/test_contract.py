# SPDX-License-Identifier: Apache-2.0
"""What every architecture of the registry promises; a new one is tested by its entry in CASES."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_network import NETWORKS
from models.layout_facts import build_empty, build_seeded
from models.seeded_weights import seeded_image
from torch import nn

from anomaly_seg_ros.contract import SegmentationNetwork, check_contract
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models import registry
from anomaly_seg_ros.models.registry import ARCHITECTURES, build_network

CASES: dict[str, dict[str, Any]] = {
    "lite0": {"architecture": "deeplab_v3plus_lite"},
    "lite2": {"architecture": "deeplab_v3plus_lite", "backbone": "lite2"},
    "erfnet": {"architecture": "erfnet"},
    "efficientvit_b0": {"architecture": "efficientvit_seg"},
    "efficientvit_b1": {"architecture": "efficientvit_seg", "variant": "b1"},
    "wide_resnet38": {"architecture": "wide_resnet38"},
    "resnet101 deep": {"architecture": "resnet101", "stem": "deep"},
    "resnet101 plain": {"architecture": "resnet101", "stem": "plain"},
    "ladder": {"architecture": "ladder_densenet121"},
    "wrapped": {"architecture": "wrapped", "factory": "torchvision:lraspp_mobilenet_v3_large"},
}
PARTS = ("last_layer", "classification_head", "decoder", "upper", "all")
every_architecture = pytest.mark.parametrize("name", CASES)
WITHOUT_ABSTENTION = {"lite0", "lite2", "erfnet"}


@functools.cache
def found(num_classes: int) -> dict[str, Any]:
    """The wrapped network's arguments with what probing finds, which takes a real network."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    network = build_network("wrapped", {"num_classes": num_classes, **arguments_of("wrapped")})
    return {k: v for k, v in network.arguments.items() if k not in ("outlier_head", "abstention")}


def arguments_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in CASES[name].items() if key != "architecture"}


def case(name: str, num_classes: int = 19, **more: Any) -> dict[str, Any]:
    """The arguments of ``build_empty`` and ``build_seeded``."""
    more["num_classes"] = num_classes
    if name == "wrapped":
        return {"architecture": name, **found(num_classes), **more}
    return {**CASES[name], **more}


def names_under(network: nn.Module, paths: tuple[str, ...]) -> set[str]:
    return {
        f"{path}.{name}".lstrip(".")
        for path in paths
        for name, _ in network.get_submodule(path).named_parameters()
    }


def test_every_architecture_is_here_and_listed_for_the_node_and_training() -> None:
    assert {case["architecture"] for case in CASES.values()} == set(ARCHITECTURES)
    assert {architecture for architecture, _ in NETWORKS.values()} == set(ARCHITECTURES)


@every_architecture
@pytest.mark.parametrize("multiples", [(1, 1), (3, 5), (7, 4)])
def test_sizes_on_odd_multiples(name: str, multiples: tuple[int, int]) -> None:
    network = build_empty(**case(name, num_classes=7, outlier_head=True))
    assert network.num_classes == 7
    height, width = (m * network.size_multiple for m in multiples)
    output = network(torch.empty(2, 3, height, width, device="meta"))
    grid = (height // network.output_stride, width // network.output_stride)
    assert output.pre_logits.shape[:2] == (2, network.pre_logits_channels)
    assert output.logits.shape == (2, 7, *grid)
    assert output.ood_logits.shape == (2, 2, *grid)


@every_architecture
def test_classifier_and_outlier_head_read_the_pre_logits(name: str) -> None:
    network = build_seeded(**case(name, outlier_head=True))
    with torch.inference_mode():
        output = network(seeded_image(64, 96))
        logits = network.classify(output.pre_logits)
        ood_logits = network.outlier_head(output.pre_logits)
    torch.testing.assert_close(logits, output.logits)
    ood_logits = F.interpolate(ood_logits, size=logits.shape[-2:], mode="bilinear")
    torch.testing.assert_close(ood_logits, output.ood_logits)


@every_architecture
def test_outlier_head_is_optional(name: str) -> None:
    without, network = build_empty(**case(name)), build_empty(**case(name, outlier_head=True))
    assert without.outlier_head is None
    assert without(torch.empty(1, 3, 64, 64, device="meta")).ood_logits is None
    added = network.state_dict().keys() - without.state_dict().keys()
    prefix = "outlier_head" if "outlier_head" in dict(network.named_children()) else "logits_ood"
    assert added == {f"{prefix}.{key}" for key in network.outlier_head.state_dict()}
    assert network.get_submodule("outlier_head") is network.get_submodule(prefix)


@pytest.mark.parametrize("name", sorted(CASES.keys() - WITHOUT_ABSTENTION))
def test_abstention_is_one_output_that_is_left_out(name: str) -> None:
    network = build_empty(**case(name, num_classes=7))
    plain = {key: value.shape for key, value in network.state_dict().items()}
    network = build_seeded(**case(name, num_classes=7, abstention=True))
    assert (network.num_classes, network.abstention) == (7, True)
    last = network.trainable_parts["last_layer"]
    assert {network.get_submodule(path).out_channels for path in last} == {8}
    wider = {k for k, v in network.state_dict().items() if v.shape != plain[k]}
    assert wider == {key for key in plain if key.startswith(tuple(f"{p}." for p in last))}
    with torch.inference_mode():
        output = network(seeded_image(64, 64))
        every_output = network.all_outputs(output.pre_logits)
    assert every_output.shape[1] == 8
    torch.testing.assert_close(every_output[:, :7], output.logits)


@every_architecture
def test_each_part_holds_the_one_before(name: str) -> None:
    network = build_empty(**case(name))
    parts = {"all": ("",), **network.trainable_parts}
    inner: set[str] = set()
    for part in PARTS:
        outer = names_under(network, parts[part])
        assert inner <= outer, part
        assert outer, part
        inner = outer


@every_architecture
def test_trunk_lies_outside_of_the_decoder(name: str) -> None:
    network = build_empty(**case(name, outlier_head=True))
    trunk = names_under(network, network.trunk)
    assert all(names_under(network, (path,)) for path in network.trunk)
    assert not trunk & names_under(network, network.trainable_parts["decoder"])
    assert not trunk & names_under(network, ("outlier_head",))


@pytest.mark.parametrize("name", ["wide_resnet38", "resnet101 deep", "resnet101 plain"])
def test_trunk_is_all_but_decoder_and_heads(name: str) -> None:
    network = build_empty(**case(name, outlier_head=True))
    decoder = tuple(f"{path}." for path in network.trainable_parts["decoder"])
    names = {key for key, _ in network.named_parameters()}
    heads = (*decoder, "logits_ood.", "dsn.")
    assert names_under(network, network.trunk) == {n for n in names if not n.startswith(heads)}


@pytest.mark.slow
@every_architecture
def test_gradients_reach_all_that_is_declared_trainable(name: str) -> None:
    """In training mode, through the layers that work in place."""
    torch.manual_seed(0)
    network = build_seeded(**case(name, outlier_head=True)).train()
    paths = (*network.trainable_parts.get("all", ("",)), "outlier_head")
    declared = {id(p) for path in paths for p in network.get_submodule(path).parameters()}
    output = network(seeded_image(64, 64).repeat(2, 1, 1, 1) * torch.rand(2, 3, 1, 1))
    (output.logits.square().mean() + output.ood_logits.square().mean()).backward()
    reached = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert reached == declared


@every_architecture
def test_copies(name: str) -> None:
    """An average of the weights is kept in a copy of the network."""
    network = build_empty(**case(name, outlier_head=True))
    twin = copy.deepcopy(network)
    assert twin.outlier_head is not network.outlier_head
    assert twin.outlier_head in twin.modules()
    assert twin.trainable_parts == network.trainable_parts


@every_architecture
def test_the_state_dict_holds_all_tensors(name: str) -> None:
    """A file is loaded into a network without memory: nothing else may need a value."""
    network = build_empty(**case(name, outlier_head=True))
    tensors = {*dict(network.named_parameters()), *dict(network.named_buffers())}
    assert tensors == network.state_dict().keys()
    loose = [k for m in network.modules() for k, v in vars(m).items() if torch.is_tensor(v)]
    assert not loose


def test_unknown_names_are_named() -> None:
    with pytest.raises(CheckpointError, match="deeplab_v4"):
        build_network("deeplab_v4", {})
    with pytest.raises(CheckpointError, match="nonsense"):
        build_network("erfnet", {"nonsense": 1})


class Careless(SegmentationNetwork):
    """Keeps the contract, unless told otherwise."""

    num_classes = output_stride = size_multiple = pre_logits_channels = 1

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        self.outlier_head = None
        for attribute, value in wrong.items():
            setattr(self, attribute, value)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Identity(), "Identity is no SegmentationNetwork"),
        (SegmentationNetwork(), r"SegmentationNetwork\.num_classes is None"),
        (Careless(size_multiple=0), r"Careless\.size_multiple is 0"),
        (Careless(output_stride=1.5), r"Careless\.output_stride is 1\.5"),
        (Careless(trunk=("encoder",)), "Careless: no submodule 'encoder', named in 'trunk'"),
        (Careless(trainable_parts={"decoder": ("x",)}), "no submodule 'x', named in 'decoder'"),
        (Careless(feature_layers={"x": 8}), "no submodule 'x', named in 'feature_layers'"),
    ],
)
def test_a_broken_contract_is_named(network: nn.Module, named: str) -> None:
    assert check_contract(Careless())
    with pytest.raises(TypeError, match=named):
        check_contract(network)


def test_networks_are_checked_where_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ARCHITECTURES, "careless", (__name__, "Careless"))
    assert build_network("careless", {})
    with pytest.raises(TypeError, match="trunk"):
        build_network("careless", {"trunk": ("encoder",)})


def test_a_constructor_s_own_error_is_kept() -> None:
    with pytest.raises(CheckpointError, match="erfnet cannot be built from num_outputs='x'") as e:
        build_network("erfnet", {"num_outputs": "x"})
    assert isinstance(e.value.__cause__, TypeError | ValueError)
