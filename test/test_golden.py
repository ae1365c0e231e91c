# SPDX-License-Identifier: Apache-2.0
"""The golden files of ``golden/``: nothing that users, scripts and robots meet has changed.

Other tests compare with independent references; these only hold what was there, through a change
of the inside that is meant to leave the outside alone. ``python test/golden/write.py NAME`` writes
a file anew, for a change that is meant.
"""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from golden import write

# Kernels of another CPU sum in another order: the last bits of a network's outputs differ.
TOLERANCE = 1e-5
TIMEOUT = pytest.mark.timeout(600)


def first_difference(expected: Any, found: Any, tolerance: float, at: str = "") -> str:
    """Where the first difference is, in the order of the file, and what it is; empty if none.

    Keys, texts and whole numbers must be equal, floats to a relative ``tolerance``.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            place = f"{at} > {key}" if at else key
            if key not in found:
                return f"{place}: is gone"
            if key not in expected:
                return f"{place}: is new"
            if told := first_difference(expected[key], found[key], tolerance, place):
                return told
        return ""
    if isinstance(expected, list) and isinstance(found, list):
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            if told := first_difference(one, other, tolerance, f"{at}[{index}]"):
                return told
        if len(expected) != len(found):
            more = (expected if len(expected) > len(found) else found)[
                min(len(expected), len(found))
            ]
            return f"{at}: {len(expected)} items became {len(found)}, the first beyond: {more!r}"
        return ""
    if isinstance(expected, float) and isinstance(found, float):
        same = math.isclose(expected, found, rel_tol=tolerance)
    else:
        same = type(expected) is type(found) and expected == found
    return "" if same else f"{at}: was {expected!r}, is {found!r}"


def check(name: str, folder: Path) -> None:
    """Makes a golden anew and compares it with its file."""
    golden = write.GOLDENS[name]
    expected = json.loads(write.path_of(name).read_text(encoding="utf-8"))
    if golden.of_machine:
        here = json.loads(json.dumps(write.machine()))
        if told := first_difference(expected["machine"], here, 0.0):
            pytest.skip(f"bytes of another machine: {told}")
    try:
        found = json.loads(write.text_of(golden.make(folder)))
    except write.NoDataError as error:
        pytest.skip(str(error))
    told = first_difference(expected, found, 0.0 if golden.of_machine else TOLERANCE)
    assert not told, f"{name}.json: {told} (meant? python test/golden/write.py {name})"


@pytest.fixture(autouse=True)
def no_chosen_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have chosen one, which the node tells."""
    for name in [name for name in os.environ if name.startswith(("FASTDDS_", "FASTRTPS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["surfaces", "options", "errors"])
def test_command_line(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@TIMEOUT
@pytest.mark.ros
@pytest.mark.parametrize("name", ["node", "metrics"])
def test_node(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    check(name, tmp_path)


@TIMEOUT
@pytest.mark.slow
@pytest.mark.data
def test_benchmark(tmp_path: Path) -> None:
    check("benchmark", tmp_path)


@TIMEOUT
@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize(
    # The demo's figures are in "metrics", the node's bytes in "digests".
    "name",
    ["digests", pytest.param("demo", marks=pytest.mark.exhaustive)],
)
def test_bytes_of_this_machine(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    check(name, tmp_path)


def test_every_golden_is_checked() -> None:
    """And the folder holds no file that nobody makes."""
    checked = {"surfaces", "options", "errors", "node", "metrics", "benchmark", "demo", "digests"}
    assert set(write.GOLDENS) == checked
    assert {path.stem for path in write.FOLDER.glob("*.json")} == checked


BEFORE = {"b": [1, {"c": 2.0}, "x"], "a": {"n": None}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: None, ""),
        (lambda d: d["b"][1].update(c=2.0 + 1e-6), ""),
        (lambda d: d["b"][1].update(c=2.001), "b[1] > c: was 2.0, is 2.001"),
        (lambda d: d["b"][1].update(c=2), "b[1] > c: was 2.0, is 2"),
        (lambda d: d["a"].pop("n"), "a > n: is gone"),
        (lambda d: d.update(e=1), "e: is new"),
        (lambda d: d["b"].append(7), "b: 3 items became 4, the first beyond: 7"),
        (lambda d: d["b"].__setitem__(2, "y"), "b[2]: was 'x', is 'y'"),
        (lambda d: d["b"].__setitem__(0, True), "b[0]: was 1, is True"),
        (lambda d: d.update(a=[], b=[]), "a: was {'n': None}, is []"),
    ],
)
def test_the_first_difference_is_named(change: Any, told: str) -> None:
    after = copy.deepcopy(BEFORE)
    change(after)
    assert first_difference(BEFORE, after, TOLERANCE) == told
