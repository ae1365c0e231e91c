# SPDX-License-Identifier: Apache-2.0
"""Runs the entries of command-line tools in one process, since each would import torch anew.

``python calls.py options|errors`` with a JSON list on stdin; JSON on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any


class _Seen(BaseException):
    """Carries the parser out of a tool; no ``except Exception`` stops it."""


def options(modules: list[str]) -> dict[str, Any]:
    """Module -> what its parser takes; the module is run as ``python -m`` would."""

    def seen(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Seen(parser)

    argparse.ArgumentParser.parse_args = seen
    argparse.ArgumentParser.parse_known_args = seen
    found = {}
    for module in modules:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _Seen as end:
            found[module] = _described(end.args[0])
    return found


def _described(parser: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            found["subcommands"] = {k: _described(v) for k, v in action.choices.items()}
            continue
        name = " ".join(action.option_strings) or str(action.metavar or action.dest)
        found[name] = {
            "choices": None if action.choices is None else [str(x) for x in action.choices],
            "default": _default(action),
            "nargs": action.nargs,
            "required": action.required,
        }
    exclusive = [
        sorted(" ".join(a.option_strings) or a.dest for a in group._group_actions)
        for group in parser._mutually_exclusive_groups
    ]
    if exclusive:
        found["exclude each other"] = sorted(exclusive)
    return found


def _default(action: argparse.Action) -> Any:
    value = action.default
    if "--device" in action.option_strings and value in ("cpu", "cuda"):
        return "cuda, or cpu without one"
    if isinstance(value, (tuple, list)):
        return [x if isinstance(x, (int, float)) else str(x) for x in value]
    plain = value is None or isinstance(value, (bool, int, float, str, dict))
    return value if plain else str(value)


def errors(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The error that each call ends with on stderr, and its exit code."""
    os.environ["XDG_STATE_HOME"] = str(Path.cwd())  # for the logs of crashes
    return [_called(call) for call in calls]


def _called(call: dict[str, Any]) -> dict[str, Any]:
    module, _, function = call["entry"].partition(":")
    said = io.StringIO()
    before = dict(os.environ)
    os.environ.update(call.get("environment", {}))
    sys.argv = [module, *call["arguments"]]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = getattr(importlib.import_module(module), function or "main")()
    except SystemExit as end:  # argparse, and the node with its error as the code
        code = end.code
        if isinstance(code, str):
            said.write(code)
            code = 1
    finally:
        os.environ.clear()
        os.environ.update(before)
    text = said.getvalue().replace("\r", "\n")
    # Behind the usage of argparse and bars of progress; it may have several lines.
    found = re.search(r"^\S+: error: .*", text, re.MULTILINE | re.DOTALL)
    return {"code": code, "said": found.group().rstrip().splitlines() if found else []}


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # not this folder: its names are too general
    report, sys.stdout = sys.stdout, sys.stderr
    work = {"options": options, "errors": errors}[sys.argv[1]]
    json.dump(work(json.load(sys.stdin)), report)
