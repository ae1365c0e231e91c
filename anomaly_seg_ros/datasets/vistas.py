# SPDX-License-Identifier: Apache-2.0
"""Mapillary Vistas (Neuhold et al., ICCV 2017), https://www.mapillary.com/dataset/vistas.

Version 1.2 has 66 classes, 2.0 has 124. Both store a class as its position in the list of the
release's configuration file, in PNG files with a palette.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files, read_json
from anomaly_seg_ros.datasets.label_codes import PaletteCode
from anomaly_seg_ros.datasets.label_tables import lookup_table
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.labels import INVALID_ID
from anomaly_seg_ros.taxonomy import load_taxonomy

# Cityscapes class -> classes of Vistas, each with all classes below it in the hierarchy of names
# ("object--traffic-light" holds "object--traffic-light--pedestrians").
CLASSES = {
    "road": (
        "construction--flat--bike-lane",
        "construction--flat--crosswalk-plain",
        "construction--flat--driveway",
        "construction--flat--parking",
        "construction--flat--parking-aisle",
        "construction--flat--rail-track",
        "construction--flat--road",
        "construction--flat--road-shoulder",
        "construction--flat--service-lane",
        "marking",
        "marking-only",
    ),
    "sidewalk": (
        "construction--barrier--curb",
        "construction--flat--curb-cut",
        "construction--flat--pedestrian-area",
        "construction--flat--sidewalk",
        "construction--flat--traffic-island",
    ),
    "building": ("construction--structure",),
    "wall": ("construction--barrier--wall",),
    "fence": ("construction--barrier--fence", "construction--barrier--guard-rail"),
    "pole": (
        "object--support--pole",
        "object--support--pole-group",
        "object--support--utility-pole",
    ),
    "traffic light": ("object--traffic-light",),
    "traffic sign": (
        "object--support--traffic-sign-frame",
        "object--traffic-sign--direction-front",
        "object--traffic-sign--front",
        "object--traffic-sign--information-parking",
        "object--traffic-sign--temporary-front",
    ),
    "vegetation": ("nature--vegetation",),
    "terrain": ("nature--sand", "nature--snow", "nature--terrain"),
    "sky": ("nature--sky",),
    "person": ("human--person",),
    "rider": ("human--rider",),
    "car": ("object--vehicle--car",),
    "truck": ("object--vehicle--truck",),
    "bus": ("object--vehicle--bus",),
    "train": ("object--vehicle--on-rails",),
    "motorcycle": ("object--vehicle--motorcycle",),
    "bicycle": ("object--vehicle--bicycle",),
}
# Classes that are no Cityscapes class, or several.
IGNORED = (
    "animal",
    "construction--barrier--ambiguous",
    "construction--barrier--concrete-block",
    "construction--barrier--other-barrier",
    "construction--barrier--road-median",
    "construction--barrier--road-side",
    "construction--barrier--separator",
    "construction--barrier--temporary",
    "nature--mountain",
    "nature--water",
    "object--banner",
    "object--bench",
    "object--bike-rack",
    "object--billboard",
    "object--catch-basin",
    "object--cctv-camera",
    "object--fire-hydrant",
    "object--junction-box",
    "object--mailbox",
    "object--manhole",
    "object--parking-meter",
    "object--phone-booth",
    "object--pothole",
    "object--sign",
    "object--street-light",
    "object--traffic-cone",
    "object--traffic-sign--ambiguous",
    "object--traffic-sign--back",
    "object--traffic-sign--direction-back",
    "object--traffic-sign--temporary-back",
    "object--trash-can",
    "object--vehicle--boat",
    "object--vehicle--caravan",
    "object--vehicle--other-vehicle",
    "object--vehicle--trailer",
    "object--vehicle--vehicle-group",
    "object--vehicle--wheeled-slow",
    "object--water-valve",
    "void",
)
_TARGETS = {name: target for target, names in CLASSES.items() for name in names}
_TARGETS.update(dict.fromkeys(IGNORED, ""))

# Version -> its configuration file and the folder of its labels within a split. The release of
# 2.0 holds the labels of both.
_OLD_SHAPE = {"v1.2": ("config.json", "labels")}
_NEW_SHAPE = {
    "v2.0": ("config_v2.0.json", "v2.0/labels"),
    "v1.2": ("config_v1.2.json", "v1.2/labels"),
}
VERSIONS = tuple(_NEW_SHAPE)
_UNLABELLED_SPLIT = "testing"


class VistasDataset(Dataset):
    """One split, its classes mapped to Cityscapes' trainIds.

    Args:
        root: Folder that holds training/, validation/ and the configuration file.
        split: "training", "validation" or "testing", which has no labels.
        version: Whose labels to read, "v1.2" or "v2.0". Default: the newest that is there.

    Raises:
        DatasetError: The folder has another shape; or the configuration file is missing, damaged
            or names a class that the map to Cityscapes does not have.
        ParameterError: The version is unknown.
    """

    name = "vistas"
    tree = (
        "  ROOT/config.json                                (v1.2)\n"
        "  ROOT/{training,validation}/images/KEY.jpg\n"
        "  ROOT/{training,validation}/labels/KEY.png\n"
        "or\n"
        "  ROOT/config_v2.0.json                           (v2.0; and v1.2, likewise)\n"
        "  ROOT/{training,validation}/images/KEY.jpg\n"
        "  ROOT/{training,validation}/v2.0/labels/KEY.png"
    )
    taxonomy = "66 or 124 classes become Cityscapes trainIds; those that fit none are ignored."

    def __init__(
        self, root: str | Path, split: str | None = None, version: str | None = None
    ) -> None:
        self.root = Path(root)
        if version is not None:
            check_choice("version", version, VERSIONS)
        config, labels = self._shape(version)
        splits = [x.name for x in self.root.iterdir() if (x / "images").is_dir()]
        split = self.check_split(split or "validation", splits)
        super().__init__(self.root, self._find(split, labels, _label_table(self.root / config)))

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with a configuration file of a release, and a split."""
        configs = [config for shape in (_OLD_SHAPE, _NEW_SHAPE) for config, _ in shape.values()]
        return any((root / config).is_file() for config in configs) and any(
            (root / split / "images").is_dir() for split in ("training", "validation")
        )

    def _shape(self, version: str | None) -> tuple[str, str]:
        """The configuration file, and the folder of the labels within a split."""
        for shape in (_NEW_SHAPE, _OLD_SHAPE):
            for own, (config, labels) in shape.items():
                if version in (None, own) and (self.root / config).is_file():
                    return config, labels
        wanted = f"no {version} of" if version else "no configuration file of"
        raise self.wrong_tree(f"{wanted} Vistas")

    def _find(self, split: str, labels: str, table: np.ndarray) -> Iterator[Sample]:
        folder = self.root / split
        for image in image_files(folder / "images"):
            yield Sample(
                name=image.stem,
                image_path=image,
                labels_path=(
                    None if split == _UNLABELLED_SPLIT else folder / labels / f"{image.stem}.png"
                ),
                labels_table=table,
                code=PaletteCode(),
            )


def _label_table(config: Path) -> np.ndarray:
    """(256,) uint8 table from positions in a configuration file's classes to trainIds.

    Raises:
        DatasetError: The file is missing or damaged, or names a class that has no entry above.
    """
    entries = read_json(config).get("labels")
    if not isinstance(entries, list) or not 0 < len(entries) <= INVALID_ID:
        raise DatasetError(
            f"{config}: key 'labels' must be a list of at most {INVALID_ID} classes"
        )
    classes = load_taxonomy("cityscapes").classes
    table = {}
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise DatasetError(f"{config}: class {index} of 'labels' has no name")
        target = _target(name)
        if target is None:
            raise DatasetError(
                f"{config}: the class {short_repr(name)} has no counterpart in Cityscapes, nor is "
                "it one to ignore (known are those of v1.2 and v2.0)"
            )
        if target:
            table[index] = classes.index(target)
    return lookup_table(table, range(len(entries)))


def _target(name: str) -> str | None:
    """The Cityscapes class of a class or of what it belongs to, "" for none; None if unknown."""
    while name not in _TARGETS:
        if "--" not in name:
            return None
        name = name.rpartition("--")[0]
    return _TARGETS[name]
