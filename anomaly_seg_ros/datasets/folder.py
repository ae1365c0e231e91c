# SPDX-License-Identifier: Apache-2.0
"""Any folder of images, with or without label files of the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files
from anomaly_seg_ros.datasets.cityscapes import CITYSCAPES_IDS, CITYSCAPES_STORED
from anomaly_seg_ros.datasets.label_map_file import LabelMap, read_label_map
from anomaly_seg_ros.datasets.label_tables import lookup_table
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.images import LABEL_SUFFIXES
from anomaly_seg_ros.labels import MASK_255_IGNORE, check_mask_255

MASKS, CLASSES, LABEL_IDS = "anomaly", "classes", "label_ids"
LABEL_KINDS = (MASKS, CLASSES, LABEL_IDS)
IMAGE_FOLDERS = ("images", "original")
LABEL_FOLDERS = ("labels", "masks", "labels_masks")


class FolderDataset(Dataset):
    """Images and labels that share their stems, in two folders side by side.

    The folders may also have the names of common repackaged benchmarks: ``original`` for images,
    ``labels_masks`` for labels.

    Two more trees are accepted: ``ROOT/SPLIT/images`` ... with the option ``split``, and a plain
    folder of images, which then have no ground truth.

    Args:
        root: The folder.
        split: Sub-folder of ``root`` to use.
        labels: Content of the label files: "anomaly" (0 in-distribution, 1 anomaly, 255 ignore),
            "classes" (trainIds, 255 = ignore) or "label_ids" (Cityscapes' labelIds). Default
            "anomaly".
        label_map: YAML file that defines other stored values, or colours; see
            :mod:`.label_map_file`. Replaces ``labels`` and ``taxonomy``.
        mask_255: Meaning of 255 in the anomaly masks: "ignore", or "anomaly" if masks hold only 0
            and 255 (nothing is ignored then). Without it, tools refuse a set of masks without any
            1, see :func:`.label_scan.check_mask_convention`.
        taxonomy: Whose trainIds the class labels are: a name of config/taxonomies, or a YAML
            file. Default "cityscapes".

    Raises:
        DatasetError: The folder or the label map has another shape; the message shows it.
        ParameterError: The kind of labels is unknown, or two options define it.
    """

    name = "folder"
    component_sizes = None
    tree = (
        "  ROOT[/SPLIT]/images/STEM.{jpg,png,webp,ppm}\n"
        "  ROOT[/SPLIT]/labels/STEM.png   (or masks/, labels_masks/; may be absent as a whole)\n"
        "or images directly in ROOT"
    )
    taxonomy = (
        "Labels are anomaly masks (0, 1, 255) or trainIds, as the option 'labels' says, or what "
        "the label map says."
    )

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        labels: str | None = None,
        label_map: str | Path | None = None,
        mask_255: str | None = None,
        taxonomy: str | Path | None = None,
    ) -> None:
        self.root = Path(root)
        check_mask_255(mask_255)
        if mask_255 and (label_map is not None or labels not in (None, MASKS)):
            raise ParameterError(
                "mask_255: is for anomaly masks (labels=anomaly); class labels and label maps say "
                "themselves what 255 means"
            )
        if label_map is None:
            kind = check_choice("labels", labels or MASKS, LABEL_KINDS)
            table = lookup_table(CITYSCAPES_IDS, CITYSCAPES_STORED) if kind == LABEL_IDS else None
            if taxonomy is not None and kind != CLASSES:
                raise ParameterError(f"taxonomy: is for class labels (labels=classes), not {kind}")
            name = str(taxonomy or "cityscapes")
            meaning = LabelMap(name, kind != MASKS, kind == MASKS, labels_table=table)
        elif labels is not None:
            raise ParameterError("labels: says the same as label_map; give one of them")
        elif taxonomy is not None:
            raise ParameterError("taxonomy: the label map names its own, with the key 'taxonomy'")
        else:
            meaning = read_label_map(label_map)
        self.taxonomy_name = meaning.taxonomy_name
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=label if meaning.has_mask else None,
                    anomaly_mask_table=meaning.anomaly_mask_table,
                    mask_255=mask_255 if meaning.anomaly_mask_table is None else MASK_255_IGNORE,
                    labels_path=label if meaning.has_labels else None,
                    labels_table=meaning.labels_table,
                    code=meaning.colour_code,
                )
                for image, label in image_label_pairs(self, split)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for a folder with images/, for a folder of splits, and for a folder of images."""
        if _first(root, IMAGE_FOLDERS) or image_files(root):
            return True
        return any(_first(child, IMAGE_FOLDERS) for child in root.iterdir() if child.is_dir())


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first sub-folder that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _splits(folder: Path) -> list[str]:
    """Sub-folders with images/."""
    return sorted(x.name for x in folder.iterdir() if _first(x, IMAGE_FOLDERS))


def image_label_pairs(
    dataset: Dataset, split: str | None, needs_labels: bool = False
) -> Iterator[tuple[Path, Path | None]]:
    """Pairs the files of images/ and labels/ (or masks/) by their stems, sorted by name.

    Args:
        dataset: Its ``root`` is searched, and it words the errors.
        split: Sub-folder of the root to use.
        needs_labels: True makes images without a folder of labels an error.

    Yields:
        The image and its label, None if there is no folder of labels.

    Raises:
        DatasetError: The folder has another shape, or an image has no label in a folder of labels.
    """
    if not dataset.root.is_dir():
        raise dataset.wrong_tree("is not a folder")
    folder = dataset.root
    if split is not None and not (folder := dataset.root / split).is_dir():
        dataset.check_split(split, _splits(dataset.root))
    images = _first(folder, IMAGE_FOLDERS)
    if images is None:
        if splits := _splits(folder):
            raise dataset.wrong_tree(f"choose a split: {', '.join(splits)}")
        images = folder
    label_folder = _first(folder, LABEL_FOLDERS)
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
