# SPDX-License-Identifier: Apache-2.0
"""Fishyscapes Static validation (Blum et al., IJCV 2021), https://fishyscapes.com.

The release (fs_val_v1.zip to fs_val_v3.zip; v3 is the one in use) holds masks and, because
Cityscapes may not be redistributed, overlays that are added to Cityscapes val images. Rendered
copies, where ``_rgb.npz`` has become ``_rgb.jpg`` or ``_rgb.png``, are in use as well
(DenseHybrid, RbA). File names as in ``fishyscapes_tfds.py`` of hermannsblum's bdl-benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample
from anomaly_seg_ros.datasets.cityscapes import IMAGE_ENDING, left_images
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES

_MASK_NAME = re.compile(r"(\d+_(.+))_labels\.png")


class FishyscapesStaticDataset(Dataset):
    """Objects pasted into Cityscapes val frames; masks hold 0, 1 and 255.

    Args:
        root: Folder that holds the masks, itself or in a sub-folder; the last of several versions
            is used.
        images: Folder to search, with all its sub-folders, for the Cityscapes images that overlays
            need; ``root`` by default.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "fishyscapes_static"
    tree = (
        "  ROOT[/fs_val_v3]/NNNN_NAME_labels.png\n"
        "  ROOT[/fs_val_v3]/NNNN_NAME_rgb.npz\n"
        "  ROOT/**/NAME_leftImg8bit.png   (Cityscapes' leftImg8bit, or the option 'images')\n"
        "or, rendered,\n"
        "  ROOT[/fs_val_vN]/NNNN_NAME_labels.png\n"
        "  ROOT[/fs_val_vN or /fs_static_images_vN]/NNNN_NAME_rgb.{jpg,png,webp}"
    )
    taxonomy = "0 in-distribution, 1 anomaly, 255 ignore, as released."

    def __init__(self, root: str | Path, images: str | Path | None = None) -> None:
        self.root = Path(root)
        super().__init__(self.root, self._find(self.root if images is None else Path(images)))

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if masks of the official name lie beside their images or overlays."""
        return any(frame.partner for frame in _frames(root))

    def _find(self, cityscapes: Path) -> Iterator[Sample]:
        frames = _frames(self.root)
        originals = {}
        if any(frame.is_overlay for frame in frames):
            originals = left_images(cityscapes)
        for frame in frames:
            if frame.partner is None:
                raise self.wrong_tree(f"no {frame.name}_rgb.* for {frame.mask}")
            image = originals.get(frame.original) if frame.is_overlay else frame.partner
            if image is None:
                raise self.wrong_tree(
                    f"no Cityscapes image {frame.original}{IMAGE_ENDING}.png for {frame.mask}"
                )
            yield Sample(
                name=frame.name,
                image_path=image,
                anomaly_mask_path=frame.mask,
                overlay_path=frame.partner if frame.is_overlay else None,
            )


@dataclass(frozen=True)
class _Frame:
    """A mask and its image or overlay.

    Attributes:
        name: Number and Cityscapes name.
        original: Cityscapes name.
        mask: The mask.
        partner: The image or the overlay, if there is one.
    """

    name: str
    original: str
    mask: Path
    partner: Path | None

    @property
    def is_overlay(self) -> bool:
        """True if a Cityscapes image is needed."""
        return self.partner is not None and self.partner.suffix == ".npz"


def _frames(root: Path) -> list[_Frame]:
    """The masks of the last folder, among the root and its sub-folders, that has partners.

    If none has any, the masks of the first folder with masks.
    """
    folders = [root, *sorted(x for x in root.iterdir() if x.is_dir())] if root.is_dir() else []
    found = [frames for folder in folders if (frames := _frames_in(folder))]
    complete = [frames for frames in found if any(frame.partner for frame in frames)]
    return complete[-1] if complete else found[0] if found else []


def _frames_in(folder: Path) -> list[_Frame]:
    rendered = folder.with_name(folder.name.replace("fs_val", "fs_static_images"))
    partners: dict[str, Path] = {}
    for path in (*sorted(folder.glob("*_rgb.*")), *sorted(rendered.glob("*_rgb.*"))):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            partners[path.stem.removesuffix("_rgb")] = path
        elif path.suffix == ".npz":
            partners.setdefault(path.stem.removesuffix("_rgb"), path)
    return [
        _Frame(match[1], match[2], path, partners.get(match[1]))
        for path in sorted(folder.glob("*_labels.png"))
        if (match := _MASK_NAME.fullmatch(path.name))
    ]
