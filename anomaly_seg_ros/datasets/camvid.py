"""CamVid (Brostow et al., 2008), http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid.

Two shapes: the 11-class benchmark at 480x360 (labels 0 to 10, 255 = void, as in the SegNet
tutorial's files made single-channel), and the full 32 classes at 960x720 with a ``classes.json``
that names the ids.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, read_json
from anomaly_seg_ros.datasets.folder import FolderDataset, image_label_pairs
from anomaly_seg_ros.datasets.label_maps import (
    CAMVID11,
    CAMVID32,
    camvid32_anomaly_table,
    camvid32_label_table,
    lookup_table,
)
from anomaly_seg_ros.errors import DatasetError


class CamVidDataset(Dataset):
    """Labels mapped to Cityscapes trainIds; ambiguous classes are ignored.

    With the 32 classes there is an anomaly mask as well: Animal, TrafficCone, CartLuggagePram
    and OtherMoving belong to no Cityscapes class (1), Void is ignored, the rest is known (0).

    Args:
        root: The folder.
        split: Sub-folder of ``root`` to use ("train", "val" or "test" of the 11-class shape).

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "camvid"
    tree = (
        "  ROOT[/SPLIT]/images/STEM.{jpg,png}\n"
        "  ROOT[/SPLIT]/labels/STEM.png\n"
        '  ROOT/classes.json   ({"ID": "NAME", ...}; only with the 32 classes)'
    )
    taxonomy = "11 or 32 CamVid classes become Cityscapes trainIds; ambiguous ones are ignored."

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        classes_path = self.root / "classes.json"
        mask_table = None
        if classes_path.is_file():
            classes = _read_classes(classes_path)
            labels_table = camvid32_label_table(classes)
            mask_table = camvid32_anomaly_table(classes)
        else:
            labels_table = lookup_table(CAMVID11)
        super().__init__(
            self.root,
            (
                Sample(
                    name=image.stem,
                    image_path=image,
                    labels_path=label,
                    labels_table=labels_table,
                    anomaly_mask_path=None if mask_table is None else label,
                    anomaly_mask_table=mask_table,
                )
                for image, label in image_label_pairs(self, split, needs_labels=True)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True with CamVid's classes.json; the 11-class shape is told by its folder's name."""
        if (root / "classes.json").is_file() and (root / "images").is_dir():
            return True
        named = any("camvid" in x.name.lower() for x in (root, root.parent))
        return named and FolderDataset.matches(root)


def _read_classes(path: Path) -> dict[int, str]:
    try:
        classes = {int(key): str(name) for key, name in read_json(path).items()}
    except ValueError:
        raise DatasetError(f'{path}: expected {{"ID": "NAME", ...}} with integer ids') from None
    if not set(classes.values()) & set(CAMVID32) or not all(0 <= i < 256 for i in classes):
        raise DatasetError(f"{path}: names no CamVid class, or an id outside 0..255")
    return classes
