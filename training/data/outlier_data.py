"""Builds the mixer of a run from its configuration: which objects, which decoys, which style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.corpora import Corpus
from training.data.mixing.mixer import Mixer, MixOptions
from training.data.negatives import Ade20kObjects, CocoObjects, FolderObjects, ObjectSource
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.scene_objects import BalancedObjects, SceneObjects
from training.data.style import build_styles
from training.engine.config import to_dataclass

# Part of the "mixing" configuration that is no field of MixOptions.
_OWN_KEYS = (
    *("source", "root", "train_split", "held_out_split", "mask_255", "known_classes"),
    *("decoy_sources", "style"),
)
# Classes that are objects: a cut-out piece of road or wall would be none.
_SCENE_DECOYS = (
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def build_mixer(
    mixing: Mapping[str, Any],
    data: Path,
    split: str,
    taxonomy: Taxonomy,
    corpora: Sequence[Corpus],
) -> Mixer:
    """Puts a mixer together.

    Args:
        mixing: The part "mixing" of the configuration.
        data: Folder of the data sets; "mixing.root" is relative to it.
        split: Of the object data set; of a plain folder, the folder below the root.
        taxonomy: Whose classes are known.
        corpora: Road scenes whose pieces fill outlines (scene textures).

    Raises:
        DatasetError: The object data set is missing or holds no usable object.
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
    """The unknown ("exclude") or the known ("only") objects of the data set of objects."""
    source, root = mixing["source"], data / mixing["root"]
    options = {"known": known, "taxonomy": taxonomy.name, "overrides": mixing["known_classes"]}
    if source == "coco":
        return CocoObjects(root, split, **options)
    if source == "ade20k":
        return Ade20kObjects(root, split, **options)
    if source == "folder":
        return FolderObjects(root / split, mask_255=mixing["mask_255"] or None, **options)
    raise ParameterError(f"mixing.source: expected coco, ade20k or folder, got {source!r}")


def _decoys(
    sources: Sequence[str],
    objects: Callable[[str], IndexedObjects],
    taxonomy: Taxonomy,
    corpora: Sequence[Corpus],
) -> ObjectSource | None:
    """Known objects of all sources, every class equally often; None without sources."""
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
