# SPDX-License-Identifier: Apache-2.0
"""The picture of the architecture is that of the code, and the drawing's own rules hold."""

from __future__ import annotations

import pytest

from tools.draw_architecture import PICTURE, arrows, drawn_arrows, floors, svg


def test_the_committed_picture_is_that_of_the_code():
    same = PICTURE.read_text(encoding="utf-8") == svg()
    assert same, "rooms or imports have changed: run `python -m tools.draw_architecture`"


def test_every_room_stands_above_what_it_imports():
    uses = arrows()
    level = floors(uses)
    assert len(uses) >= 20
    assert all(level[room] > level[target] for room in uses for target in uses[room])


def test_what_a_longer_way_implies_is_not_drawn():
    uses = {"a": {"b", "c"}, "b": {"c", "errors"}, "c": set(), "errors": set()}
    assert drawn_arrows(uses) == [("a", "b"), ("b", "c")]


def test_a_circle_is_named():
    with pytest.raises(ValueError, match=r"circle: a, b$"):
        floors({"a": {"b"}, "b": {"a", "c"}, "c": set()})
