"""YAML and JSON files that anyone may have written: plain values, or one clear error.

Nothing is built or run (``yaml.safe_load``). The parsers let more escape than their own
exceptions: PyYAML a ValueError for 2001-13-01, an AttributeError for a malformed ``!!timestamp``,
both of them a RecursionError for a thousand brackets.
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

# No configuration or annotation that this package reads comes near it; PyYAML needs minutes.
LARGEST_YAML = 8 << 20
# Brackets in brackets. PyYAML's time grows with their square before it gives up.
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
# Of a file, on usual file systems; endings are added to it.
_LONGEST_NAME = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def short_repr(value: Any) -> str:
    """A value of a file as it may stand in an error message: like ``repr``, but short.

    A few aliases make a YAML value of some bytes whose text fills the memory.
    """
    return _SHORT.repr(value)


def parse_yaml(text: str, source: str, error: type[AnomalySegError]) -> Any:
    """The value of a YAML text.

    Args:
        text: The text.
        source: File or option, begins the message.
        error: What to raise.
    """
    if len(text) > LARGEST_YAML:
        raise error(f"{source}: {len(text)} characters of YAML, more than {LARGEST_YAML}")
    if _opened_brackets(text) > _DEEPEST:
        raise error(f"{source}: not valid YAML (nested too deeply)")
    return _parsed(yaml.safe_load, text, source, "YAML", error)


def parse_json(text: str | bytes, source: str, error: type[AnomalySegError]) -> Any:
    """The value of a JSON text; see :func:`parse_yaml`."""
    return _parsed(json.loads, text, source, "JSON", error)


def read_yaml(path: Path, error: type[AnomalySegError]) -> Any:
    """The value in a YAML file.

    Raises:
        error: Missing, not UTF-8 or not YAML; names the file.
    """
    return parse_yaml(_read_text(path, error), str(path), error)


def read_json(path: Path, error: type[AnomalySegError]) -> Any:
    """The value in a JSON file; see :func:`read_yaml`."""
    return parse_json(_read_text(path, error), str(path), error)


def inside(folder: Path, name: Any) -> Path:
    """The file of a folder that another file names.

    Args:
        folder: Where it must lie.
        name: As it stands in the file.

    Raises:
        ValueError: No plain file name: it has a folder, is "..", or something else altogether.
    """
    if not is_file_name(name):
        raise ValueError(f"{short_repr(name)} is no name of a file in {folder}")
    return folder / name


def is_file_name(name: Any) -> bool:
    """Whether a value is a text that names a file in a folder, and nothing outside of it."""
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
    """Most brackets that are open at once, those in quotes and comments included."""
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
        # Without its cause: a traceback of a thousand frames helps nobody.
        raise error(f"{source}: not valid {kind} (nested too deeply)") from None
    except _MALFORMED as fault:
        raise error(f"{source}: not valid {kind} ({_reason(fault)})") from fault


def _reason(fault: BaseException) -> str:
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        place = fault.problem_mark  # its own words take four lines
        return f"{fault.problem}, line {place.line + 1}, column {place.column + 1}"
    return first_line(fault)
