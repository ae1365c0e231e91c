# SPDX-License-Identifier: Apache-2.0
"""The large networks against the public codes whose checkpoints they load."""

from __future__ import annotations

import pytest
from models.layout_facts import build_empty, check_outputs, check_structure, read_facts
from models.seeded_weights import seeded_image
from torch import nn

from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.models.registry import build_network
from training.posthoc.mc_dropout import McDropout

# Number of tensors and millions of parameters by layout, where they are published: LDN-121's size
# in the paper's Table 7.
SIZES: dict[str, tuple[int | None, float | None]] = {
    "sml_resnet101": (701, 64.20),
    "nvidia_resnet101": (None, 59.34),
    "nvidia_wide_resnet38": (268, 137.10),
    "densehybrid_wide_resnet38": (None, None),
    "pebal_wide_resnet38": (268, None),
    "ladder_densenet121": (827, 11.07),
    "efficientvit_b0": (230, 0.71),
    "efficientvit_b2": (434, 15.32),
}
SLOW = [pytest.param(n, marks=pytest.mark.slow) if "wide" in n else n for n in SIZES]


@pytest.mark.parametrize("layout", SIZES)
def test_structure_is_the_public_one(layout: str) -> None:
    check_structure(layout)
    facts, (tensors, millions) = read_facts(layout), SIZES[layout]
    assert tensors in (None, len(facts["shapes"]))
    assert millions in (None, round(facts["parameters"] / 1e6, 2))


@pytest.mark.parametrize("layout", SLOW)
def test_outputs_are_those_of_the_public_code(layout: str) -> None:
    check_outputs(layout)


def test_the_outlier_head_and_the_abstention_class_come_on_top() -> None:
    nvidia, densehybrid, pebal = (
        read_facts(f"{who}_wide_resnet38")["shapes"] for who in ("nvidia", "densehybrid", "pebal")
    )
    assert {key.split(".")[0] for key in densehybrid.keys() - nvidia.keys()} == {"logits_ood"}
    assert densehybrid["logits_ood.norm.weight"] == [304]
    assert pebal.keys() == nvidia.keys()
    assert pebal["final.6.weight"] == [20, 256, 1, 1]
    ladder = read_facts("ladder_densenet121")["shapes"]
    assert sum(key.startswith("logits_ood.") for key in ladder) == 7


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
