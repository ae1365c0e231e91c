"""Measure one model: AP, AUROC and FPR95 of its scores, and its closed-set mIoU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.datasets import Sample, open_dataset
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from training.data.corpora import FrameSequence, TrainingData
from training.flow.pointwise_flow import flow_beside
from training.study.scores import FrameScore, ScoreBuilder, ScoreOptions, is_offered
from training.validation import Viewer, closed_set_matrix, upsampled_outputs


@dataclass(frozen=True)
class MeasureOptions:
    """Settings of the measurements.

    Attributes:
        miou_every: Measure mIoU on every n-th of the 500 Cityscapes-256 validation frames.
        training_frames: Frames per corpus for the scores that are fitted to training frames.
        scores: See :class:`~training.study.scores.ScoreOptions`.
    """

    miou_every: int = 5
    training_frames: int = 20
    scores: ScoreOptions = field(default_factory=ScoreOptions)


def measure(
    model: str | Path,
    scores: Sequence[str],
    sets: Mapping[str, Mapping[str, str]],
    folder: Path,
    data: TrainingData,
    device: torch.device,
    options: MeasureOptions,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Measures a model as the Segmenter runs it, against full-size masks.

    Args:
        model: Name or file, see :func:`~anomaly_seg_ros.checkpoints.loading.load_model`.
        scores: Names from :data:`~training.study.scores.STUDY_SCORES`; scores that the model
            cannot compute are left out.
        sets: Name -> ``adapter`` and ``root`` (relative to ``folder``).
        folder: Folder of the data sets.
        data: Frames for the mIoU, and for scores that are fitted to training frames.
        device: Device to run on, in float32.
        options: See :class:`MeasureOptions`.
        size: (height, width) to resize frames to; None uses the model's own inference size.

    Returns:
        ``sets`` (set -> score -> ``AP``, ``AUROC``, ``FPR95``) and ``mIoU``, fractions.
    """
    network, metadata = load_model(model)
    network.to(device, memory_format=torch.channels_last).requires_grad_(False)
    viewer = Viewer(
        metadata.input_scaling,
        device,
        size or metadata.inference_size,
        len(metadata.classes),
        multiple=network.size_multiple,
    )
    builder = ScoreBuilder(
        network,
        metadata,
        viewer,
        lambda: training_frames(data, options.training_frames),
        options.scores,
        flow_beside(model),
    )
    built = {name: builder(name) for name in scores if is_offered(name, network, metadata)}
    return {
        "sets": {
            name: set_figures(
                network, open_dataset(where["adapter"], folder / where["root"]), viewer, built
            )
            for name, where in sets.items()
        },
        "mIoU": mean_iou(network, data, viewer, options.miou_every),
    }


def mean_iou(network: nn.Module, data: TrainingData, viewer: Viewer, every: int) -> float:
    """Closed-set mIoU over every n-th validation frame, at the viewer's size."""
    matrix = ConfusionMatrix(viewer.num_classes)
    for corpus in data.validation:
        matrix.merge(closed_set_matrix(network, corpus.every(every), viewer))
    return matrix.mean_iou()


def training_frames(data: TrainingData, count: int) -> FrameSequence:
    """About ``count`` evenly spaced frames from every training corpus."""
    return FrameSequence([corpus.every(-(-len(corpus) // count)) for corpus in data.train])


def set_figures(
    network: nn.Module,
    samples: Iterable[Sample],
    viewer: Viewer,
    scores: Mapping[str, FrameScore],
) -> dict[str, dict[str, float]]:
    """Computes AP, AUROC and FPR95 of each score over the pixels of all frames.

    Args:
        network: The network, in eval mode.
        samples: Frames with anomaly masks.
        viewer: Runs the network on single frames.
        scores: Scores by name. Their maps are upsampled bilinearly to the masks, as in the node.
    """
    pooled = {name: PixelScores() for name in scores}
    for sample in samples:
        frame = sample.load()
        inputs = viewer.to_input(frame.image)
        output = viewer.output(network, frame.image)
        for name, pixels in pooled.items():
            raw = scores[name](inputs, output)[None]
            size = frame.anomaly_mask.shape
            if raw.shape[-2:] == output.logits.shape[-2:]:
                full = upsampled_outputs(raw, size, network)
            else:
                # A smoothed score is on the input's grid. The frame was resized to it with
                # aligned pixel centres, whatever the network's own convention.
                full = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)
            pixels.update(full[0, 0].cpu().numpy(), frame.anomaly_mask, sample.name)
    figures = {}
    for name, pixels in pooled.items():
        metrics = pixels.compute()
        figures[name] = {"AP": metrics.AP, "AUROC": metrics.AUROC, "FPR95": metrics.FPR95}
    return figures
