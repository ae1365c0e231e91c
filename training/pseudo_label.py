# SPDX-License-Identifier: Apache-2.0
"""Label frames by a model, for training on drives that nobody has labelled.

    python -m training.pseudo_label --run-dir runs/drives --model erfnet --set images=FRAMES

Writes ``images`` (the frames as they are, below the folder ``images`` of the configuration at any
depth) and ``labels`` into the run folder, trainIds as the data set ``folder`` reads them with
``labels: classes``. Pixels of which the model is not sure are 255, ignored by every training.
Frames that are labelled already are skipped, so an interrupted run goes on where it was;
``pseudo_labels.json`` keeps two models from one folder.

With a student that starts as its own teacher this keeps what it knows (self-distillation); and
the labels of the ground are what objects are placed by.

Source: Lee, "Pseudo-Label" (ICML workshop 2013); the threshold on the confidence as in Zou et al.,
"Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training"
(ECCV 2018), without its class balance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomaly_seg_ros.checkpoints.loading import resolve_model
from anomaly_seg_ros.errors import DatasetError, OutputError, ParameterError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES, read_image
from anomaly_seg_ros.io.safe_yaml_json import read_json
from anomaly_seg_ros.labels import IGNORE_INDEX
from training.data.block import source_folder
from training.engine.config import check_share
from training.engine.entry import Run, run_entry
from training.engine.storage import make_folder, write_atomically

_RECORD = "pseudo_labels.json"


def pseudo_labels(segmenter: Segmenter, image: np.ndarray, confidence: float) -> np.ndarray:
    """Labels one frame.

    Args:
        segmenter: The model.
        image: (H, W, 3) uint8 RGB.
        confidence: Smallest probability of the predicted class.

    Returns:
        (H, W) uint8 trainIds, 255 where the model is less sure.
    """
    prediction = segmenter.predict(image, scores=())
    labels = prediction.labels.copy()
    labels[prediction.confidence < 255 * confidence] = IGNORE_INDEX
    return labels


def named_frames(root: Path) -> dict[str, Path]:
    """The images below a folder by their names in one flat folder, which say where they lie.

    Raises:
        DatasetError: There is none, or two would share a label file.
    """
    frames = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not frames:
        raise DatasetError(f"images: {root}: no images in this folder or below it")
    named: dict[str, Path] = {}
    stems: dict[str, Path] = {}
    for path in frames:
        name = "_".join(path.relative_to(root).parts)
        if (other := stems.setdefault(Path(name).stem, path)) != path:
            raise DatasetError(f"{path} and {other} would both be labelled {Path(name).stem}.png")
        named[name] = path
    return named


def _check_record(out: Path, record: dict[str, Any]) -> None:
    """Writes down what the labels come from.

    Raises:
        OutputError: The folder's labels come from something else, or it cannot be written.
    """
    path = out / _RECORD
    if path.exists():
        before = read_json(path, OutputError)
        before = before if isinstance(before, dict) else {}
        if changed := [key for key, value in record.items() if before.get(key) != value]:
            raise OutputError(
                f"{out}: its labels were made with another {' and '.join(changed)} ({path}); "
                "choose another folder"
            )
    write_atomically(path, lambda file: file.write(json.dumps(record, indent=1).encode()))


def pseudo_label(run: Run) -> None:
    """Labels what is not labelled yet.

    Args:
        run: The run, see :class:`~training.engine.entry.Run`.

    Raises:
        AnomalySegError: An error in the configuration, the model or a frame, labels that come from
            something else, or a full disk.
    """
    confidence = run.config["confidence"]
    check_share("confidence", confidence)
    if run.distributed.world_size > 1:
        raise ParameterError("pseudo_label: runs as one process")
    source = source_folder(run.config["images"], run.data)
    if run.folder.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"--run-dir {run.folder}: lies in images, {source}, and would be read")
    frames = named_frames(source)
    model = run.config["model"]
    # bfloat16, the fastest on a CPU, would give another label to some pixels in a hundred.
    segmenter = Segmenter.load(model, device=str(run.device), precision="fp32")
    images, labels = run.folder / "images", run.folder / "labels"
    make_folder(images)
    make_folder(labels)
    record = {"model": segmenter.metadata.name, "sha256": file_sha256(resolve_model(model))}
    _check_record(run.folder, {**record, "confidence": confidence})
    for name, path in tqdm(frames.items(), "labelling", unit="frame"):
        target = labels / f"{Path(name).stem}.png"
        if target.exists():
            continue
        found = pseudo_labels(segmenter, read_image(path), confidence)
        files = {images / name: path.read_bytes(), target: cv2.imencode(".png", found)[1]}
        # The label file is last: where it is, the frame is done.
        for file, content in files.items():
            write_atomically(file, lambda stream, content=content: stream.write(content))
    run.say(f"wrote {run.folder}: {len(frames)} frames")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_entry(
        *("pseudo_label", __doc__.splitlines()[0], "pseudo_label.yaml", pseudo_label),
        arguments,
        shorthands=("model",),
    )


if __name__ == "__main__":
    sys.exit(main())
