# SPDX-License-Identifier: Apache-2.0
"""BDD-Anomaly (Hendrycks et al., ICML 2022): BDD100K with some classes declared unknown.

Images from https://bdd-data.berkeley.edu ("10K images"), labels from there or from the folder
``seg`` of https://github.com/hendrycks/anomaly-seg: trainIds 0 to 18, 255 unlabelled. That
repository's ``train_labels`` hold trainId + 2 and are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files
from anomaly_seg_ros.datasets.label_scan import stored_values
from anomaly_seg_ros.datasets.label_tables import anomaly_table, lookup_table
from anomaly_seg_ros.labels import IGNORE_INDEX

# BDD100K label (a Cityscapes trainId) -> trainId of BDD-Anomaly; train (16) and motorcycle (17)
# have none, bicycle (18) takes the first free one.
CLASSES: tuple[int | None, ...] = (*range(16), None, None, 16)
# The two published choices of unknown classes.
ANOMALIES = {"motorcycle+train": (16, 17), "motorcycle+train+bicycle": (16, 17, 18)}

SPLITS = ("train", "val", "test")
UNLABELLED = ("ignore", "known")
# Images, labels and the labels' ending, in the two releases of BDD100K.
_SHAPES = (
    ("images/10k", "labels/sem_seg/masks", ".png"),
    ("seg/images", "seg/labels", "_train_id.png"),
)


class BddAnomalyDataset(Dataset):
    """BDD100K's train and val without the unknown classes; all frames with one are the test set.

    The split follows from the labels, which are all read when "train" or "test" is opened (8000
    files, one to two minutes on two cores). It gives the published 6688 / 951 / 361 frames for
    motorcycle and train, and 6280 / 910 / 810 with bicycle.

    Args:
        root: Folder ``bdd100k``.
        split: "train", "val" or "test".
        anomalies: The unknown classes, "motorcycle+train" (the paper) or
            "motorcycle+train+bicycle" (its create_bdd_dataset.py, and others after it).
        unlabelled: Unlabelled pixels in the anomaly mask: "ignore", or "known" as in the paper's
            evaluation. They never get a trainId.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ImageError: A label file is missing or damaged.
        ParameterError: An option has an unknown value.
    """

    name = "bdd_anomaly"
    tree = (
        "  ROOT/images/10k/{train,val}/NAME.jpg\n"
        "  ROOT/labels/sem_seg/masks/{train,val}/NAME.png\n"
        "or, the older release,\n"
        "  ROOT/seg/images/{train,val}/NAME.jpg\n"
        "  ROOT/seg/labels/{train,val}/NAME_train_id.png"
    )
    taxonomy = "Cityscapes trainIds without train and motorcycle: 0 to 15, and 16 = bicycle."
    taxonomy_name = "bdd_anomaly"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        anomalies: str = "motorcycle+train",
        unlabelled: str = "ignore",
    ) -> None:
        self.root = Path(root)
        self._split = check_choice("split", split or "test", SPLITS)
        check_choice("unlabelled", unlabelled, UNLABELLED)
        self._unknown = ANOMALIES[check_choice("anomalies", anomalies, ANOMALIES)]
        known = [i for i in range(len(CLASSES)) if i not in self._unknown]
        kept = {i: target for i in known if (target := CLASSES[i]) is not None}
        self._labels_table = lookup_table(kept, (*range(len(CLASSES)), IGNORE_INDEX))
        self._mask_table = anomaly_table(
            known=(*known, *((IGNORE_INDEX,) if unlabelled == "known" else ())),
            unknown=self._unknown,
            ignored=(IGNORE_INDEX,) if unlabelled == "ignore" else (),
        )
        super().__init__(self.root, self._find())

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with the images and labels of one of the two releases."""
        return any((root / a).is_dir() and (root / b).is_dir() for a, b, _ in _SHAPES)

    def _find(self) -> Iterator[Sample]:
        folders = ("train", "val") if self._split == "test" else (self._split,)
        pairs = [pair for folder in folders for pair in self._pairs(folder)]
        unknown = set(self._unknown)
        values = stored_values(label for _, label in pairs)
        for (image, label), held in zip(pairs, values, strict=True):
            if bool(unknown & held) == (self._split == "test"):
                yield Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=label,
                    anomaly_mask_table=self._mask_table,
                    labels_path=label,
                    labels_table=self._labels_table,
                )

    def _pairs(self, folder: str) -> Iterator[tuple[Path, Path]]:
        for images, labels, ending in _SHAPES:
            if (self.root / images / folder).is_dir():
                for image in image_files(self.root / images / folder):
                    yield image, self.root / labels / folder / f"{image.stem}{ending}"
                return
        there = [
            x for x in ("train", "val") if any((self.root / y / x).is_dir() for y, *_ in _SHAPES)
        ]
        raise self.wrong_tree(
            f"has no folder of the images of {folder} (found: {', '.join(there) or 'none'})"
        )
