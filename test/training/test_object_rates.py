# SPDX-License-Identifier: Apache-2.0
"""Rates of objects: tabulated where they are promised, and checked on other frames."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.prediction import OutputRequest
from anomaly_seg_ros.objects.regions import ObjectRule
from training.object_rates import object_rates

RULE = ObjectRule(min_area=9)
CLEAR = np.zeros((40, 60), np.uint8)


class PaintedScores:
    """A segmenter whose unit score is the image's red, as a share of 255."""

    def segment(self, images: list[np.ndarray], request: OutputRequest) -> list[SimpleNamespace]:
        assert request.unknown.score == "energy"
        return [SimpleNamespace(unit_score=i[..., 0].astype(np.float32) / 255) for i in images]


def picture(*patches: tuple[int, int]) -> np.ndarray:
    """Patches of 6 x 6 pixels at (column, red)."""
    image = np.zeros((40, 60, 3), np.uint8)
    for column, red in patches:
        image[10:16, column : column + 6] = red
    return image


def thing(at: int) -> np.ndarray:
    mask = CLEAR.copy()
    mask[10:16, at : at + 6] = 1
    return mask


def test_rates_are_those_of_the_frames() -> None:
    # False alarms of 150, 160 ... 240 in ten frames; things of 155, 165 ... 245 in ten others.
    known = [(picture((5, 150 + 10 * i)), CLEAR) for i in range(10)]
    unknown = [(picture((5, 155 + 10 * i)), thing(5)) for i in range(10)]
    missed = [(picture(), thing(5))] * 2
    rates, report = object_rates(
        PaintedScores(), "energy", known, {"bright": unknown, "dark": missed}, RULE
    )
    assert (rates.score, rates.rule) == ("energy", RULE)
    # 0.01 to 0.05 a frame are less than ten frames can tell, 2 and more are not reached.
    assert rates.false_alarms == (1.0, 0.5, 0.2, 0.1)
    assert rates.found == pytest.approx((10 / 12, 6 / 12, 3 / 12, 2 / 12))
    # Just above the first false alarm too many.
    assert rates.min_scores == pytest.approx((0.0, 190 / 255, 220 / 255, 230 / 255), abs=1e-6)
    assert rates.index_for(0.5) == 1
    assert rates.index_for(0.49) == 2
    assert rates.index_for(99.0) == 0
    assert report["false_alarms"] == 0.5
    assert report["found"] == {"bright": 0.6, "dark": 0.0}
    # Frames 0, 2 ... have 150, 170 ... 230: two of five above 190. Their things have 155 ... 235:
    # three of five and one that is dark. In the other frames it is three and three.
    assert report["check"] == {"promised": [0.4, 0.5], "on_other_frames": [0.6, 0.5]}


def test_without_false_alarms_every_thing_counts() -> None:
    unknown = {"all": [(picture((5, 200)), thing(5)), (picture((20, 200)), thing(40))]}
    rates, _ = object_rates(PaintedScores(), "energy", [(picture(), CLEAR)] * 3, unknown, RULE)
    assert (rates.min_scores, rates.false_alarms, rates.found) == ((0.0,), (0.0,), (0.5,))


def test_things_too_small_for_the_rule_need_not_be_found() -> None:
    mask = thing(5)
    mask[30:32, 30:34] = 1
    unknown = {"all": [(picture((5, 200)), mask)]}
    rates, report = object_rates(PaintedScores(), "energy", [(picture(), CLEAR)], unknown, RULE)
    assert rates.found == (1.0,)
    assert "check" not in report


def test_fewer_false_alarms_than_were_measured_are_refused() -> None:
    known = [(picture((5, 200)), CLEAR)]
    rates, report = object_rates(PaintedScores(), "energy", known, {}, RULE)
    with pytest.raises(ParameterError, match=r"0\.5 false alarms per frame: fewer than the 1"):
        rates.index_for(0.5)
    assert report == {}
