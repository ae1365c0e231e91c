"""Fishyscapes Lost & Found validation (Blum et al., IJCV 2021), https://fishyscapes.com.

The release holds the masks only (fishyscapes_lostandfound.zip, files
``NNNN_NAME_labels.png``); the images are those of Lost and Found, ``NAME_leftImg8bit.png``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files
from anomaly_seg_ros.datasets.cityscapes_tree import IMAGE_ENDING
from anomaly_seg_ros.datasets.folder import image_label_pairs
from anomaly_seg_ros.images import IMAGE_SUFFIXES

_MASK_NAME = re.compile(r"(\d+)_(.+)_labels\.png")


class FishyscapesDataset(Dataset):
    """Re-labelled frames of Lost and Found; masks hold 0, 1 and 255.

    Args:
        root: The folder, in the official shape or as images/ and labels/ of equal stems.
        images: Folder that is searched, with all its sub-folders, for the Lost and Found images
            of the official shape; ``root`` by default.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "fishyscapes"
    tree = (
        "  ROOT/fishyscapes_lostandfound/NNNN_NAME_labels.png\n"
        "  ROOT/**/NAME_leftImg8bit.png   (Lost and Found's leftImg8bit, or the option 'images')\n"
        "or\n"
        "  ROOT/images/STEM.{png,webp}\n"
        "  ROOT/labels/STEM.png"
    )
    taxonomy = "0 in-distribution, 1 anomaly, 255 ignore, as released."

    def __init__(self, root: str | Path, images: str | Path | None = None) -> None:
        self.root = Path(root)
        if (self.root / "images").is_dir() and (self.root / "labels").is_dir():
            samples = (
                Sample(name=image.stem, image_path=image, anomaly_mask_path=mask)
                for image, mask in image_label_pairs(self, split=None)
            )
        else:
            samples = self._official(self.root if images is None else Path(images))
        super().__init__(self.root, samples)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for the official mask file names."""
        folder = root / "fishyscapes_lostandfound"
        return folder.is_dir() and any(_MASK_NAME.fullmatch(x.name) for x in folder.iterdir())

    def _official(self, image_root: Path) -> Iterator[Sample]:
        folder = self.root / "fishyscapes_lostandfound"
        if not folder.is_dir():
            raise self.wrong_tree("has no folder fishyscapes_lostandfound")
        images = {
            path.stem.removesuffix(IMAGE_ENDING): path
            for path in image_root.rglob(f"*{IMAGE_ENDING}.*")
            if path.suffix.lower() in IMAGE_SUFFIXES
        }
        for mask in image_files(folder):
            match = _MASK_NAME.fullmatch(mask.name)
            if match is None:
                continue
            image = images.get(match.group(2))
            if image is None:
                raise self.wrong_tree(f"no image {match.group(2)}{IMAGE_ENDING}.png for {mask}")
            yield Sample(
                name=f"{match.group(1)}_{match.group(2)}", image_path=image, anomaly_mask_path=mask
            )
