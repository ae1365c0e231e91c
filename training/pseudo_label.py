"""Label frames by a model, for training on drives that nobody has labelled.

    python -m training.pseudo_label --model efficientvit_b0 --images drives --out drives_labelled

Writes ``OUT/images`` (the frames as they are, below ``--images`` at any depth) and ``OUT/labels``,
trainIds as the data set ``folder`` reads them with ``labels: classes``. Pixels of which the model
is not sure are 255, ignored by every training. Frames that are labelled already are skipped, so an
interrupted run goes on where it was; ``OUT/pseudo_labels.json`` keeps two models from one folder.

With a student that starts as its own teacher this keeps what it knows (self-distillation); and
the labels of the ground are what objects are placed by.

Source: Lee, "Pseudo-Label" (ICML workshop 2013); the threshold on the confidence as in Zou et al.,
"Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training"
(ECCV 2018), without its class balance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomaly_seg_ros.checkpoints.loading import resolve_model
from anomaly_seg_ros.errors import DatasetError, OutputError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES, read_image
from anomaly_seg_ros.io.safe_yaml_json import read_json
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.system.tool import run_tool
from training.engine.config import check_share
from training.engine.entry import folder_argument
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
        raise DatasetError(f"{root}: no images in this folder or below it")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name of docs/models.md, or a file")
    parser.add_argument("--images", type=folder_argument, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)

    def body() -> None:
        check_share("--confidence", args.confidence)
        if args.out.resolve().is_relative_to(args.images.resolve()):
            raise OutputError(f"--out {args.out} lies in --images, which is read as a whole")
        frames = named_frames(args.images)
        # bfloat16, the fastest on a CPU, would give another label to some pixels in a hundred.
        segmenter = Segmenter.load(args.model, device=args.device, precision="fp32")
        images, labels = args.out / "images", args.out / "labels"
        make_folder(images)
        make_folder(labels)
        sha256 = file_sha256(resolve_model(args.model))
        record = {"model": segmenter.metadata.name, "sha256": sha256}
        _check_record(args.out, {**record, "confidence": args.confidence})
        for name, path in tqdm(frames.items(), "labelling", unit="frame"):
            target = labels / f"{Path(name).stem}.png"
            if target.exists():
                continue
            found = pseudo_labels(segmenter, read_image(path), args.confidence)
            files = {images / name: path.read_bytes(), target: cv2.imencode(".png", found)[1]}
            # The label file is last: where it is, the frame is done.
            for file, content in files.items():
                write_atomically(file, lambda stream, content=content: stream.write(content))
        print(f"wrote {args.out}: {len(frames)} frames")

    return run_tool("pseudo_label", body)


if __name__ == "__main__":
    sys.exit(main())
