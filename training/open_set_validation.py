"""What a fine-tuning is judged by while it runs, on frames and objects that it never sees."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.held_out import mixed_held_out, natural_frames
from training.data.road_scenes import cityscapes256_val
from training.engine.entry import Run
from training.validation import Viewer, anomaly_figures, closed_set_matrix


class OpenSetValidation:
    """Closed-set mIoU, and AP and FPR95 on held-out frames with outliers.

    Figures: ``val_miou``; ``mixed_SCORE_ap`` and ``mixed_SCORE_fpr95`` on pasted objects;
    ``natural_SCORE_...`` on CamVid's natural unknowns.

    Args:
        run: Its configuration (part "validation"), data and device.
        metadata: Of the model.
        taxonomy: Of the labels.
    """

    def __init__(self, run: Run, metadata: ModelMetadata, taxonomy: Taxonomy) -> None:
        options = run.config["validation"]
        self.scores: list[str] = options["scores"]
        self.closed_set = cityscapes256_val(run.data, options["closed_set_every"])
        self.mixed = mixed_held_out(
            run.config["mixing"], run.data, taxonomy, options["mixed_frames"]
        )
        self.natural = natural_frames(run.data) if options["natural"] else []
        half = run.config["precision"] != "fp32"
        size = tuple(options["size"])
        self._viewer = Viewer(
            metadata.input_scaling, run.device, size, len(metadata.classes), half
        )
        self._closed_set_viewer = replace(self._viewer, size=tuple(options["closed_set_size"]))

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a model in eval mode."""
        matrix = closed_set_matrix(network, self.closed_set, self._closed_set_viewer)
        figures = {"val_miou": matrix.mean_iou()}
        for prefix, frames in (("mixed", self.mixed), ("natural", self.natural)):
            if frames:
                figures |= anomaly_figures(network, frames, self._viewer, self.scores, prefix)
        return figures
