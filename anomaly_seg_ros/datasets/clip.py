# SPDX-License-Identifier: Apache-2.0
"""The package's own rendered driving clip (assets/demo_clip)."""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.datasets.base import (
    CameraIntrinsics,
    Dataset,
    Sample,
    image_files,
    number,
    read_json,
)
from anomaly_seg_ros.errors import DatasetError


class ClipDataset(Dataset):
    """A film with full ground truth: class labels, anomaly masks, disparity and the camera.

    Args:
        root: Folder of the clip.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "clip"
    tree = (
        "  ROOT/camera.json   (fx, fy, cx, cy, width, height, baseline_m, frame_rate)\n"
        "  ROOT/images/NNN.jpg\n"
        "  ROOT/labels/NNN.png         (trainIds)\n"
        "  ROOT/anomaly_mask/NNN.png   (0, 1, 255)\n"
        "  ROOT/disparity/NNN.png      (optional, 16 bit, 256 * pixels)"
    )
    taxonomy = "Cityscapes trainIds; 1 in the anomaly mask marks objects outside the 19 classes."

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        camera_path = self.root / "camera.json"
        for folder in ("images", "labels", "anomaly_mask"):
            if not (self.root / folder).is_dir():
                raise self.wrong_tree(f"has no folder {folder}")
        content = read_json(camera_path)

        def value(key: str) -> float:
            if key not in content:
                raise DatasetError(f"{camera_path}: key '{key}' is missing")
            return number(content[key], key, camera_path)

        camera = CameraIntrinsics(
            value("fx"), value("fy"), value("cx"), value("cy"), value("baseline_m")
        )
        self.frame_rate = value("frame_rate")
        if self.frame_rate <= 0:
            raise DatasetError(f"{camera_path}: key 'frame_rate' must be positive")
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=self.root / "anomaly_mask" / f"{image.stem}.png",
                    labels_path=self.root / "labels" / f"{image.stem}.png",
                    disparity_path=disparity if disparity.is_file() else None,
                    camera=camera,
                )
                for image in image_files(self.root / "images")
                for disparity in (self.root / "disparity" / f"{image.stem}.png",)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with camera.json beside images/ and anomaly_mask/."""
        return (root / "camera.json").is_file() and (root / "anomaly_mask").is_dir()
