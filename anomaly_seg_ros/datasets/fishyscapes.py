# SPDX-License-Identifier: Apache-2.0
"""Fishyscapes Lost & Found validation (Blum et al., IJCV 2021), https://fishyscapes.com.

The release holds the masks only (fishyscapes_lostandfound.zip, files
``NNNN_NAME_labels.png``); the images are those of Lost and Found, ``NAME_leftImg8bit.png``.
File names as in ``fishyscapes_tfds.py`` of hermannsblum's bdl-benchmark; the copy that
SegmentMeIfYouCan/road-anomaly-benchmark reads (``NAME_fishy-labels.png``) works, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files
from anomaly_seg_ros.datasets.cityscapes import IMAGE_ENDING, left_images
from anomaly_seg_ros.datasets.folder import image_label_pairs

_MASK_NAME = re.compile(r"\d+_(?P<frame>.+)_labels\.png|(?P<copied>.+)_fishy-labels\.png")
# Folders that may hold the masks: the archive has no folder of its own.
_MASK_FOLDERS = ("fishyscapes_lostandfound", ".", "labels/val")


class FishyscapesDataset(Dataset):
    """Re-labelled frames of Lost and Found; masks hold 0, 1 and 255.

    Args:
        root: The folder, in the official shape or as images/ and labels/ of equal stems.
        images: Folder to search, with all its sub-folders, for the Lost and Found images of the
            official shape; ``root`` by default.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "fishyscapes"
    component_sizes = "obstacle_track"
    tree = (
        "  ROOT[/fishyscapes_lostandfound]/NNNN_NAME_labels.png\n"
        "    (or ROOT/labels/val/NAME_fishy-labels.png)\n"
        "  ROOT/**/NAME_leftImg8bit.png   (Lost and Found's leftImg8bit, or the option 'images')\n"
        "or\n"
        "  ROOT/images/STEM.{png,webp}\n"
        "  ROOT/labels/STEM.png"
    )
    taxonomy = "0 in-distribution, 1 anomaly, 255 ignore, as released."

    def __init__(self, root: str | Path, images: str | Path | None = None) -> None:
        self.root = Path(root)
        if (self.root / "images").is_dir() and (self.root / "labels").is_dir():
            samples: Iterator[Sample] = (
                Sample(name=image.stem, image_path=image, anomaly_mask_path=mask)
                for image, mask in image_label_pairs(self, split=None)
            )
        else:
            samples = self._official(self.root if images is None else Path(images))
        super().__init__(self.root, samples)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for the official mask file names."""
        # Fishyscapes Static uses the same names, so it must be tried first.
        return bool(_official_masks(root))

    def _official(self, image_root: Path) -> Iterator[Sample]:
        masks = _official_masks(self.root)
        if not masks:
            raise self.wrong_tree("found no mask")
        images = left_images(image_root)
        for frame, mask in masks:
            if frame not in images:
                raise self.wrong_tree(f"no image {frame}{IMAGE_ENDING}.png for {mask}")
            yield Sample(
                name=re.sub("_(fishy-)?labels$", "", mask.stem),
                image_path=images[frame],
                anomaly_mask_path=mask,
            )


def _official_masks(root: Path) -> list[tuple[str, Path]]:
    """Names of the Lost and Found frames and their masks, sorted by the masks' names."""
    for folder in (root / x for x in _MASK_FOLDERS):
        if folder.is_dir():
            found = [(_MASK_NAME.fullmatch(x.name), x) for x in image_files(folder)]
            masks = [(m["frame"] or m["copied"], x) for m, x in found if m]
            if masks:
                return masks
    return []
