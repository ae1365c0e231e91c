# SPDX-License-Identifier: Apache-2.0
"""StreetHazards (Hendrycks et al., ICML 2022), https://github.com/hendrycks/anomaly-seg.

Rendered in CARLA, 1280x720: streethazards_train.tar (towns t1 to t4) and streethazards_test.tar
(towns t5 and t6), unpacked into one folder. Stored labels are 1 to 14 in the order of the
repository's create_dataset.py; 0 and 255 are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files
from anomaly_seg_ros.datasets.label_tables import anomaly_table, lookup_table

# StreetHazards labels -> trainIds, in the order of its create_dataset.py: 1 unlabeled, 2 building,
# 3 fence, 5 pedestrian, 6 pole, 7 road line, 8 road, 9 sidewalk, 10 vegetation, 11 car, 12 wall,
# 13 traffic sign. "unlabeled" is anything without another label, and a class like the others
# (Hendrycks' and DenseHybrid's code).
IDS = {
    1: 0, 2: 1, 3: 2, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 10: 8, 11: 9, 12: 10, 13: 11,
}  # fmt: skip
_OTHER_ID = 4
_ANOMALY_ID = 14
_STORED = (*range(15), 255)

# Split -> folder of the archive that holds it.
SPLITS = {"training": "train", "validation": "train", "test": "test"}
OTHER = ("ignore", "known")


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """The images and the annotations of a split."""
    folder = root / SPLITS[split]
    return folder / "images" / split, folder / "annotations" / split


class StreetHazardsDataset(Dataset):
    """Twelve known classes, and objects in the test towns that belong to none.

    Open-set measures take the threshold of one test town to the other, so each sample's ``fold``
    is its town. (DenseHybrid's loader for "t5" skips that town, so its names are exchanged; the
    mean over both, weighted by images, is the same.)

    Args:
        root: Folder that holds train/ and test/, or one of them.
        split: "training", "validation" or "test".
        fold: Only this town, such as "t5".
        other: Pixels of the class "other" in the anomaly mask: "ignore" (DenseHybrid), or "known"
            (the data set's own evaluation). They never get a trainId.

    Raises:
        DatasetError: The folder has another shape, or not the town.
        ParameterError: The split or the value of ``other`` is unknown.
    """

    name = "street_hazards"
    tree = (
        "  ROOT/train/images/{training,validation}/TOWN/N.png\n"
        "  ROOT/train/annotations/{training,validation}/TOWN/N.png\n"
        "  ROOT/test/images/test/{t5,t6}/N.png\n"
        "  ROOT/test/annotations/test/{t5,t6}/N.png"
    )
    taxonomy = "Labels 1 to 13 without 4 (other) become 12 trainIds; 14 is anomaly."
    taxonomy_name = "streethazards"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        fold: str | None = None,
        other: str = "ignore",
    ) -> None:
        self.root = Path(root)
        split = check_choice("split", split or "test", SPLITS)
        check_choice("other", other, OTHER)
        images, labels = _folders(self.root, split)
        for needed in (images, labels):
            if not needed.is_dir():
                found = [x for x in SPLITS if all(y.is_dir() for y in _folders(self.root, x))]
                raise self.wrong_tree(
                    f"has no folder {needed.relative_to(self.root)} (splits found: "
                    f"{', '.join(found) or 'none'})"
                )
        towns = sorted(x.name for x in images.iterdir() if x.is_dir())
        if fold is not None and fold not in towns:
            raise self.wrong_tree(f"no town '{fold}' (found: {', '.join(towns) or 'none'})")
        known_other = (_OTHER_ID,) if other == "known" else ()
        self._mask_table = anomaly_table((*IDS, *known_other), (_ANOMALY_ID,), _STORED)
        chosen = towns if fold is None else [fold]
        super().__init__(self.root, self._find(images, labels, chosen, split == "test"))

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with the annotations of any split."""
        return any(
            (root / folder / "annotations" / split).is_dir() for split, folder in SPLITS.items()
        )

    def _find(
        self, images: Path, labels: Path, towns: list[str], has_folds: bool
    ) -> Iterator[Sample]:
        labels_table = lookup_table(IDS, _STORED)
        for town in towns:
            for image in image_files(images / town):
                label = labels / town / f"{image.stem}.png"
                yield Sample(
                    name=f"{town}_{image.stem}",  # the towns number their frames alike
                    image_path=image,
                    anomaly_mask_path=label,
                    anomaly_mask_table=self._mask_table,
                    labels_path=label,
                    labels_table=labels_table,
                    fold=town if has_folds else "",
                )
