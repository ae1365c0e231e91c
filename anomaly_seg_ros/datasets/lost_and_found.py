# SPDX-License-Identifier: Apache-2.0
"""Lost and Found (Pinggera et al., IROS 2016), small obstacles on the road.

From http://wwwlehre.dhbw-stuttgart.de/~sgehrig/lostAndFoundDataset: leftImg8bit.zip, gtCoarse.zip,
and for the evaluation by distance disparity.zip and camera.zip, unpacked into one folder.

Label values follow laf_table.pdf of the data set; what is left out for "noKnown", and the
treatment of ids 2 and up as obstacles, follow SegmentMeIfYouCan/road-anomaly-benchmark,
datasets/tracks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, check_switch
from anomaly_seg_ros.datasets.cityscapes import TreeEntry, splits, tree_entries
from anomaly_seg_ros.datasets.label_scan import stored_values
from anomaly_seg_ros.datasets.label_tables import anomaly_table

# Lost and Found labelIds (Pinggera et al., IROS 2016; laf_table.pdf of the data set). 0 is
# everything unlabelled: background, ego vehicle, rectification border, out of the region.
FREE_SPACE_ID = 1
OBSTACLE_IDS = {
    2: "crate (black)", 3: "crate (black, stacked)", 4: "crate (black, upright)",
    5: "crate (gray)", 6: "crate (gray, stacked)", 7: "crate (gray, upright)", 8: "bumper",
    9: "cardboard box 1", 10: "crate (blue)", 11: "crate (blue, small)", 12: "crate (green)",
    13: "crate (green, small)", 14: "exhaust pipe", 15: "headlight", 16: "euro pallet",
    17: "pylon", 18: "pylon (large)", 19: "pylon (white)", 20: "rearview mirror", 21: "tire",
    22: "ball", 23: "bicycle", 24: "dog (black)", 25: "dog (white)", 26: "kid dummy",
    27: "bobby car (gray)", 28: "bobby car (red)", 29: "bobby car (yellow)",
    30: "cardboard box 2", 32: "plastic bag (bloated)", 35: "styrofoam", 40: "kid (walking)",
    41: "kid (on a bobby car)", 42: "kid (on a small bobby car)", 43: "kid (crawling)",
}  # fmt: skip
# Objects that a car can drive over ("random non-hazards").
NON_HAZARD_IDS = {
    31: "marker pole (lying)", 33: "post (red, lying)", 34: "post stand", 36: "timber (small)",
    37: "timber (squared)", 38: "wheel cap", 39: "wood (thin)",
}  # fmt: skip

NON_HAZARDS = ("anomaly", "ignore")
# Recordings with children and bicycles, which are Cityscapes classes.
_WITH_KNOWN = (
    "15_Rechbergstr_Deckenpfronn",
    "01_Hanns_Klemm_Str_45_000006",
    "01_Hanns_Klemm_Str_45_000007",
    "10_Schlossberg_9_000004",
)
_UNLABELLED = frozenset((0,))


class LostAndFoundDataset(Dataset):
    """The original release, with its coarse labels as anomaly masks.

    labelId 0 (background, ego vehicle, rectification border, out of the region) is ignored, 1
    (free space) is in-distribution, 2 to 43 are objects on the road and so anomalies.

    Args:
        root: Folder that holds leftImg8bit/ and gtCoarse/.
        split: "train" or "test".
        non_hazards: Value of the seven objects that one can drive over (wheel cap, thin wood
            ...): "anomaly" as in SegmentMeIfYouCan, or "ignore" as in the data set's trainIds.
        no_known: SegmentMeIfYouCan's LostAndFound-noKnown, without recordings that show children
            or bicycles and without frames that have no label at all (1043 of the 1203 test
            frames). All label files are read when the data set is opened.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
        ImageError: A label file is missing or damaged (``no_known``).
        ParameterError: An option has an unknown value.
    """

    name = "lost_and_found"
    component_sizes = "obstacle_track"
    tree = (
        "  ROOT/leftImg8bit/SPLIT/SEQUENCE/NAME_leftImg8bit.png\n"
        "  ROOT/gtCoarse/SPLIT/SEQUENCE/NAME_gtCoarse_labelIds.png\n"
        "  ROOT/disparity/SPLIT/SEQUENCE/NAME_disparity.png   (optional, 16 bit)\n"
        "  ROOT/camera/SPLIT/SEQUENCE/NAME_camera.json        (optional)"
    )
    taxonomy = "Free space is in-distribution, objects on it are anomalies, the rest is ignored."

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        non_hazards: str = "anomaly",
        no_known: bool = False,
    ) -> None:
        self.root = Path(root)
        check_choice("non_hazards", non_hazards, NON_HAZARDS)
        check_switch("no_known", no_known)
        split = self.check_split(split or "test", splits(self.root))
        table = anomaly_table(
            known=(FREE_SPACE_ID,),
            unknown={
                *OBSTACLE_IDS,
                *(NON_HAZARD_IDS if non_hazards == "anomaly" else ()),
            },
            ignored={0, *(NON_HAZARD_IDS if non_hazards == "ignore" else ())},
        )
        entries = tree_entries(self.root, split, "gtCoarse")
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
                for entry in (_without_known(entries) if no_known else entries)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True if leftImg8bit/ and gtCoarse/ are there and the splits are train and test."""
        # Cityscapes has coarse labels too, but no coarse test split.
        return (root / "leftImg8bit").is_dir() and (root / "gtCoarse" / "test").is_dir()


def _without_known(entries: Iterator[TreeEntry]) -> Iterator[TreeEntry]:
    kept = [entry for entry in entries if not entry.name.startswith(_WITH_KNOWN)]
    values = stored_values(entry.label_path for entry in kept)
    return (entry for entry, held in zip(kept, values, strict=True) if held != _UNLABELLED)
