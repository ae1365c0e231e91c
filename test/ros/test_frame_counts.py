"""Counts of frames and faults."""

from __future__ import annotations

from anomaly_seg_ros.ros.counters import FrameCounts


def test_counts_by_name_and_hands_out_copies():
    counts = FrameCounts()
    counts.add("received", "dropped")
    counts.add("received")
    totals = counts.totals()
    counts.add("received")
    assert totals == {"received": 2, "dropped": 1}
    assert totals["bad"] == 0


def test_faults_are_first_once_per_kind():
    counts = FrameCounts()
    assert counts.add_fault("zero size", "first")
    assert not counts.add_fault("zero size", "second")
    assert counts.add_fault("truncated", "third")
    assert counts.faults() == {"zero size": (2, "second"), "truncated": (1, "third")}
