# SPDX-License-Identifier: Apache-2.0
"""A frame is shown when all of its outputs are there, and none of another one beside them."""

from __future__ import annotations

from anomaly_seg_ros.live.assembly import FrameAssembly


def test_outputs_of_one_stamp_come_together_in_any_order() -> None:
    assembly = FrameAssembly(("overlay", "objects"))
    assert assembly.add(1, "overlay", "a") is None
    assert assembly.add(2, "objects", "d") is None
    assert assembly.add(1, "objects", "b") == {"overlay": "a", "objects": "b"}
    assert assembly.add(2, "overlay", "c") == {"overlay": "c", "objects": "d"}


def test_an_older_incomplete_frame_is_given_up() -> None:
    assembly = FrameAssembly(("overlay", "objects"))
    assembly.add(1, "overlay", "a")
    assembly.add(2, "overlay", "c")
    assembly.add(2, "objects", "d")
    assert assembly.add(1, "objects", "b") is None


def test_incomplete_frames_do_not_pile_up() -> None:
    assembly = FrameAssembly(("overlay", "objects"), waiting=2)
    for stamp in range(3):
        assembly.add(stamp, "overlay", stamp)
    assert assembly.add(0, "objects", "late") is None
    assert assembly.add(2, "objects", "in time") == {"overlay": 2, "objects": "in time"}


def test_a_frame_without_further_outputs_is_complete() -> None:
    assert FrameAssembly(("overlay",)).add(1, "overlay", "a") == {"overlay": "a"}
