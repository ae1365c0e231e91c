# SPDX-License-Identifier: Apache-2.0
"""Everything that travels with weights: classes, input scaling, calibration, provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.io.safe_yaml_json import parse_json, short_repr
from anomaly_seg_ros.models.input_scaling import InputScaling
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule
from anomaly_seg_ros.scores import SCORES, ClassStatistics

FORMAT = 1
# Key of the JSON in the header of a safetensors file.
METADATA_KEY = "anomaly_seg_ros"
_LONGEST_SIDE = 1 << 16
# What reading a value of another type, shape or range raises.
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, ParameterError)


@dataclass(frozen=True)
class ModelMetadata:
    """Describes a model; stored as JSON in the safetensors header.

    Attributes:
        name: Shown to people, in diagnostics and in reports.
        architecture: Key of the network registry.
        arguments: The network's constructor arguments.
        classes: Names in trainId order.
        palette: (K, 3) uint8 RGB.
        mean, std: Input scaling per RGB channel, on [0, 1]: ``(x / 255 - mean) / std``.
        inference_size: Default (height, width) of the network input.
        output_stride: Rows of the input for each row of the logits; None in files that are older
            than this field.
        default_score: The score of ``score_method: auto``.
        calibration: Constants by score name.
        statistics: Mean and deviation of the maximum logit by class, for ``sml``.
        object_rates: What share of unknown objects is found, at how many false alarms; None
            without a calibration on such, as in files that are older than this field.
        provenance: Free-form: data, commands, figures, licence.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    palette: np.ndarray
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    inference_size: tuple[int, int]
    output_stride: int | None = None
    default_score: str = "max_logit"
    calibration: dict[str, ScoreCalibration] = field(default_factory=dict)
    statistics: ClassStatistics | None = None
    object_rates: ObjectRates | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def input_scaling(self) -> InputScaling:
        """``mean`` and ``std`` as a function of images."""
        return InputScaling(self.mean, self.std)

    def calibration_of(self, score: str) -> ScoreCalibration:
        """The constants of a score; provisional ones, without rates, without a calibration."""
        return self.calibration.get(score, SCORES[score].provisional)

    def to_json(self) -> str:
        """Serialises; :meth:`from_json` restores an equal object."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "architecture": self.architecture,
                "arguments": self.arguments,
                "classes": list(self.classes),
                "palette": self.palette.tolist(),
                "mean": list(self.mean),
                "std": list(self.std),
                "inference_size": list(self.inference_size),
                "output_stride": self.output_stride,
                "default_score": self.default_score,
                "calibration": {k: _calibration_json(v) for k, v in self.calibration.items()},
                "statistics": None
                if self.statistics is None
                else {
                    "mean": self.statistics.mean.tolist(),
                    "std": self.statistics.std.tolist(),
                },
                **_object_rates_json(self.object_rates),
                "provenance": self.provenance,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str, source: str = "metadata") -> ModelMetadata:
        """Parses and checks.

        Args:
            text: JSON.
            source: File name for errors.

        Raises:
            CheckpointError: Not our JSON, of another format version, or inconsistent.
        """
        raw = parse_json(text, f"{source}: model metadata", CheckpointError)
        try:
            if (version := raw["format"]) != FORMAT:
                raise CheckpointError(
                    f"{source}: metadata format {short_repr(version)}, this version reads {FORMAT}"
                )
            statistics = raw["statistics"]
            metadata = cls(
                name=_text(raw["name"]),
                architecture=_text(raw["architecture"]),
                arguments=dict(raw["arguments"]),
                classes=tuple(_text(c) for c in raw["classes"]),
                palette=_palette(raw["palette"]),
                mean=_triple(raw["mean"]),
                std=_triple(raw["std"], positive=True),
                inference_size=(_side(raw["inference_size"][0]), _side(raw["inference_size"][1])),
                output_stride=_optional_side(raw.get("output_stride")),
                default_score=_score(raw["default_score"]),
                calibration={
                    _text(k): _parse_calibration(v) for k, v in raw["calibration"].items()
                },
                statistics=None
                if statistics is None
                else ClassStatistics(
                    torch.tensor(_floats(statistics["mean"]), dtype=torch.float32),
                    torch.tensor(_floats(statistics["std"]), dtype=torch.float32),
                ),
                object_rates=_parse_object_rates(raw.get("object_rates")),
                provenance=dict(raw["provenance"]),
            )
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            ParameterError,
        ) as error:
            raise CheckpointError(f"{source}: unreadable model metadata: {error!r}") from error
        if len(metadata.classes) != len(metadata.palette):
            raise CheckpointError(
                f"{source}: {len(metadata.classes)} classes but {len(metadata.palette)} colours"
            )
        if metadata.statistics is not None:
            for name in ("mean", "std"):
                if len(getattr(metadata.statistics, name)) != len(metadata.classes):
                    raise CheckpointError(f"{source}: statistics.{name} has the wrong length")
        return metadata


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {short_repr(value)}")
    return value


def _score(value: Any) -> str:
    if not isinstance(value, str) or value not in SCORES:
        raise ValueError(f"unknown score {short_repr(value)}")
    return value


def _floats(values: Any) -> tuple[float, ...]:
    """Checks that a list holds finite numbers only."""
    numbers = tuple(float(v) for v in values if isinstance(v, int | float))
    if len(numbers) != len(values) or not np.isfinite(numbers).all():
        raise ValueError(f"expected finite numbers, got {short_repr(values)}")
    return numbers


def _triple(values: Any, positive: bool = False) -> tuple[float, float, float]:
    red, green, blue = _floats(values)
    if positive and min(red, green, blue) <= 0:
        raise ValueError(f"expected positive numbers, got {short_repr(values)}")
    return red, green, blue


def _side(value: Any) -> int:
    """A number of rows or columns."""
    if type(value) is not int or not 1 <= value <= _LONGEST_SIDE:
        raise ValueError(f"expected 1 to {_LONGEST_SIDE} pixels, got {short_repr(value)}")
    return value


def _optional_side(value: Any) -> int | None:
    return None if value is None else _side(value)


def _palette(values: Any) -> np.ndarray:
    colours = np.array(values)
    if colours.ndim != 2 or colours.shape[1] != 3 or colours.dtype.kind not in "iu":
        raise ValueError("the palette must be a list of [red, green, blue]")
    if colours.min() < 0 or colours.max() > 255:
        raise ValueError("a colour outside 0 to 255")
    return colours.astype(np.uint8)


def _calibration_json(calibration: ScoreCalibration) -> dict[str, Any]:
    def table(rates: RateTable | None) -> dict[str, list[float]] | None:
        if rates is None:
            return None
        return {"thresholds": list(rates.thresholds), "rates": list(rates.rates)}

    return {
        "threshold": calibration.threshold,
        "scale": calibration.scale,
        "inlier_rates": table(calibration.inlier_rates),
        "outlier_rates": table(calibration.outlier_rates),
    }


def _parse_calibration(raw: dict[str, Any]) -> ScoreCalibration:
    def table(rates: dict[str, list[float]] | None) -> RateTable | None:
        if rates is None:
            return None
        thresholds, shares = _floats(rates["thresholds"]), _floats(rates["rates"])
        if len(thresholds) != len(shares) or not all(0 <= share <= 1 for share in shares):
            raise ValueError("a table of rates is damaged")
        return RateTable(thresholds, shares)

    inlier_rates = table(raw["inlier_rates"])
    if inlier_rates is None:
        raise KeyError("inlier_rates")
    return ScoreCalibration(
        float(raw["threshold"]), float(raw["scale"]), inlier_rates, table(raw["outlier_rates"])
    )


def _object_rates_json(rates: ObjectRates | None) -> dict[str, Any]:
    """The entry ``object_rates``; none without rates, so that older versions' files stay equal."""
    if rates is None:
        return {}
    entry = {key: list(getattr(rates, key)) for key in ("min_scores", "false_alarms", "found")}
    rule = {key: getattr(rates.rule, key) for key in ("threshold", "low_threshold", "min_area")}
    return {"object_rates": {"score": rates.score, "rule": rule, **entry}}


def _parse_object_rates(raw: dict[str, Any] | None) -> ObjectRates | None:
    if raw is None:
        return None
    threshold, low_threshold = _floats([raw["rule"][k] for k in ("threshold", "low_threshold")])
    return ObjectRates(
        _score(raw["score"]),
        ObjectRule(threshold, low_threshold, _side(raw["rule"]["min_area"])),
        _floats(raw["min_scores"]),
        _floats(raw["false_alarms"]),
        _floats(raw["found"]),
    )
