# SPDX-License-Identifier: Apache-2.0
"""The executable of a fault replay that is not installed."""

from __future__ import annotations

import sys

import pytest

from anomaly_seg_ros.cli import inject_faults


def test_without_a_checkout_one_line_says_where_the_replay_is(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "tools.fault_replay.__main__", raising=False)
    monkeypatch.setitem(sys.modules, "tools.fault_replay", None)
    assert inject_faults.main(["--out", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("inject_faults: error: the fault replay is part of the source checkout")
    assert "`python -m tools.fault_replay --out FOLDER`" in line


def test_another_missing_package_is_not_taken_for_a_missing_checkout(monkeypatch):
    monkeypatch.delitem(sys.modules, "tools.fault_replay.__main__", raising=False)
    monkeypatch.setitem(sys.modules, "anomaly_seg_ros.ros.discovery", None)
    with pytest.raises(ModuleNotFoundError, match=r"anomaly_seg_ros\.ros\.discovery"):
        inject_faults.main(["--out", "x"])
