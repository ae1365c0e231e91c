# SPDX-License-Identifier: Apache-2.0
"""Data sets, by name: one small adapter each, which yields :class:`~.base.Sample` objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from anomaly_seg_ros.datasets.base import CameraIntrinsics, Dataset, LoadedSample, Sample
from anomaly_seg_ros.datasets.bdd_anomaly import BddAnomalyDataset
from anomaly_seg_ros.datasets.camvid import CamVidDataset
from anomaly_seg_ros.datasets.cityscapes import CityscapesDataset
from anomaly_seg_ros.datasets.clip import ClipDataset
from anomaly_seg_ros.datasets.fishyscapes import FishyscapesDataset
from anomaly_seg_ros.datasets.fishyscapes_static import FishyscapesStaticDataset
from anomaly_seg_ros.datasets.folder import FolderDataset
from anomaly_seg_ros.datasets.lost_and_found import LostAndFoundDataset
from anomaly_seg_ros.datasets.road_anomaly import RoadAnomalyDataset
from anomaly_seg_ros.datasets.segment_me import SegmentMeDataset
from anomaly_seg_ros.datasets.street_hazards import StreetHazardsDataset
from anomaly_seg_ros.datasets.vistas import VistasDataset
from anomaly_seg_ros.datasets.wilddash import WildDashDataset
from anomaly_seg_ros.errors import DatasetError, ParameterError

__all__ = [
    "DATASETS",
    "CameraIntrinsics",
    "Dataset",
    "LoadedSample",
    "Sample",
    "detect_dataset",
    "open_dataset",
]

# Ordered from the most to the least specific tree: detect_dataset takes the first that matches.
DATASETS: dict[str, type[Dataset]] = {
    adapter.name: adapter
    for adapter in (
        ClipDataset,
        FishyscapesStaticDataset,
        FishyscapesDataset,
        LostAndFoundDataset,
        CityscapesDataset,
        RoadAnomalyDataset,
        SegmentMeDataset,
        StreetHazardsDataset,
        BddAnomalyDataset,
        VistasDataset,
        WildDashDataset,
        CamVidDataset,
        FolderDataset,
    )
}


def detect_dataset(root: str | Path) -> str:
    """Returns the name of the first data set whose folder tree matches.

    Raises:
        DatasetError: The path is not a folder, or its tree is unknown.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    for name, adapter in DATASETS.items():
        if adapter.matches(root):
            return name
    trees = "\n".join(f"{name}:\n{adapter.tree}" for name, adapter in DATASETS.items())
    raise DatasetError(f"{root}: no known data set; expected one of\n{trees}")


def open_dataset(name: str, root: str | Path, /, **options: object) -> Dataset:
    """Opens a data set.

    Args:
        name: A key of ``DATASETS``, or "auto" to detect it from the folder tree.
        root: Folder of the data set.
        **options: Options of the adapter, such as ``split``; None means the adapter's default.

    Returns:
        A sequence of samples, whose files are read by :meth:`~.base.Sample.load`.

    Raises:
        DatasetError: The folder is missing, or its tree is not the data set's.
        ParameterError: The data set is unknown, or it has no such option.
    """
    if name != "auto" and name not in DATASETS:
        raise ParameterError(f"no data set '{name}'; expected auto, {', '.join(DATASETS)}")
    if not Path(root).is_dir():
        raise DatasetError(f"{root}: no such folder")
    try:
        return _open(detect_dataset(root) if name == "auto" else name, root, options)
    except OSError as error:  # a folder that may not be listed
        raise DatasetError(f"{error.filename or root}: {error.strerror}") from error


def _open(name: str, root: str | Path, options: dict[str, object]) -> Dataset:
    given = {key: value for key, value in options.items() if value is not None}
    allowed = [key for key in inspect.signature(DATASETS[name]).parameters if key != "root"]
    for key in given:
        if key not in allowed:
            raise ParameterError(
                f"{key}: data set '{name}' has no such option (it has: "
                f"{', '.join(allowed) or 'none'})"
            )
    adapter: Callable[..., Dataset] = DATASETS[name]
    return adapter(root, **given)
