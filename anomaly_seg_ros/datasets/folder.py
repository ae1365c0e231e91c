"""Any folder of images, with or without labels of the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.images import LABEL_SUFFIXES

LABEL_KINDS = ("anomaly", "classes")


class FolderDataset(Dataset):
    """Images and labels that share their stems, in two folders side by side.

    Two more shapes are accepted: ``ROOT/SPLIT/images`` ... with the option ``split``, and a plain
    folder of images, which then have no ground truth.

    Args:
        root: The folder.
        split: Sub-folder of ``root`` to use.
        labels: What the label files hold: "anomaly" (0 in-distribution, 1 anomaly, 255 ignore)
            or "classes" (trainIds, 255 = ignore).

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ParameterError: An unknown kind of labels.
    """

    name = "folder"
    tree = (
        "  ROOT[/SPLIT]/images/STEM.{jpg,png,webp,ppm}\n"
        "  ROOT[/SPLIT]/labels/STEM.png   (or masks/; may be absent as a whole)\n"
        "or images directly in ROOT"
    )
    taxonomy = "Labels are anomaly masks (0, 1, 255) or trainIds, as the option 'labels' says."

    def __init__(
        self, root: str | Path, split: str | None = None, labels: str = "anomaly"
    ) -> None:
        self.root = Path(root)
        if labels not in LABEL_KINDS:
            raise ParameterError(f"labels: expected one of {', '.join(LABEL_KINDS)}, got {labels}")
        is_mask = labels == "anomaly"
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=label if is_mask else None,
                    labels_path=None if is_mask else label,
                )
                for image, label in image_label_pairs(self, split)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for a folder with images/, for a folder of splits, and for a folder of images."""
        if (root / "images").is_dir() or bool(image_files(root)):
            return True
        return any((child / "images").is_dir() for child in root.iterdir() if child.is_dir())


def image_label_pairs(
    dataset: Dataset, split: str | None, needs_labels: bool = False
) -> Iterator[tuple[Path, Path | None]]:
    """Pairs the files of images/ and labels/ (or masks/) by their stems, sorted by name.

    Args:
        dataset: Whose ``root`` is searched, and which words the errors.
        split: Sub-folder of the root to use.
        needs_labels: Whether images without a folder of labels are an error.

    Yields:
        The image and its label; None as label where there is no folder of labels.

    Raises:
        DatasetError: The folder has another shape, or an image has no label in a folder of labels.
    """
    folder = dataset.root if split is None else dataset.root / split
    if not folder.is_dir():
        raise dataset.wrong_tree(f"has no folder {split}" if split else "is not a folder")
    images = folder / "images"
    if not images.is_dir():
        splits = sorted(x.name for x in folder.iterdir() if (x / "images").is_dir())
        if splits:
            raise dataset.wrong_tree(f"choose a split: {', '.join(splits)}")
        images = folder
    candidates = (folder / "labels", folder / "masks")
    label_folder = next((x for x in candidates if x.is_dir()), None)
    if label_folder is None and needs_labels:
        raise dataset.wrong_tree("has no folder labels")
    labels = {}
    if label_folder is not None:
        labels = {
            x.stem: x for x in image_files(label_folder) if x.suffix.lower() in LABEL_SUFFIXES
        }
    seen: dict[str, Path] = {}
    for image in image_files(images):
        if image.stem in seen:
            raise dataset.wrong_tree(f"two images share a stem: {seen[image.stem]} and {image}")
        seen[image.stem] = image
        if label_folder is not None and image.stem not in labels:
            raise dataset.wrong_tree(f"{label_folder} has no label for {image.name}")
        yield image, labels.get(image.stem)
