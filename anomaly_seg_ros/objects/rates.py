# SPDX-License-Identifier: Apache-2.0
"""An object's score, calibrated: what share of objects is found at a rate of false alarms."""

from __future__ import annotations

from dataclasses import dataclass

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.regions import ObjectRule


@dataclass(frozen=True)
class ObjectRates:
    """Rates on held-out frames at several smallest scores of an object.

    Attributes:
        score: Name of the anomaly score whose unit map was searched.
        rule: What counted as an object; its ``min_score`` is 0.
        min_scores: Ascending.
        false_alarms: False alarms per frame at each of them, descending.
        found: Share of unknown things that were found at each of them, [0, 1].
    """

    score: str
    rule: ObjectRule
    min_scores: tuple[float, ...]
    false_alarms: tuple[float, ...]
    found: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.min_scores), len(self.false_alarms), len(self.found)}
        if len(lengths) != 1 or not self.min_scores:
            raise ValueError("a table of object rates is damaged")

    def min_score_for(self, false_alarms: float, score: str, rule: ObjectRule) -> float:
        """Smallest score of an object for at most this many false alarms per frame.

        Args:
            false_alarms: Per frame.
            score: Name of the anomaly score in use.
            rule: What counts as an object; ``min_score`` is what is asked for.

        Raises:
            ParameterError: The table is of another score or rule, or there were more false alarms
                at every score of it.
        """
        measured = self.rule
        for what, used, calibrated in (
            ("score", score, self.score),
            ("threshold", rule.threshold, measured.threshold),
            ("low threshold", rule.low_threshold, measured.low_threshold),
            # Leaving out more makes no more false alarms.
            ("smallest area", min(rule.min_area, measured.min_area), measured.min_area),
        ):
            if used != calibrated:
                raise ParameterError(
                    f"the model's objects were calibrated with {what} {calibrated}, not {used}; "
                    "set the smallest score of an object instead"
                )
        return self.min_scores[self.index_for(false_alarms)]

    def index_for(self, false_alarms: float) -> int:
        """Row of the smallest score with at most this many false alarms per frame.

        Raises:
            ParameterError: There were more at every score of the table.
        """
        for index, rate in enumerate(self.false_alarms):
            if rate <= false_alarms:
                return index
        raise ParameterError(
            f"{false_alarms:g} false alarms per frame: fewer than the {self.false_alarms[-1]:g} "
            "that the model's calibration could measure"
        )
