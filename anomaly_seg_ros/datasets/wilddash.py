# SPDX-License-Identifier: Apache-2.0
"""WildDash 2 (Zendel et al., CVPR 2022), https://wilddash.cc.

The public part with ground truth: wd_public_v2p0.zip has panoptic labels of 81 classes, the
earlier wd_public_02.zip also label images of 39. The ids mean the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomaly_seg_ros.datasets.base import Dataset, Sample, check_choice, image_files, read_json
from anomaly_seg_ros.datasets.label_codes import NUM_SEGMENTS, PaletteCode, SegmentCode
from anomaly_seg_ros.datasets.label_tables import lookup_table
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.safe_yaml_json import inside, short_repr
from anomaly_seg_ros.taxonomy import load_taxonomy

# Cityscapes class -> ids of WildDash 2, as in the data set's own policy (wilddash_scripts,
# wd2_unified_label_policy.json, "cs_name"); its other classes are void ones of Cityscapes.
CLASSES = {
    # with road marking, manhole, pothole, tram track, bike lane, pedestrian area, catch basin,
    # crosswalks and service lane
    "road": (7, 38, 41, 43, 61, 64, 70, 74, 75, 76, 79),
    # with curb, bike lane and manhole of a sidewalk, curb cut
    "sidewalk": (8, 52, 65, 77, 80),
    "building": (11,),
    "wall": (12, 56),  # with other barriers
    "fence": (13,),
    "pole": (17, 45, 46),  # with traffic sign frames and utility poles
    "traffic light": (19,),
    "traffic sign": (20,),
    "vegetation": (21,),
    "terrain": (22, 78),  # with the curb beside it
    "sky": (23,),
    "person": (24,),
    "rider": (25, 47, 48, 49),
    "car": (26, 35),  # with vans
    "truck": (27, 34),  # with pickups
    "bus": (28,),
    "train": (31,),
    "motorcycle": (32, 58),  # with autorickshaws
    "bicycle": (33,),
}
NUM_IDS = 81
_PICKUP = 34
PICKUPS = ("truck", "car")
_PANOPTIC = "panoptic.json"


class WildDashDataset(Dataset):
    """All public frames with ground truth, mapped to Cityscapes' trainIds; there are no splits.

    Args:
        root: Folder that holds images/.
        pickup: The class of pickups: "truck" (Cityscapes, and the policy of WildDash) or "car".

    Raises:
        DatasetError: The folder has another shape, or panoptic.json is damaged.
        ParameterError: The value of ``pickup`` is unknown.
    """

    name = "wilddash"
    tree = (
        "  ROOT/images/NAME.jpg\n"
        "  ROOT/panoptic.json\n"
        "  ROOT/panoptic/NAME.png\n"
        "or, the earlier release,\n"
        "  ROOT/images/NAME.jpg\n"
        "  ROOT/labels/NAME.png"
    )
    taxonomy = "81 ids become Cityscapes trainIds as WildDash defines it; the rest is ignored."

    def __init__(self, root: str | Path, pickup: str = "truck") -> None:
        self.root = Path(root)
        check_choice("pickup", pickup, PICKUPS)
        names = load_taxonomy(self.taxonomy_name).classes
        ids = {i: names.index(name) for name, group in CLASSES.items() for i in group}
        self._table = lookup_table({**ids, _PICKUP: names.index(pickup)}, range(NUM_IDS))
        if not (self.root / "images").is_dir():
            raise self.wrong_tree("has no folder images")
        if (self.root / "labels").is_dir():
            samples = self._with_label_images()
        elif (self.root / _PANOPTIC).is_file():
            samples = self._with_segments()
        else:
            raise self.wrong_tree(f"has neither {_PANOPTIC} nor a folder labels")
        super().__init__(self.root, samples)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with images/ and panoptic.json, which both releases have."""
        return (root / "images").is_dir() and (root / _PANOPTIC).is_file()

    def _with_label_images(self) -> Iterator[Sample]:
        for image in image_files(self.root / "images"):
            yield Sample(
                name=image.stem,
                image_path=image,
                labels_path=self.root / "labels" / f"{image.stem}.png",
                labels_table=self._table,
                code=PaletteCode(),
            )

    def _with_segments(self) -> Iterator[Sample]:
        path = self.root / _PANOPTIC
        content = read_json(path)
        images = {}
        for entry in _entries(content, "images", path):
            images[_value(entry, "id", int | str, path)] = _value(entry, "file_name", str, path)
        for entry in _entries(content, "annotations", path):
            image = images.get(_value(entry, "image_id", int | str, path))
            if image is None:
                raise DatasetError(f"{path}: no image has the id {short_repr(entry['image_id'])}")
            labels = _value(entry, "file_name", str, path)
            segments = {}
            for segment in _entries(entry, "segments_info", path):
                number = _value(segment, "id", int, path)
                segments[number] = category = _value(segment, "category_id", int, path)
                if not (0 <= category < NUM_IDS and 0 <= number < NUM_SEGMENTS):
                    raise DatasetError(
                        f"{path}: {short_repr(segment)} of {short_repr(labels)} is no segment of "
                        f"WildDash 2 (category_id 0 to {NUM_IDS - 1}, id 0 to {NUM_SEGMENTS - 1})"
                    )
            try:
                image_path = inside(self.root / "images", image)
                labels_path = inside(self.root / "panoptic", labels)
            except ValueError as error:
                raise DatasetError(f"{path}: {error}") from error
            yield Sample(
                name=image_path.stem,
                image_path=image_path,
                labels_path=labels_path,
                labels_table=self._table,
                code=SegmentCode.of(segments),
            )


def _entries(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"{path}: key '{key}' must be a list of objects")
    return entries


def _value(entry: dict[str, Any], key: str, kind: Any, path: Path) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(f"{path}: {short_repr(value)} as '{key}' in {short_repr(entry)}")
    return value
