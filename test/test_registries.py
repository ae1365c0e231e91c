# SPDX-License-Identifier: Apache-2.0
"""The pages name every score, data set, architecture, format, loss and backend there is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from anomaly_seg_ros.checkpoints.formats import FORMATS
from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.inference.options import BACKENDS
from anomaly_seg_ros.models.registry import ARCHITECTURES
from anomaly_seg_ros.scores import SCORES
from training.losses import LOSSES
from training.posthoc import POSTHOC
from training.recipes.reading import names as recipes

REPOSITORY = Path(__file__).resolve().parent.parent
# What a reader looks up, where, and the names.
REGISTRIES: dict[str, tuple[tuple[str, ...], Iterable[str]]] = {
    "scores in README": (("README.md",), SCORES),
    "scores": (("docs/node.md",), SCORES),
    "data sets": (("docs/datasets.md",), DATASETS),
    "architectures": (("docs/models.md",), ARCHITECTURES),
    "formats": (("docs/models.md",), FORMATS),
    "losses": (("training/README.md",), LOSSES),
    "post-hoc scores": (("training/README.md",), POSTHOC),
    "recipes": (("docs/recipes.md",), recipes()),
    "backends": (("docs/node.md", "docs/performance.md"), BACKENDS),
}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_name_is_documented(registry: str) -> None:
    pages, names = REGISTRIES[registry]
    text = "".join((REPOSITORY / page).read_text(encoding="utf-8") for page in pages)
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert not missing, f"{' and '.join(pages)}: no word on {', '.join(missing)}"
