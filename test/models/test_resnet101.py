"""ResNet101 against the public codes whose checkpoints it loads."""

from __future__ import annotations

import pytest
from models.layout_facts import build_empty, check_outputs, check_structure, read_facts
from models.seeded_weights import seeded_image
from torch import nn

from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.models.registry import build_network
from training.posthoc.mc_dropout import McDropout

LAYOUTS = ("sml_resnet101", "nvidia_resnet101")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_structure_is_the_public_one(layout: str) -> None:
    check_structure(layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_those_of_the_public_code(layout: str) -> None:
    check_outputs(layout)


def test_the_facts_have_the_known_sizes() -> None:
    deep, plain = (read_facts(layout) for layout in LAYOUTS)
    assert len(deep["shapes"]) == 701
    assert round(deep["parameters"] / 1e6, 2) == 64.20
    assert round(plain["parameters"] / 1e6, 2) == 59.34


@pytest.mark.parametrize("stem", ["deep", "plain"])
def test_auxiliary_branch_is_what_the_argument_says(stem: str) -> None:
    with_branch = build_empty("resnet101", stem=stem, auxiliary=True).state_dict().keys()
    without = build_empty("resnet101", stem=stem, auxiliary=False).state_dict().keys()
    assert {key.split(".")[0] for key in with_branch - without} == {"dsn"}
    assert without < with_branch
    default = build_empty("resnet101", stem=stem).state_dict().keys()
    assert default == (with_branch if stem == "deep" else without)


def test_a_network_without_dropout_has_none_for_mc_dropout() -> None:
    """The public auxiliary branch drops, but no output of the network depends on it."""
    network = build_empty("resnet101", auxiliary=True)
    assert not [module for module in network.modules() if isinstance(module, nn.Dropout2d)]
    with pytest.raises(ParameterError, match="has no dropout"):
        McDropout()(network, seeded_image(16, 16))


def test_unknown_stem_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"'wide'.*deep, plain"):
        build_network("resnet101", {"stem": "wide"})
