# SPDX-License-Identifier: Apache-2.0
"""SegmentMeIfYouCan (Chan et al., NeurIPS 2021), https://segmentmeifyoucan.com/datasets.

Both tracks, RoadAnomaly21 (dataset_AnomalyTrack.zip) and RoadObstacle21
(dataset_ObstacleTrack.zip), share one shape; only the validation frames have public masks. The
benchmark's third set, LostAndFound-noKnown, is "lost_and_found" with ``no_known``.

Names, values and splits are those of SegmentMeIfYouCan/road-anomaly-benchmark, datasets/tracks.py
and tracks_extra.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files

SPLITS = ("labelled", "test", "all")
_MASK_ENDING = "_labels_semantic.png"
# Scenes (the name before the first "_") outside "ObstacleTrack-test": snow and night.
_NOT_TEST = ("snowstorm1", "snowstorm2", "driveway")


class SegmentMeDataset(Dataset):
    """The frames of a track.

    Args:
        root: Folder of the track.
        split: "labelled", every frame that has a mask (the benchmark's validation: 10 and 30
            frames); "test", its test frames, for a submission (on the obstacle track without
            snow and night); or "all".

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ParameterError: The split is unknown.
    """

    name = "segment_me_if_you_can"
    tree = (
        "  ROOT/images/NAME.{jpg,webp}\n"
        "  ROOT/labels_masks/NAME_labels_semantic.png   (validation frames only)"
    )
    taxonomy = "0 in-distribution, 1 anomaly or obstacle, 255 void, as released."

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        split = check_choice("split", split or "labelled", SPLITS)
        super().__init__(self.root, self._find(split))
        # Of the two tracks only the obstacle track is released as WebP.
        if self[0].image_path.suffix.lower() == ".webp":
            self.component_sizes = "obstacle_track"

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with images/ and the masks' file names in labels_masks/."""
        masks = root / "labels_masks"
        return (
            (root / "images").is_dir()
            and masks.is_dir()
            and any(x.name.endswith(_MASK_ENDING) for x in masks.iterdir())
        )

    def _find(self, split: str) -> Iterator[Sample]:
        for folder in ("images", "labels_masks"):
            if not (self.root / folder).is_dir():
                raise self.wrong_tree(f"has no folder {folder}")
        for image in image_files(self.root / "images"):
            mask = self.root / "labels_masks" / f"{image.stem}{_MASK_ENDING}"
            has_mask = mask.is_file()
            if split == "all" or (has_mask if split == "labelled" else _is_test(image.stem)):
                yield Sample(
                    name=image.stem,
                    image_path=image,
                    anomaly_mask_path=mask if has_mask else None,
                )


def _is_test(name: str) -> bool:
    return not name.startswith("validation") and name.partition("_")[0] not in _NOT_TEST
