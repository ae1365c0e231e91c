# SPDX-License-Identifier: Apache-2.0
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX, OUTLIER_ID, UNKNOWN_ID
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.block import errors_of, source_folder
from training.data.corpora import FrameSequence, TrainingData
from training.data.mixing.paint import PaintOptions, paint_ground
from training.data.mixing.paste import blend, cast_shadow, fit_to_box, soften
from training.data.mixing.placement import Ground, PlacementOptions, place
from training.data.negatives import open_objects
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.objects import (
    BalancedObjects,
    JoinedObjects,
    NegativeObject,
    NoObjects,
    ObjectSource,
    SceneObjects,
)
from training.data.style import StyleAlignment, build_styles
from training.engine.config import (
    check_counts,
    check_range,
    check_share,
    chosen,
    to_dataclass,
)

FRAME, VIEW = "frame", "view"
# Keys of the "mixing" configuration that are not fields of MixOptions.
_OWN_KEYS = ("decoy_sources", "style")


@dataclass(frozen=True)
class MixOptions:
    """Settings of the mixer.

    Attributes:
        into: What objects are pasted into: the "frame", to be resampled, lit and blurred like
            their surroundings, or the finished "view", whose scale does not change their size.
        probability: Share of the frames that receive outliers.
        objects: Minimum and maximum number of outliers in such a frame.
        decoys: Minimum and maximum number of decoys in every frame, if there is a source.
        scene_texture: Share of the outliers that are filled with another scene.
        whole_box: Share of the outliers that are pasted as whole rectangles, with what surrounds
            the object in its photograph.
        soft_edges: Share of the objects with a blurred edge; the others have a hard edge.
        shadow: Share of the objects on the ground that cast a contact shadow.
        shadow_strength: Range of the share of light lost in the shadow.
        edge_sigma: Range of the blur's sigma, in stored pixels.
        placement: Locations and sizes of the objects.
        paint: Paint on the ground, below all objects.

    Raises:
        ParameterError: A range is reversed or a value is out of range; the message names the key.
    """

    into: str = FRAME
    probability: float = 0.9
    objects: tuple[int, int] = (1, 4)
    decoys: tuple[int, int] = (0, 2)
    scene_texture: float = 0.15
    whole_box: float = 0.0
    soft_edges: float = 0.7
    edge_sigma: tuple[float, float] = (0.4, 1.2)
    shadow: float = 0.5
    shadow_strength: tuple[float, float] = (0.15, 0.6)
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    paint: PaintOptions = field(default_factory=PaintOptions)

    def __post_init__(self) -> None:
        chosen(dict.fromkeys((FRAME, VIEW)), "mixing.into:", self.into)
        for key in ("probability", "scene_texture", "whole_box", "soft_edges", "shadow"):
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
        taxonomy: Classes of the labels; those with the role "ground" carry objects and paint.
        style: Style alignment of every outlier and decoy, or None.
        decoys: Objects of known classes, whose ``category`` is one of the taxonomy; or None.
        textures: (H, W, 3) uint8 road scenes for scene textures.

    Raises:
        ValueError: ``scene_texture`` is positive, but there are no ``textures``.
    """

    def __init__(
        self,
        outliers: ObjectSource,
        options: MixOptions,
        taxonomy: Taxonomy,
        style: StyleAlignment | None = None,
        decoys: ObjectSource | None = None,
        textures: Sequence[np.ndarray] = (),
    ) -> None:
        if options.scene_texture > 0 and not textures:
            raise ValueError("scene_texture > 0 needs the frames to take textures from")
        self.outliers = outliers
        self.options = options
        self.style = style
        self.decoys = decoys
        self.textures = textures
        self._train_ids = {name: i for i, name in enumerate(taxonomy.classes)}
        self._ground_ids = taxonomy.ids_of("ground")

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
        ground = Ground(labels, self._ground_ids)
        self._paint(mixed, ground, rng, squeeze)
        # Decoys first, because outliers are more often in front of known objects than behind.
        if self.decoys is not None:
            for _ in range(int(rng.integers(self.options.decoys[0], self.options.decoys[1] + 1))):
                decoy = self.decoys[int(rng.integers(len(self.decoys)))]
                train_id = self._train_ids[decoy.category]
                self._paste(
                    mixed, target, ground, decoy, frame, train_id, IGNORE_INDEX, rng, squeeze
                )
        if rng.random() < self.options.probability:
            low, high = self.options.objects
            for _ in range(int(rng.integers(low, high + 1))):
                outlier = self.outliers[int(rng.integers(len(self.outliers)))]
                if rng.random() < self.options.scene_texture:
                    outlier = self._textured(outlier, rng)
                # Draws no number where the option is off: the samples of older runs stay.
                if self.options.whole_box > 0 and rng.random() < self.options.whole_box:
                    outlier = replace(outlier, mask=np.ones_like(outlier.mask))
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


def build_mixer(mixing: Mapping[str, Any], data: TrainingData, held_out: bool = False) -> Mixer:
    """Builds the mixer of a run: its objects, decoys, textures and styles.

    Args:
        mixing: Section "mixing" of the configuration.
        data: Frames and objects of the run.
        held_out: Use held-out objects, and decoys and textures from the calibration's frames.

    Raises:
        DatasetError: An object data set is missing or has no usable object.
        ParameterError: An unknown source, style or option, or no source of objects although
            some are to be pasted.
    """
    options = to_dataclass(
        MixOptions, {k: v for k, v in mixing.items() if k not in _OWN_KEYS}, "mixing"
    )
    textures: Sequence[np.ndarray] = ()
    if options.scene_texture > 0:
        textures = FrameSequence(data.calibration if held_out else data.train)
    return Mixer(
        outliers=_outliers(data, held_out, options),
        options=options,
        taxonomy=data.taxonomy,
        style=build_styles(mixing["style"]),
        decoys=_decoys(mixing["decoy_sources"], data, held_out),
        textures=textures,
    )


def objects_of(data: TrainingData, held_out: bool, known: str) -> list[IndexedObjects]:
    """Opens the unknown ("exclude") or known ("only") objects of a run, by source.

    A folder whose objects have no classes of their own holds no known ones.

    Raises:
        ParameterError: The run names no source of objects, or one of an unknown kind.
        DatasetError: A source is missing or has no usable object.
    """
    blocks = {name: b for name, b in data.block.objects.items() if b.weight > 0}
    if not blocks:
        raise ParameterError("data.objects: names no source of objects to paste")
    sources = []
    for name, block in blocks.items():
        if known == "only" and block.adapter == "folder" and not block.known_classes:
            continue
        with errors_of(f"data.objects.{name}"):
            source = open_objects(
                block,
                source_folder(block.root, data.folder),
                block.held_out_split if held_out else block.train_split,
                data.taxonomy,
                known,
            )
        sources.append(source)
    return sources


def _outliers(data: TrainingData, held_out: bool, options: MixOptions) -> ObjectSource:
    weights = [block.weight for block in data.block.objects.values() if block.weight > 0]
    if not weights and options.probability == options.paint.probability == 0:
        return NoObjects()
    sources = objects_of(data, held_out, "exclude")
    return sources[0] if len(sources) == 1 else JoinedObjects(sources, weights)


def _decoys(sources: Sequence[str], data: TrainingData, held_out: bool) -> ObjectSource | None:
    """Known objects of all sources, balanced over the classes; None if there are none."""
    known: list[tuple[ObjectSource, Sequence[str]]] = []
    for source in sources:
        if source == "objects":
            known += [(x, x.categories) for x in objects_of(data, held_out, "only")]
        elif source == "scenes":
            corpora = data.calibration if held_out else data.decoys
            found = SceneObjects(corpora, data.taxonomy.classes)
            known.append((found, found.categories))
        else:
            raise ParameterError(
                f"mixing.decoy_sources: expected 'objects' or 'scenes', got {source!r}"
            )
    balanced = BalancedObjects(known)
    return balanced if len(balanced) else None
