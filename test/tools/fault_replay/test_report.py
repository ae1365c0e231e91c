# SPDX-License-Identifier: Apache-2.0
"""The document says what the results say."""

from __future__ import annotations

import copy

import pytest

from tools.fault_replay.report import (
    NOTHING_LEFT,
    handles_verdict,
    summary,
    tables,
)

HELD = {
    "python_threads": ["MainThread"], "native_threads": ["python"] * 3, "open_files": ["pipe"],
    "publishers": 2, "subscriptions": 0, "services": 9, "clients": 0, "timers": 1,
}  # fmt: skip
RESULTS = {
    "replay": {
        "frames": 2000,
        "seconds": 10.0,
        "options": {"seed": 4},
        "plan_sha256": "abcdef" * 10,
        "machine": {"python": "3.11", "torch": "2", "numpy": "2", "system": "Linux"},
        "injected": {"plain": 1500, "truncated": 17, "burst": 12},
        "sent": {"certain": 1900, "uncertain": 60, "unheard": 40},
        "node": {"received": 1950, "processed": 1800, "dropped": 100, "throttled": 20,
                 "unwatched": 5, "bad": 20, "failed": 5},
        "answers": {"labels": 1800},
        "while_connected": {"processed": 1700, "published": 1700, "heard": 1690},
        "sums_compared": 33,
        "memory": {"warm_mib": 300.0, "last_mib": 303.0, "growth": 0.01},
        "handles": {"cleaned_up_first": HELD, "cleaned_up_last": HELD, "after": {}},
        "violations": [],
        "violation_count": 0,
    },
    "restarts": {"kills": 3, "frames_of_a_life": 100, "answered_by_life": [100, 98, 99, 100],
                 "violations": [], "violation_count": 0},
    "reproducibility": {"frames": 8, "different": 1, "sha256": ""},
}  # fmt: skip


def test_summary_has_the_numbers():
    text = "\n".join(summary(RESULTS))
    for words in (
        "2,000 frames in 10 s (200 frames/s), 12 other faults",
        "received 1,950 = 1,800 processed + 100 dropped",
        "1,700 processed, 1,700 answers published, each once; another process heard 1,690",
        "violations: 0 in 33 closed sums and 1,800 answers",
        "300 MiB, at the end 303 MiB (+1.00 %)",
        NOTHING_LEFT,
        "restarted 3 times: 100, 98, 99, 100 of 100 frames answered",
        "7 of 8 with the same bytes",
    ):
        assert words in text


def test_tables_count_each_fault_and_show_violations():
    results = copy.deepcopy(RESULTS)
    assert "### Violations" not in tables(results)
    results["replay"]["violations"] = ["labels: answered 2 times"]
    text = tables(results)
    assert "| truncated | 17 |" in text
    assert "| garbage bytes | 0 |" in text
    assert "| publishers | 2 | 2 |  |" in text
    assert "- labels: answered 2 times" in text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("open_files", ["pipe", "socket"], "open_files 1 -> 2"),
        ("publishers", 3, "publishers 2 -> 3"),
        ("native_threads", [], NOTHING_LEFT),
    ],
)
def test_what_is_left_is_named(name, value, words):
    handles = {"cleaned_up_first": HELD, "cleaned_up_last": {**HELD, name: value}}
    assert handles_verdict(handles) == words


def test_a_run_that_ended_early_has_no_verdict():
    results = copy.deepcopy(RESULTS)
    results["replay"].update(node={}, while_connected={}, handles={"cleaned_up_first": HELD})
    assert handles_verdict(results["replay"]["handles"]) == "not reached"
    assert "received 0 = 0 processed" in "\n".join(summary(results))
    assert "not reached" in tables(results)
