"""Mixes unknown objects, known objects as decoys, and paint on the ground into road scenes.

Follows AnomalyMix (Tian et al., PEBAL, ECCV 2022) as used in section 3.1 of the style-aligned OoD
augmentation paper. Pasting leaves traces (edges, sharpness, compression, foreign colours) that a
network learns as shortcuts within a hundred steps. Three additions guard against that:

* decoys: objects of *known* classes, cut from the same foreign photographs and from other road
  scenes, pasted in the same way but labelled with their class. Only the kind of object then tells
  outliers from inliers.
* scene textures: the outline of a foreign object, filled with a piece of another road scene. These
  outliers can only be recognised because they do not fit their surroundings.
* paint: flat, half-transparent patches on the ground, labelled as ground.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX, OUTLIER_ID, UNKNOWN_ID
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.corpora import Corpus
from training.data.mixing.paint import PaintOptions, paint_ground
from training.data.mixing.paste import blend, cast_shadow, fit_to_box, soften
from training.data.mixing.placement import Ground, PlacementOptions, place
from training.data.negatives import open_objects
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.objects import (
    BalancedObjects,
    NegativeObject,
    ObjectSource,
    SceneObjects,
)
from training.data.style import StyleAlignment, build_styles
from training.engine.config import check_counts, check_range, check_share, to_dataclass

# Keys of the "mixing" configuration that are not fields of MixOptions.
_OWN_KEYS = (
    *("source", "root", "train_split", "held_out_split", "mask_255", "known_classes"),
    *("decoy_sources", "style"),
)
# Classes of countable objects; a piece of road or wall is not an object.
_SCENE_DECOYS = (
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


@dataclass(frozen=True)
class MixOptions:
    """Settings of the mixer.

    Attributes:
        probability: Share of the frames that receive outliers.
        objects: Minimum and maximum number of outliers in such a frame.
        decoys: Minimum and maximum number of decoys in every frame, if there is a source.
        scene_texture: Share of the outliers that are filled with another scene.
        soft_edges: Share of the objects with a blurred edge; the others have a hard edge.
        shadow: Share of the objects on the ground that cast a contact shadow.
        shadow_strength: Range of the share of light lost in the shadow.
        edge_sigma: Range of the blur's sigma, in stored pixels.
        placement: Locations and sizes of the objects.
        paint: Paint on the ground, below all objects.

    Raises:
        ParameterError: A range is reversed or a value is out of range; the message names the key.
    """

    probability: float = 0.9
    objects: tuple[int, int] = (1, 4)
    decoys: tuple[int, int] = (0, 2)
    scene_texture: float = 0.15
    soft_edges: float = 0.7
    edge_sigma: tuple[float, float] = (0.4, 1.2)
    shadow: float = 0.5
    shadow_strength: tuple[float, float] = (0.15, 0.6)
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    paint: PaintOptions = field(default_factory=PaintOptions)

    def __post_init__(self) -> None:
        for key in ("probability", "scene_texture", "soft_edges", "shadow"):
            check_share(f"mixing.{key}", getattr(self, key))
        check_counts("mixing.objects", self.objects)
        check_counts("mixing.decoys", self.decoys)
        check_range("mixing.edge_sigma", self.edge_sigma)
        check_range("mixing.shadow_strength", self.shadow_strength, most=1)


def outlier_mask(target: np.ndarray) -> np.ndarray:
    """Computes the outlier mask of a mixed frame.

    Args:
        target: (H, W) uint8 labels with :data:`OUTLIER_ID` and :data:`UNKNOWN_ID`.

    Returns:
        (H, W) uint8: 0 inlier, 1 outlier, 255 the rim of an outlier.
    """
    mask = np.zeros(target.shape, np.uint8)
    mask[target == OUTLIER_ID] = ANOMALY
    mask[target == UNKNOWN_ID] = IGNORE_INDEX
    return mask


class Mixer:
    """Pastes objects into frames; a pure function of its arguments and the generator.

    Args:
        outliers: Objects of no known class.
        options: See :class:`MixOptions`.
        style: Style alignment of every outlier and decoy, or None.
        decoys: Objects of known classes, whose ``category`` is a key of ``train_ids``; or None.
        train_ids: trainId by class name.
        textures: (H, W, 3) uint8 road scenes for scene textures.

    Raises:
        ValueError: ``scene_texture`` is positive, but there are no ``textures``.
    """

    def __init__(
        self,
        outliers: ObjectSource,
        options: MixOptions,
        style: StyleAlignment | None = None,
        decoys: ObjectSource | None = None,
        train_ids: dict[str, int] | None = None,
        textures: list[np.ndarray] | None = None,
    ) -> None:
        if options.scene_texture > 0 and not textures:
            raise ValueError("scene_texture > 0 needs the frames to take textures from")
        self.outliers = outliers
        self.options = options
        self.style = style
        self.decoys = decoys
        self.train_ids = train_ids or {}
        self.textures = textures or []

    def __call__(
        self,
        frame: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        squeeze: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mixes objects into a copy of a frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 trainIds, 255 = ignore.
            rng: Source of all randomness.
            squeeze: True width / stored width of the frame's pixels.

        Returns:
            The frame; and the labels, with ``OUTLIER_ID`` on objects and ``UNKNOWN_ID`` on rims.
        """
        mixed, target = frame.copy(), labels.copy()
        ground = Ground(labels)
        self._paint(mixed, ground, rng, squeeze)
        # Decoys first, because outliers are more often in front of known objects than behind.
        if self.decoys is not None:
            for _ in range(int(rng.integers(self.options.decoys[0], self.options.decoys[1] + 1))):
                decoy = self.decoys[int(rng.integers(len(self.decoys)))]
                train_id = self.train_ids[decoy.category]
                self._paste(
                    mixed, target, ground, decoy, frame, train_id, IGNORE_INDEX, rng, squeeze
                )
        if rng.random() < self.options.probability:
            low, high = self.options.objects
            for _ in range(int(rng.integers(low, high + 1))):
                outlier = self.outliers[int(rng.integers(len(self.outliers)))]
                if rng.random() < self.options.scene_texture:
                    outlier = self._textured(outlier, rng)
                self._paste(
                    mixed, target, ground, outlier, frame, OUTLIER_ID, UNKNOWN_ID, rng, squeeze
                )
        return mixed, target

    def _paint(
        self, mixed: np.ndarray, ground: Ground, rng: np.random.Generator, squeeze: float
    ) -> None:
        options, placement = self.options.paint, self.options.placement
        if rng.random() >= options.probability:
            return
        camera = (placement.camera_height, placement.horizon)
        for _ in range(int(rng.integers(options.patches[0], options.patches[1] + 1))):
            shape = self.outliers[int(rng.integers(len(self.outliers)))].mask
            paint_ground(mixed, ground, shape, options, camera, rng, squeeze)

    def _paste(
        self,
        mixed: np.ndarray,
        target: np.ndarray,
        ground: Ground,
        item: NegativeObject,
        exemplar: np.ndarray,
        label: int,
        rim_label: int,
        rng: np.random.Generator,
        squeeze: float,
    ) -> None:
        box, stands = place(item.mask.shape, ground, self.options.placement, rng, squeeze)
        mirror = bool(rng.random() < 0.5)
        colours, coverage = fit_to_box(item.image, item.mask, box, mirror)
        soft = rng.random() < self.options.soft_edges
        sigma = float(rng.uniform(*self.options.edge_sigma)) if soft else 0.0
        inside = coverage >= 0.5
        # Aligned at the final size, where it is cheapest.
        if self.style is not None and inside.any():
            colours = self.style(colours, inside, exemplar, rng)
        if stands and rng.random() < self.options.shadow:
            cast_shadow(mixed, box, float(rng.uniform(*self.options.shadow_strength)), squeeze)
        blend(mixed, target, colours, soften(coverage, sigma), box, label, rim_label)

    def _textured(self, item: NegativeObject, rng: np.random.Generator) -> NegativeObject:
        scene = self.textures[int(rng.integers(len(self.textures)))]
        height, width = (min(a, b) for a, b in zip(item.mask.shape, scene.shape, strict=False))
        top = int(rng.integers(scene.shape[0] - height + 1))
        left = int(rng.integers(scene.shape[1] - width + 1))
        piece = scene[top : top + height, left : left + width]
        if piece.shape[:2] != item.mask.shape:
            piece = cv2.resize(piece, item.mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return NegativeObject(piece, item.mask, "scene texture", item.source)


def build_mixer(
    mixing: Mapping[str, Any],
    data: Path,
    split: str,
    taxonomy: Taxonomy,
    corpora: Sequence[Corpus],
) -> Mixer:
    """Builds the mixer of a run: its objects, decoys, textures and styles.

    Args:
        mixing: Section "mixing" of the configuration.
        data: Folder of the data sets; "mixing.root" is relative to it.
        split: Split of the object data set; for a plain folder, the subfolder of the root.
        taxonomy: Taxonomy of the known classes.
        corpora: Road scenes for decoys and scene textures.

    Raises:
        DatasetError: The object data set is missing or has no usable object.
        ParameterError: An unknown source, style or option.
    """
    options = to_dataclass(MixOptions, {k: v for k, v in mixing.items() if k not in _OWN_KEYS})

    def objects(known: str) -> IndexedObjects:
        return _objects(mixing, data, split, taxonomy, known)

    textures: list[np.ndarray] = []
    if options.scene_texture > 0:
        textures = [image for corpus in corpora for image in corpus.images]
    return Mixer(
        outliers=objects("exclude"),
        options=options,
        style=build_styles(mixing["style"]),
        decoys=_decoys(mixing["decoy_sources"], objects, taxonomy, corpora),
        train_ids={name: i for i, name in enumerate(taxonomy.classes)},
        textures=textures,
    )


def _objects(
    mixing: Mapping[str, Any], data: Path, split: str, taxonomy: Taxonomy, known: str
) -> IndexedObjects:
    """Opens the unknown ("exclude") or known ("only") objects of the object data set."""
    root = data / mixing["root"]
    return open_objects(mixing["source"], mixing, root, split, taxonomy, known)


def _decoys(
    sources: Sequence[str],
    objects: Callable[[str], IndexedObjects],
    taxonomy: Taxonomy,
    corpora: Sequence[Corpus],
) -> ObjectSource | None:
    """Known objects of all sources, balanced over the classes; None without sources."""
    known: list[tuple[ObjectSource, Sequence[str]]] = []
    for source in sources:
        if source == "objects":
            found = objects("only")
        elif source == "scenes":
            things = {i: n for i, n in enumerate(taxonomy.classes) if n in _SCENE_DECOYS}
            found = SceneObjects(corpora, things)
        else:
            raise ParameterError(
                f"mixing.decoy_sources: expected 'objects' or 'scenes', got {source!r}"
            )
        known.append((found, found.categories))
    return BalancedObjects(known) if known else None
