"""WideResNet38 against the public codes whose checkpoints it loads."""

from __future__ import annotations

import pytest
from models.layout_facts import check_outputs, check_structure, read_facts

LAYOUTS = ("nvidia_wide_resnet38", "densehybrid_wide_resnet38", "pebal_wide_resnet38")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_structure_is_the_public_one(layout: str) -> None:
    check_structure(layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_those_of_the_public_code(layout: str) -> None:
    check_outputs(layout)


def test_the_facts_have_the_known_sizes() -> None:
    """137.10 M parameters in 268 tensors; the outlier head and the 20th class come on top."""
    facts = {layout: read_facts(layout) for layout in LAYOUTS}
    nvidia, densehybrid, pebal = (facts[layout]["shapes"] for layout in LAYOUTS)
    assert len(nvidia) == 268
    assert round(facts["nvidia_wide_resnet38"]["parameters"] / 1e6, 2) == 137.10
    assert {key.split(".")[0] for key in densehybrid.keys() - nvidia.keys()} == {"logits_ood"}
    assert densehybrid["logits_ood.norm.weight"] == [304]
    assert pebal.keys() == nvidia.keys()
    assert pebal["final.6.weight"] == [20, 256, 1, 1]
