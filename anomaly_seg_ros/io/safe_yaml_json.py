# SPDX-License-Identifier: Apache-2.0
"""Reads YAML and JSON files of unknown origin: plain values, or one clear error.

No object is built and no code run (``yaml.safe_load``). The parsers raise more than their own
exceptions: PyYAML a ValueError for 2001-13-01 and an AttributeError for a malformed
``!!timestamp``, both parsers a RecursionError for a thousand brackets.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from anomaly_seg_ros.errors import AnomalySegError, first_line

# Far above any configuration or annotation; PyYAML would need minutes for more.
LARGEST_YAML = 8 << 20
# Nesting of brackets. PyYAML's time grows with its square before it gives up.
_DEEPEST = 100
_BRACKET = re.compile(r"[\[\]{}]")
# What the parsers raise on damaged text, found by fuzzing.
_MALFORMED = (
    yaml.YAMLError,
    ValueError,  # json.JSONDecodeError and UnicodeDecodeError are some
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
# Length of a file name on usual file systems, less room for suffixes.
_LONGEST_NAME = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def short_repr(value: Any) -> str:
    """Like ``repr``, but short: a value of a file for an error message.

    With a few aliases, a YAML value of some bytes can have a ``repr`` that fills the memory.
    """
    return _SHORT.repr(value)


def parse_yaml(text: str, source: str, error: type[AnomalySegError]) -> Any:
    """Parses a YAML text.

    Args:
        text: The text.
        source: File or option that the message begins with.
        error: Type of the exception to raise.
    """
    if len(text) > LARGEST_YAML:
        raise error(f"{source}: {len(text)} characters of YAML, more than {LARGEST_YAML}")
    if _opened_brackets(text) > _DEEPEST:
        raise error(f"{source}: not valid YAML (nested too deeply)")
    return _parsed(yaml.safe_load, text, source, "YAML", error)


def parse_json(text: str | bytes, source: str, error: type[AnomalySegError]) -> Any:
    """Parses a JSON text; see :func:`parse_yaml`."""
    return _parsed(json.loads, text, source, "JSON", error)


def read_yaml(path: Path, error: type[AnomalySegError]) -> Any:
    """Reads a YAML file.

    Raises:
        error: The file is missing, not UTF-8 or not YAML; names the file.
    """
    return parse_yaml(_read_text(path, error), str(path), error)


def read_json(path: Path, error: type[AnomalySegError]) -> Any:
    """Reads a JSON file; see :func:`read_yaml`."""
    return parse_json(_read_text(path, error), str(path), error)


def inside(folder: Path, name: Any) -> Path:
    """Returns the file in a folder that another file refers to by name.

    Args:
        folder: Folder that the file must be in.
        name: The name, as read from the other file.

    Raises:
        ValueError: The name is no plain file name: it has a folder, is "..", or no text at all.
    """
    if not is_file_name(name):
        raise ValueError(f"{short_repr(name)} is no name of a file in {folder}")
    return folder / name


def is_file_name(name: Any) -> bool:
    """True if a value is a text that names a file in a folder, and nothing outside it."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= _LONGEST_NAME
        and name not in (".", "..")
        and not any(character in "/\\\0" for character in name)
    )


def _read_text(path: Path, error: type[AnomalySegError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as fault:
        raise error(f"{path}: {fault.strerror}") from fault
    except (ValueError, MemoryError) as fault:  # not UTF-8, or a name with a zero byte
        raise error(f"{path}: not readable text ({fault})") from fault


def _opened_brackets(text: str) -> int:
    """Deepest nesting of brackets, including those in quotes and comments."""
    opened = most = 0
    for bracket in _BRACKET.finditer(text):
        opened = opened + 1 if bracket[0] in "[{" else max(0, opened - 1)
        most = max(most, opened)
    return most


def _parsed(
    load: Callable[[Any], Any], text: str | bytes, source: str, kind: str, error: type[Exception]
) -> Any:
    try:
        return load(text)
    except RecursionError:
        # Drops the cause, a traceback of a thousand frames.
        raise error(f"{source}: not valid {kind} (nested too deeply)") from None
    except _MALFORMED as fault:
        raise error(f"{source}: not valid {kind} ({_reason(fault)})") from fault


def _reason(fault: BaseException) -> str:
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        place = fault.problem_mark  # its own words take four lines
        return f"{fault.problem}, line {place.line + 1}, column {place.column + 1}"
    return first_line(fault)
