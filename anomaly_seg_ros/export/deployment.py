# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: a network between its input scaling and an anomaly score."""

from __future__ import annotations

import json

from torch import Tensor, nn

from anomaly_seg_ros import scores
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.scores import ClassStatistics


class Deployment(nn.Module):
    """Raw RGB image in; logits and an anomaly score out, on the network's output grid.

    The input scaling is inside, so whoever runs an exported file cannot get it wrong. Left to the
    caller is bilinear upsampling, which has no parameters: of the score to the image's size, and
    of the logits before their argmax. With the network's ``align_corners``, which differs from
    network to network and stands in the description, the result equals the ``Segmenter``'s.

    Args:
        network: See :class:`~anomaly_seg_ros.contract.SegmentationNetwork`; put into eval
            mode, in float32.
        metadata: The network's metadata.
        score: Name of the anomaly score, or ``auto`` for the metadata's default.

    Attributes:
        output_names: Keys of the forward pass, in order.

    Raises:
        ParameterError: The model cannot compute the score.
    """

    network: SegmentationNetwork
    mean: Tensor
    std: Tensor
    statistics_mean: Tensor
    statistics_std: Tensor

    def __init__(
        self, network: SegmentationNetwork, metadata: ModelMetadata, score: str = "auto"
    ) -> None:
        super().__init__()
        self.score = metadata.default_score if score == "auto" else score
        statistics = metadata.statistics
        has_head = network.outlier_head is not None
        reason = scores.missing_for(self.score, statistics is not None, has_head)
        if reason:
            raise ParameterError(f"model {metadata.name!r}: {reason}")
        self.network = network
        self.metadata = metadata
        self.output_names = ("logits", *(("ood_logits",) if has_head else ()), "score")
        # Buffers, because an exported graph takes no constants from outside the module.
        for name, value in zip(("mean", "std"), metadata.input_scaling.constants(), strict=True):
            self.register_buffer(name, value)
        self.has_statistics = statistics is not None
        if statistics is not None:
            self.register_buffer("statistics_mean", statistics.mean)
            self.register_buffer("statistics_std", statistics.std)
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Runs the network and the score.

        Args:
            image: (N, 3, H, W) RGB of 0 to 255, uint8 or float32; H and W multiples of the
                network's ``size_multiple``.

        Returns:
            ``logits`` (N, K, h, w); ``ood_logits`` (N, 2, h, w) where there is an outlier head,
            channel 1 = outlier; ``score`` (N, h, w), higher = more anomalous. All float32.
        """
        output = self.network((image - self.mean) / self.std)
        statistics = None
        if self.has_statistics:
            statistics = ClassStatistics(self.statistics_mean, self.statistics_std)
        # The names and their order are those of output_names.
        outputs = {"logits": output.logits}
        if output.ood_logits is not None:
            outputs["ood_logits"] = output.ood_logits
        return {**outputs, "score": scores.compute(self.score, output, statistics)}

    def description(self) -> dict[str, str]:
        """Describes the model to programs that run the exported file, as JSON texts by key.

        ``anomaly_seg_ros`` holds the whole metadata; the other keys repeat what every reader
        needs, for readers that do not know its format.
        """
        metadata, network = self.metadata, self.network
        calibration = metadata.calibration.get(self.score)
        facts = {
            "name": metadata.name,
            "architecture": metadata.architecture,
            "classes": metadata.classes,
            "palette": metadata.palette.tolist(),
            "input": "RGB, 0 to 255; scaled inside as (image / 255 - mean) / std",
            "mean": metadata.mean,
            "std": metadata.std,
            "inference_size": metadata.inference_size,
            "size_multiple": network.size_multiple,
            "output_stride": network.output_stride,
            # The Segmenter's rule, so that both upsample alike.
            "align_corners": network.align_corners,
            "score": self.score,
            "threshold": None if calibration is None else calibration.threshold,
        }
        texts = {key: json.dumps(value) for key, value in facts.items()}
        return {METADATA_KEY: metadata.to_json(), **texts}
