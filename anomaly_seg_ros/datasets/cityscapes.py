"""Cityscapes (Cordts et al., CVPR 2016), from https://www.cityscapes-dataset.com."""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.datasets import cityscapes_tree
from anomaly_seg_ros.datasets.base import Dataset, Sample, check_switch
from anomaly_seg_ros.datasets.label_maps import (
    CITYSCAPES_IDS,
    CITYSCAPES_STORED,
    CITYSCAPES_VOID,
    anomaly_table,
    lookup_table,
)


class CityscapesDataset(Dataset):
    """Fine labels of one split; disparity and camera files are used where they lie beside.

    Args:
        root: Folder that holds leftImg8bit/ and gtFine/.
        split: "train", "val" or "test".
        void_as_unknown: Also make an anomaly mask of the labelled classes outside the 19 (static,
            dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan,
            trailer) = 1, the 19 = 0; unlabeled, ego vehicle, rectification border, out of roi
            and license plate stay ignored (the Cityscapes-void experiment).

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ParameterError: ``void_as_unknown`` is no switch.
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
        split = self.check_split(split or "val", cityscapes_tree.splits(self.root))
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
                for entry in cityscapes_tree.tree_entries(self.root, split, "gtFine")
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if leftImg8bit/ and gtFine/ are there."""
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()
