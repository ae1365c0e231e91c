"""Lost and Found (Pinggera et al., IROS 2016), small obstacles on the road.

From http://www.6d-vision.com/lostandfounddataset: leftImg8bit.zip, gtCoarse.zip, and for the
evaluation by distance disparity.zip and camera.zip, unpacked into one folder.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.datasets import cityscapes_tree
from anomaly_seg_ros.datasets.base import Dataset, Sample
from anomaly_seg_ros.datasets.label_maps import (
    LOST_AND_FOUND_FREE_SPACE,
    LOST_AND_FOUND_NON_HAZARDS,
    LOST_AND_FOUND_OBSTACLES,
    anomaly_table,
)
from anomaly_seg_ros.errors import ParameterError

NON_HAZARDS = ("anomaly", "ignore")


class LostAndFoundDataset(Dataset):
    """The original release, with its coarse labels as anomaly masks.

    labelId 0 (background, ego vehicle, rectification border, out of the region) is ignored, 1
    (free space) is in-distribution, 2 to 43 are objects on the road and so anomalies.

    Args:
        root: Folder that holds leftImg8bit/ and gtCoarse/.
        split: "train" or "test".
        non_hazards: What becomes of the seven objects one can drive over (wheel cap, thin wood
            ...): "anomaly" as in SegmentMeIfYouCan, or "ignore" as in the data set's trainIds.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ParameterError: An unknown value of ``non_hazards``.
    """

    name = "lost_and_found"
    tree = (
        "  ROOT/leftImg8bit/SPLIT/SEQUENCE/NAME_leftImg8bit.png\n"
        "  ROOT/gtCoarse/SPLIT/SEQUENCE/NAME_gtCoarse_labelIds.png\n"
        "  ROOT/disparity/SPLIT/SEQUENCE/NAME_disparity.png   (optional, 16 bit)\n"
        "  ROOT/camera/SPLIT/SEQUENCE/NAME_camera.json        (optional)"
    )
    taxonomy = "Free space is in-distribution, objects on it are anomalies, the rest is ignored."

    def __init__(
        self, root: str | Path, split: str | None = None, non_hazards: str = "anomaly"
    ) -> None:
        self.root = Path(root)
        if non_hazards not in NON_HAZARDS:
            raise ParameterError(
                f"non_hazards: expected one of {', '.join(NON_HAZARDS)}, got {non_hazards}"
            )
        split = self.check_split(split or "test", cityscapes_tree.splits(self.root))
        table = anomaly_table(
            known=(LOST_AND_FOUND_FREE_SPACE,),
            unknown={
                *LOST_AND_FOUND_OBSTACLES,
                *(LOST_AND_FOUND_NON_HAZARDS if non_hazards == "anomaly" else ()),
            },
            ignored={0, *(LOST_AND_FOUND_NON_HAZARDS if non_hazards == "ignore" else ())},
        )
        super().__init__(
            self.root,
            (
                Sample(
                    name=entry.name,
                    image_path=entry.image_path,
                    anomaly_mask_path=entry.label_path,
                    anomaly_mask_table=table,
                    disparity_path=entry.disparity_path,
                    camera=entry.camera,
                )
                for entry in cityscapes_tree.tree_entries(self.root, split, "gtCoarse")
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if leftImg8bit/ and gtCoarse/ are there and the splits are train and test."""
        # Cityscapes has coarse labels too, but no coarse test split.
        return (root / "leftImg8bit").is_dir() and (root / "gtCoarse" / "test").is_dir()
