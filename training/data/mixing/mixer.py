"""Pastes unknown objects, and known ones as decoys, into a road scene; paints its ground.

Follows AnomalyMix (Tian et al., PEBAL, ECCV 2022) as the style-aligned OoD augmentation paper uses
it, section 3.1. Three additions work against the shortcuts of pasting (edges, sharpness,
compression, an alien palette), which a network otherwise learns within a hundred steps:

* decoys: objects of *known* classes, cut from the same foreign photographs and from other road
  scenes, pasted in the same way but labelled with their class. What then tells outliers from
  inliers is what they are.
* scene textures: the outline of a foreign object filled with a piece of another road scene. What
  tells these is that they do not belong where they are.
* paint: flat, half transparent patches on the ground, labelled as ground.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from anomaly_seg_ros.labels import ANOMALY, IGNORE_INDEX, OUTLIER_ID, UNKNOWN_ID
from training.data.mixing.checks import check_counts, check_range, check_share
from training.data.mixing.paint import PaintOptions, paint_ground
from training.data.mixing.paste import blend, cast_shadow, fit_to_box, soften
from training.data.mixing.placement import Ground, PlacementOptions, place
from training.data.negatives.objects import NegativeObject, ObjectSource
from training.data.style import StyleAlignment


@dataclass(frozen=True)
class MixOptions:
    """What is pasted and painted.

    Attributes:
        probability: Share of the frames that receive outliers.
        objects: Fewest and most outliers in such a frame.
        decoys: Fewest and most decoys in every frame, if there is a source of them.
        scene_texture: Share of the outliers that are filled with another scene.
        soft_edges: Share of the objects with a blurred edge; the others are cut hard.
        shadow: Share of the objects on the ground that darken it around their foot.
        shadow_strength: Smallest and largest share of the light lost there.
        edge_sigma: Smallest and largest sigma of the blur, in stored pixels.
        placement: Where and how large.
        paint: What is painted on the ground, under all objects.

    Raises:
        ParameterError: A reversed range, or a value that makes no sense; names its key.
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
    """What is foreign in a mixed frame.

    Args:
        target: (H, W) uint8 labels with :data:`OUTLIER_ID` and :data:`UNKNOWN_ID`.

    Returns:
        (H, W) uint8: 0 inlier, 1 outlier, 255 the rim of one.
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
        style: Applied to every outlier and decoy before it is pasted, or None.
        decoys: Objects of known classes; their ``category`` is a key of ``train_ids``.
        train_ids: trainId by class name.
        textures: (H, W, 3) uint8 road scenes that fill outlines.

    Raises:
        ValueError: Scene textures are asked for and ``textures`` is empty.
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
        # Decoys first: an outlier in front of a known object is more common than the reverse.
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
        # Aligned at its final size, where it costs least.
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
