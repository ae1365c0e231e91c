# SPDX-License-Identifier: Apache-2.0
"""Open-set semantic segmentation: labels, anomaly scores and "none of the classes I know".

    from anomaly_seg_ros import Segmenter

    prediction = Segmenter.load("default").predict(rgb, scores=("energy",))

* :class:`Segmenter` runs a model on images; :class:`Prediction` is what it returns.
* :func:`load_model` reads a network and its metadata from a name or a file.
* :func:`open_dataset` opens a data set by name and folder.
* :data:`SCORES` lists the anomaly scores, with formula, source and what each one needs.

Everything else is imported from its module; ``docs/architecture.md`` draws the tree. These names
are imported at their first use, so that ``--help`` of a tool does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomaly_seg_ros.system.crash_log import guard_program

if TYPE_CHECKING:
    from anomaly_seg_ros.checkpoints.loading import load_model
    from anomaly_seg_ros.datasets import open_dataset
    from anomaly_seg_ros.inference.prediction import Prediction
    from anomaly_seg_ros.inference.segmenter import Segmenter
    from anomaly_seg_ros.scores import SCORES

__all__ = ["SCORES", "Prediction", "Segmenter", "load_model", "open_dataset"]

_HOMES = {
    "SCORES": "anomaly_seg_ros.scores",
    "Prediction": "anomaly_seg_ros.inference.prediction",
    "Segmenter": "anomaly_seg_ros.inference.segmenter",
    "load_model": "anomaly_seg_ros.checkpoints.loading",
    "open_dataset": "anomaly_seg_ros.datasets",
}

guard_program()


def __getattr__(name: str) -> Any:
    """Imports a public name's module at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
