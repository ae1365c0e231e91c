# SPDX-License-Identifier: Apache-2.0
"""Cityscapes (Cordts et al., CVPR 2016), from https://www.cityscapes-dataset.com."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg_ros.datasets.base import (
    CameraIntrinsics,
    Dataset,
    Sample,
    check_switch,
    image_files,
    number,
    read_json,
)
from anomaly_seg_ros.datasets.label_tables import anomaly_table, lookup_table
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES

# Cityscapes labelIds -> trainIds (Cordts et al., CVPR 2016; the 19 evaluated classes).
CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip

# All labelIds that a label file may hold; tools store the licence plates' -1 as 255.
CITYSCAPES_STORED = (*range(34), 255)

# Classes that are labelled but not evaluated, so no network learns them: the unknowns of the
# Cityscapes-void experiment.
CITYSCAPES_VOID = {
    4: "static", 5: "dynamic", 6: "ground", 9: "parking", 10: "rail track", 14: "guard rail",
    15: "bridge", 16: "tunnel", 18: "polegroup", 29: "caravan", 30: "trailer",
}  # fmt: skip

IMAGE_ENDING = "_leftImg8bit"


@dataclass(frozen=True)
class TreeEntry:
    """One frame of the folder tree of Cityscapes, which Lost and Found shares.

    Attributes:
        name: File name without ``_leftImg8bit`` and suffix.
        image_path: The left image.
        label_path: The labelIds file (which may not exist).
        disparity_path: The disparity file, None if there is none.
        camera: Intrinsics from the camera file, None if there is none.
    """

    name: str
    image_path: Path
    label_path: Path
    disparity_path: Path | None
    camera: CameraIntrinsics | None


class CityscapesDataset(Dataset):
    """Fine labels of one split, with disparity and camera files if they are there.

    Args:
        root: Folder that holds leftImg8bit/ and gtFine/.
        split: "train", "val" or "test".
        void_as_unknown: Also make an anomaly mask of the labelled classes outside the 19 (static,
            dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan,
            trailer) = 1, the 19 = 0; unlabeled, ego vehicle, rectification border, out of roi
            and license plate stay ignored (the Cityscapes-void experiment).

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ParameterError: ``void_as_unknown`` is neither true nor false.
    """

    name = "cityscapes"
    tree = (
        "  ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png\n"
        "  ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png\n"
        "  ROOT/disparity/SPLIT/CITY/NAME_disparity.png   (optional)\n"
        "  ROOT/camera/SPLIT/CITY/NAME_camera.json        (optional)"
    )
    taxonomy = "labelIds become the 19 Cityscapes trainIds; all other ids are ignored."

    def __init__(
        self, root: str | Path, split: str | None = None, void_as_unknown: bool = False
    ) -> None:
        self.root = Path(root)
        check_switch("void_as_unknown", void_as_unknown)
        split = self.check_split(split or "val", splits(self.root))
        labels = lookup_table(CITYSCAPES_IDS, CITYSCAPES_STORED)
        mask = anomaly_table(CITYSCAPES_IDS, CITYSCAPES_VOID, CITYSCAPES_STORED)
        super().__init__(
            self.root,
            (
                Sample(
                    name=entry.name,
                    image_path=entry.image_path,
                    anomaly_mask_path=entry.label_path if void_as_unknown else None,
                    anomaly_mask_table=mask,
                    labels_path=entry.label_path,
                    labels_table=labels,
                    disparity_path=entry.disparity_path,
                    disparity_offset=1,
                    camera=entry.camera,
                )
                for entry in tree_entries(self.root, split, "gtFine")
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if leftImg8bit/ and gtFine/ are there."""
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def tree_entries(root: Path, split: str, label_folder: str) -> Iterator[TreeEntry]:
    """Yields the frames of one split, sorted by folder and name.

    Args:
        root: Folder that holds leftImg8bit/.
        split: Name of the split, such as "train".
        label_folder: "gtFine" or "gtCoarse".
    """
    for folder in sorted(x for x in (root / "leftImg8bit" / split).iterdir() if x.is_dir()):
        for image in image_files(folder):
            if not image.stem.endswith(IMAGE_ENDING):
                continue
            name = image.stem.removesuffix(IMAGE_ENDING)
            place = Path(split) / folder.name
            disparity = root / "disparity" / place / f"{name}_disparity.png"
            camera = root / "camera" / place / f"{name}_camera.json"
            yield TreeEntry(
                name=name,
                image_path=image,
                label_path=root / label_folder / place / f"{name}_{label_folder}_labelIds.png",
                disparity_path=disparity if disparity.is_file() else None,
                camera=read_camera(camera) if camera.is_file() else None,
            )


def splits(root: Path) -> list[str]:
    """Names of the splits under leftImg8bit/."""
    folder = root / "leftImg8bit"
    return sorted(x.name for x in folder.iterdir() if x.is_dir()) if folder.is_dir() else []


def read_camera(path: Path) -> CameraIntrinsics:
    """Reads a Cityscapes camera file.

    Raises:
        DatasetError: The file is unreadable, or a key is missing or no number.
    """
    content = read_json(path)

    def value(group: str, key: str) -> float:
        try:
            found = content[group][key]
        except (KeyError, TypeError):
            raise DatasetError(f"{path}: key '{group}.{key}' is missing") from None
        return number(found, f"{group}.{key}", path)

    return CameraIntrinsics(
        fx=value("intrinsic", "fx"),
        fy=value("intrinsic", "fy"),
        cx=value("intrinsic", "u0"),
        cy=value("intrinsic", "v0"),
        baseline_m=value("extrinsic", "baseline"),
    )


def left_images(folder: Path) -> dict[str, Path]:
    """The ``NAME_leftImg8bit`` images in a folder and all its sub-folders, by NAME."""
    return {
        path.stem.removesuffix(IMAGE_ENDING): path
        for path in folder.rglob(f"*{IMAGE_ENDING}.*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
