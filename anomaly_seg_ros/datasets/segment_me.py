"""SegmentMeIfYouCan (Chan et al., NeurIPS 2021), https://segmentmeifyoucan.com/datasets.

Both tracks, RoadAnomaly21 (dataset_AnomalyTrack.zip) and RoadObstacle21
(dataset_ObstacleTrack.zip), share one shape; only the validation frames have public masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files


class SegmentMeDataset(Dataset):
    """The frames of a track that have a mask.

    Args:
        root: Folder of the track.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "segment_me_if_you_can"
    tree = (
        "  ROOT/images/NAME.{jpg,webp}\n"
        "  ROOT/labels_masks/NAME_labels_semantic.png   (validation frames only)"
    )
    taxonomy = "0 in-distribution, 1 anomaly or obstacle, 255 void, as released."

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        super().__init__(self.root, self._find())

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with images/ and labels_masks/."""
        return (root / "images").is_dir() and (root / "labels_masks").is_dir()

    def _find(self) -> Iterator[Sample]:
        for folder in ("images", "labels_masks"):
            if not (self.root / folder).is_dir():
                raise self.wrong_tree(f"has no folder {folder}")
        for image in image_files(self.root / "images"):
            mask = self.root / "labels_masks" / f"{image.stem}_labels_semantic.png"
            if mask.is_file():
                yield Sample(name=image.stem, image_path=image, anomaly_mask_path=mask)
