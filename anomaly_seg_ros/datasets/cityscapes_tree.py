"""The folder tree that Cityscapes introduced and Lost and Found shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg_ros.datasets.base import Camera, image_files, number, read_json
from anomaly_seg_ros.errors import DatasetError

IMAGE_ENDING = "_leftImg8bit"


@dataclass(frozen=True)
class TreeEntry:
    """One frame of the tree.

    Attributes:
        name: File name without ``_leftImg8bit`` and suffix.
        image_path: The left image.
        label_path: The labelIds file (which may not exist).
        disparity_path: The disparity file, None if there is none.
        camera: From the camera file, None if there is none.
    """

    name: str
    image_path: Path
    label_path: Path
    disparity_path: Path | None
    camera: Camera | None


def tree_entries(root: Path, split: str, label_folder: str) -> Iterator[TreeEntry]:
    """Frames of one split, sorted by folder and name.

    Args:
        root: Folder that holds leftImg8bit/.
        split: Such as "train".
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


def read_camera(path: Path) -> Camera:
    """Reads a Cityscapes camera file.

    Raises:
        DatasetError: Unreadable, or a key is missing or no number.
    """
    content = read_json(path)

    def value(group: str, key: str) -> float:
        try:
            found = content[group][key]
        except (KeyError, TypeError):
            raise DatasetError(f"{path}: key '{group}.{key}' is missing") from None
        return number(found, f"{group}.{key}", path)

    return Camera(
        fx=value("intrinsic", "fx"),
        fy=value("intrinsic", "fy"),
        cx=value("intrinsic", "u0"),
        cy=value("intrinsic", "v0"),
        baseline_m=value("extrinsic", "baseline"),
    )
