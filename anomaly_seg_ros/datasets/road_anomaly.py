# SPDX-License-Identifier: Apache-2.0
"""RoadAnomaly (Lis et al., ICCV 2019), https://www.epfl.ch/labs/cvlab/data/road-anomaly.

60 photographs from the web, 1280x720, in RoadAnomaly_jpg.zip (JPEG) or RoadAnomaly.zip (WebP).
Its readme.md defines the labels: 0 background, 2 anomaly. The labelling tool's 1 (road) and 255
(ignore), which the authors' own loaders know, are accepted.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files
from anomaly_seg_ros.datasets.label_tables import anomaly_table

# RoadAnomaly: 0 background, 1 road, 2 anomaly, 255 ignore.
_MASK_TABLE = anomaly_table((0, 1), (2,), (255,))


class RoadAnomalyDataset(Dataset):
    """Everything but the anomalies is in-distribution, far background included.

    Repackaged copies with images/ and labels_masks/, or original/ and labels/, of equal names are
    the data set "folder" (with a label map if they still store 2).

    Args:
        root: Folder that holds frames/.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "road_anomaly"
    tree = "  ROOT/frames/NAME.{jpg,webp}\n  ROOT/frames/NAME.labels/labels_semantic.png"
    taxonomy = "0 and 1 are in-distribution, 2 is anomaly, 255 is ignored."

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.matches(self.root):
            raise self.wrong_tree("has no frames/NAME.labels/labels_semantic.png")
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=_mask(image),
                    anomaly_mask_table=_MASK_TABLE,
                )
                for image in image_files(self.root / "frames")
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if some image in frames/ has its folder of labels."""
        frames = root / "frames"
        return frames.is_dir() and any(_mask(image).is_file() for image in image_files(frames))


def _mask(image: Path) -> Path:
    return image.with_suffix(".labels") / "labels_semantic.png"
