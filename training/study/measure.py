# SPDX-License-Identifier: Apache-2.0
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
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from training.data.corpora import FrameSequence, TrainingData
from training.flow.pointwise_flow import flow_beside
from training.study.image_scores import Histograms, ImageHistograms, ImageScores
from training.study.scores import FrameScore, ScoreBuilder, ScoreOptions, is_offered
from training.validation import Viewer, upsampled_outputs, validation_matrix


@dataclass(frozen=True)
class MeasureOptions:
    """Settings of the measurements.

    Attributes:
        training_frames: Frames per corpus, at most, for the scores that are fitted to some.
        scores: See :class:`~training.study.scores.ScoreOptions`.
    """

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
) -> tuple[dict[str, Any], Histograms]:
    """Measures a model as the Segmenter runs it, against full-size masks.

    Args:
        model: Name or file, see :func:`~anomaly_seg_ros.checkpoints.loading.load_model`.
        scores: Names from :data:`~training.study.scores.STUDY_SCORES`; scores that the model
            cannot compute are left out.
        sets: Name -> ``adapter`` and ``root`` (relative to ``folder``).
        folder: Folder of the data sets.
        data: Corpora for the mIoU, and frames for scores that are fitted to training frames.
        device: Device to run on, in float32.
        options: See :class:`MeasureOptions`.
        size: (height, width) to resize frames to; None uses the model's own inference size.

    Returns:
        ``sets`` (set -> score -> ``AP``, ``AUROC``, ``FPR95``) and ``mIoU`` (validation corpus ->
        mIoU), fractions; and the histograms of the sets.
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
        lambda: FrameSequence.spread(data.train, options.training_frames),
        options.scores,
        flow_beside(model),
    )
    built = {name: builder(name) for name in scores if is_offered(name, network, metadata)}
    measured = {
        name: set_figures(
            network, open_dataset(where["adapter"], folder / where["root"]), viewer, built
        )
        for name, where in sets.items()
    }
    closed_set = {
        corpus.name: validation_matrix(network, [corpus], viewer).mean_iou()
        for corpus in data.validation
    }
    figures = {"sets": {name: part[0] for name, part in measured.items()}, "mIoU": closed_set}
    return figures, {name: part[1] for name, part in measured.items()}


def set_figures(
    network: nn.Module,
    samples: Iterable[Sample],
    viewer: Viewer,
    scores: Mapping[str, FrameScore],
) -> tuple[dict[str, dict[str, float]], dict[str, ImageHistograms]]:
    """Computes AP, AUROC and FPR95 of each score over the pixels of all frames.

    Args:
        network: The network, in eval mode.
        samples: Frames with anomaly masks.
        viewer: Runs the network on single frames.
        scores: Scores by name. Their maps are upsampled bilinearly to the masks, as in the node.

    Returns:
        Exact figures by score, as fractions, and histograms by score.
    """
    pooled = {name: (PixelScores(), ImageScores()) for name in scores}
    for sample in samples:
        frame = sample.load()
        inputs = viewer.to_input(frame.image)
        output = viewer.output(network, frame.image)
        for name, (pixels, images) in pooled.items():
            raw = scores[name](inputs, output)[None]
            size = frame.anomaly_mask.shape
            if raw.shape[-2:] == output.logits.shape[-2:]:
                full = upsampled_outputs(raw, size, network)
            else:
                # A smoothed score is on the input's grid. The frame was resized to it with
                # aligned pixel centres, whatever the network's own convention.
                full = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)
            array = full[0, 0].cpu().numpy()
            pixels.update(array, frame.anomaly_mask, sample.name)
            images.add(sample.name, array, frame.anomaly_mask)
    figures = {}
    for name, (pixels, _) in pooled.items():
        metrics = pixels.compute()
        figures[name] = {"AP": metrics.AP, "AUROC": metrics.AUROC, "FPR95": metrics.FPR95}
    return figures, {name: images.finish() for name, (_, images) in pooled.items()}
