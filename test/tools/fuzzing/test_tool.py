# SPDX-License-Identifier: Apache-2.0
"""tools/fuzz.py: every target runs under atheris, a planted fault is found and can be repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools import fuzz
from tools.fuzzing.registry import TARGETS

REPOSITORY = Path(__file__).resolve().parents[3]
OUTCOME = {
    "target": "mcap", "area": "bags", "reads": "MCAP files", "executions": 1234, "seconds": 60.4,
    "branches": 380, "failure": None, "input_file": None,
}  # fmt: skip
REPORT = {"python": "3.12.1", "cores": 2, "packages": {"torch": "2.9"}, "targets": [OUTCOME]}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.mark.exhaustive  # test_targets.py asks the same of each
@pytest.mark.timeout(600)
def test_every_target_holds_for_a_moment(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    pytest.importorskip("rclpy")
    done = run("-m", "tools.fuzz", "--runs", 30, "--out", tmp_path, "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "x.json").read_text())["targets"]
    assert [outcome["target"] for outcome in outcomes] == list(TARGETS)
    for outcome in outcomes:
        assert outcome["executions"] >= 30, outcome
        assert outcome["branches"] > 0, outcome
        assert outcome["failure"] is None


PLANTED = """
import sys
from pathlib import Path
import atheris
from tools.fuzzing.fuzzer import fuzz
from tools.fuzzing.target import Target

@atheris.instrument_func
def attempt(data, folder):
    if data[:2] == b"ab":
        {fault}

outcome = fuzz(Target("x", "x", attempt, lambda: [b"a1", b"xb"]), Path(sys.argv[1]),
               ["-runs=200000"])
print(outcome)
print(Path(outcome.input_file).read_bytes()[:2])
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("fault", "words"),
    [("raise KeyError('planted')", "KeyError"), ("import os; os.system('true')", "os.system")],
)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str, words: str) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    done = run("-c", textwrap.dedent(PLANTED).format(fault=fault), tmp_path)
    assert words in done.stdout, done.stdout + done.stderr
    assert "b'ab'" in done.stdout
    assert "executions=0" not in done.stdout


def test_unknown_targets_are_named() -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    done = run("-m", "tools.fuzz", "nonsense")
    assert done.returncode == 2
    assert "no target 'nonsense'; known: decoder, bags" in done.stderr


def test_the_table_has_every_target() -> None:
    text = fuzz.table(REPORT)
    assert text.startswith("| area |")
    assert "| bags | MCAP files | 1,234 | 60 | 380 | none |" in text
    assert "1,234 inputs for 1 targets, 0 failures. CPython 3.12.1 on 2 cores" in text
    broken = fuzz.table({**REPORT, "targets": [{**OUTCOME, "failure": "KeyError"}]})
    assert "| KeyError |" in broken
    assert "1 failures" in broken
