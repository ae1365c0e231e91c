"""Label frames by a model, for training on drives that nobody has labelled.

    python -m training.pseudo_label --model efficientvit_b0 --images drives --out drives_labelled

Writes ``OUT/images`` (the frames as they are, below ``--images`` at any depth) and ``OUT/labels``,
trainIds as the data set ``folder`` reads them with ``labels: classes``. Pixels of which the model
is not sure are 255, ignored by every training. Frames that are labelled already are skipped.

With a student that starts as its own teacher this keeps what it knows (self-distillation); and
the labels of the ground are what objects are placed by.

Source: Lee, "Pseudo-Label" (ICML workshop 2013); the threshold on the confidence as in Zou et al.,
"Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training"
(ECCV 2018), without its class balance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from anomaly_seg_ros.errors import DatasetError, OutputError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES, read_image
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.system.tool import run_tool
from training.engine.config import check_share
from training.engine.entry import folder_argument
from training.engine.storage import write_atomically


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
    return np.where(prediction.confidence < 255 * confidence, IGNORE_INDEX, prediction.labels)


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
        frames = sorted(x for x in args.images.rglob("*") if x.suffix.lower() in IMAGE_SUFFIXES)
        if not frames:
            raise DatasetError(f"{args.images}: no images in this folder or below it")
        segmenter = Segmenter.load(args.model, device=args.device)
        images, labels = args.out / "images", args.out / "labels"
        try:
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{args.out}: cannot be written: {error}") from error
        for frame in tqdm(frames, "labelling", unit="frame"):
            # One flat folder: the name says where a frame comes from.
            name = "_".join(frame.relative_to(args.images).parts)
            target = labels / f"{Path(name).stem}.png"
            if target.exists():
                continue
            found = pseudo_labels(segmenter, read_image(frame), args.confidence)
            write_atomically(
                images / name, lambda file, frame=frame: file.write(frame.read_bytes())
            )
            coded = cv2.imencode(".png", found)[1].tobytes()
            write_atomically(target, lambda file, coded=coded: file.write(coded))
        print(f"wrote {args.out}: {len(frames)} frames")

    return run_tool("pseudo_label", body)


if __name__ == "__main__":
    sys.exit(main())
