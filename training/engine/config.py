# SPDX-License-Identifier: Apache-2.0
"""Configuration of the entries: YAML files, with ``--set key=value`` on top.

The default file of an entry under ``training/configs/`` is the schema: it lists every key, and the
default values define the types. A user's file may override any part. Nested keys take dots:
``--set mixing.objects=[1,6]``. A default of ``{}`` accepts any keys (another module checks these
options), and ``null`` accepts any value.

``data`` is different, because its keys are names of the user's choice: its value is the name of a
file in ``training/configs/data``, the path of such a file, or the content itself, which may change
another with ``base: NAME or path``. ``--set data.train.NAME.weight=2`` changes a part of it. A
``data.yaml`` in the data folder takes the place of the default.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.io.safe_yaml_json import short_repr

CONFIGS = Path(__file__).parents[1] / "configs"
_DATA = "data"
_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config`` and ``--set`` to an entry's parser."""
    parser.add_argument(
        "--config", type=Path, help="YAML that overrides any part of the entry's default"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override values, nested keys with dots; stronger than --config",
    )


def load_config(
    defaults: Path,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    data_folder: Path | None = None,
) -> dict[str, Any]:
    """Reads the defaults, then a file, then the overrides.

    Args:
        defaults: Default file, which is the schema.
        path: The user's file, or None.
        overrides: ``key=value`` items, with values in YAML.
        data_folder: Folder of the data sets. If it holds a ``data.yaml``, that is the default of
            ``data``.

    Returns:
        A new nested dict with every key of ``defaults``.

    Raises:
        ParameterError: A file is missing or not YAML, a key does not exist, or a value has the
            wrong type; the message names the file and the key.
    """
    changes = {} if path is None else read_yaml(path)
    return merged_config(defaults, changes, path or Path(), overrides, data_folder)


def merged_config(
    defaults: Path,
    changes: Mapping[str, Any],
    source: Path,
    overrides: Sequence[str] = (),
    data_folder: Path | None = None,
) -> dict[str, Any]:
    """Merges the defaults, changes that are already read, and the overrides.

    Args:
        defaults: Default file, which is the schema.
        changes: Content of a file like it.
        source: That file, for messages and relative paths.
        overrides: See :func:`load_config`.
        data_folder: See :func:`load_config`.

    Raises:
        ParameterError: See :func:`load_config`.
    """
    schema = read_yaml(defaults)
    config = copy.deepcopy(schema)
    data = None
    if _DATA in schema:
        own = (data_folder or Path()) / "data.yaml"
        default = schema.pop(_DATA)
        # A folder or a broken link of this name is an error, too.
        found = data_folder is not None and os.path.lexists(own)
        data = read_data(own.name if found else default, own.parent)
    changes = dict(changes)
    if data is not None and _DATA in changes:
        data = read_data(changes.pop(_DATA), source.parent, str(source))
    _merge(config, changes, schema, str(source))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise ParameterError(f"--set {item}: expected KEY=VALUE")
        value = safe_yaml_json.parse_yaml(text, f"--set {key}", ParameterError)
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        if data is not None and _DATA in nested:
            given = nested.pop(_DATA)
            whole = key == _DATA or not isinstance(given, Mapping)
            data = read_data(given, Path(), f"--set {key}") if whole else joined(data, given)
        _merge(config, nested, schema, f"--set {key}")
    if data is not None:
        config[_DATA] = data
    return config


def read_data(
    value: Any, folder: Path, source: str = "data", above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Resolves the value of ``data`` to its whole content, which is not checked.

    Args:
        value: A name in ``training/configs/data``, a path, or a mapping, see the module docstring.
        folder: Folder that a path is relative to.
        source: File or option, for error messages.
        above: Files whose ``base`` this is.

    Raises:
        ParameterError: There is no such file, it is not YAML, the value is neither, or a file is
            its own base.
    """
    if isinstance(value, Mapping):
        content = dict(value)
        base = content.pop("base", None)
        return content if base is None else joined(read_data(base, folder, source, above), content)
    if not isinstance(value, str) or not value:
        raise ParameterError(
            f"{source}: data must be a name, a file or a mapping, got {short_repr(value)}"
        )
    path = Path(value).expanduser()
    if path.suffix or len(path.parts) > 1:
        path = folder / path
    else:
        names = sorted(x.stem for x in (CONFIGS / _DATA).glob("*.yaml"))
        if value not in names:
            raise ParameterError(
                f"{source}: no data {value!r}; expected the path of a YAML file or one of "
                f"{', '.join(names)}"
            )
        path = CONFIGS / _DATA / f"{value}.yaml"
    if path.resolve() in above:
        raise ParameterError(f"{source}: base {value!r} leads back to {path}")
    return read_data(read_yaml(path), path.parent, str(path), (*above, path.resolve()))


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``old`` with that of ``new`` on top, level by level."""
    result = copy.deepcopy(dict(old))
    for key, value in new.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = joined(below, value) if both else value
    return result


def to_dataclass(cls: type[Any], values: Mapping[str, Any], key: str = "") -> Any:
    """Builds a dataclass of options from its part of the configuration.

    Args:
        cls: Dataclass of options; fields whose default is a dataclass are built recursively.
        values: Values by field name; missing ones keep their defaults. Lists become tuples. Each
            must have the type of its default, unless that is None or the field is of type Any.
        key: Dotted key of this part, for messages.

    Raises:
        ParameterError: The options have no such key (the message names the nearest), or a value
            has the wrong type.
    """
    defaults = cls()
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    where = f"{key}." if key else ""
    arguments = {}
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ParameterError(
                f"{where}{name}: {cls.__name__} has no option {name!r}; {hint}"
                f"There are {', '.join(types)}"
            )
        default = getattr(defaults, name)
        if dataclasses.is_dataclass(default):
            value = to_dataclass(type(default), value, f"{where}{name}")
        elif types[name] != "Any":
            expected = list(default) if isinstance(default, tuple) else default
            value = _checked(value, expected, f"{where}{name}", "")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def mapping(content: Any, key: str) -> Mapping[str, Any]:
    """Returns the content of a part that maps names to values; empty if it is None.

    Args:
        content: Its content.
        key: Dotted key of the part, for messages.

    Raises:
        ParameterError: It is no mapping, or a name is no text.
    """
    if not isinstance(content, Mapping | None):
        raise ParameterError(f"{key}: expected a mapping, got {short_repr(content)}")
    if strange := [name for name in content or {} if not isinstance(name, str)]:
        raise ParameterError(f"{key}: {strange[0]!r} must be a text")
    return content or {}


def to_dataclasses(cls: type[Any], content: Any, key: str) -> dict[str, Any]:
    """Builds a dataclass for each name of a mapping, see :func:`to_dataclass`.

    Args:
        cls: Dataclass of options.
        content: Values by name.
        key: Dotted key of the mapping, for messages.

    Raises:
        ParameterError: It is no mapping of texts to mappings, or see :func:`to_dataclass`.
    """
    return {
        name: to_dataclass(cls, mapping(values, f"{key}.{name}"), f"{key}.{name}")
        for name, values in mapping(content, key).items()
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sorted dotted keys whose values differ; empty mappings count as absent."""
    before, after = ({k: v for k, v in flatten(x) if v != {}} for x in (old, new))
    return sorted(
        key
        for key in before.keys() | after.keys()
        if key not in before or key not in after or before[key] != after[key]
    )


def without_folders(value: Any) -> Any:
    """A configuration as a model's file tells it: of an absolute path only the last part.

    A file that is handed on says nothing of the machine that made it.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        ParameterError: The file is missing, not YAML, or not a mapping.
    """
    content = safe_yaml_json.read_yaml(path, ParameterError)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ParameterError(f"{path}: expected a mapping of keys to values")
    return content


def _merge(
    level: dict[str, Any],
    changes: Mapping[str, Any],
    schema: Mapping[str, Any],
    source: str,
    prefix: str = "",
    root: Mapping[str, Any] | None = None,
) -> None:
    """Merges ``changes`` into ``level`` in place.

    Args:
        level: Part of the configuration.
        changes: New values.
        schema: The same part of the defaults.
        source: File or option, for error messages.
        prefix: Dotted path of this part.
        root: All defaults, to suggest keys from.
    """
    root = schema if root is None else root
    for key, value in changes.items():
        dotted = f"{prefix}{key}"
        if key not in schema:
            raise ParameterError(f"{source}: {_unknown(dotted, root)}")
        expected = schema[key]
        if isinstance(expected, Mapping) and isinstance(value, Mapping):
            if expected:
                _merge(level[key], value, expected, source, f"{dotted}.", root)
            else:
                level[key] = {**level[key], **value}
        else:
            level[key] = _checked(value, expected, dotted, source)


def _unknown(dotted: str, root: Mapping[str, Any]) -> str:
    known = [key for key, _ in flatten(root)]
    # Often only the last part is given: "probability" for "mixing.probability".
    tails = [key for key in known if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    near = tails or difflib.get_close_matches(dotted, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
    return f"unknown configuration key {dotted!r}; {hint}"


def _checked(value: Any, old: Any, dotted: str, source: str) -> Any:
    """Returns ``value`` as the type of ``old``, or raises ParameterError."""
    if old is None:
        return value
    if isinstance(old, float) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-5 (without a dot) as a string.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    elif isinstance(value, type(old)) and isinstance(value, bool) == isinstance(old, bool):
        if isinstance(old, list):
            return _checked_list(value, old, dotted, source)
        return value
    kind = _TYPE_NAMES.get(type(old), type(old).__name__)
    raise ParameterError(
        f"{source and f'{source}: '}{dotted} must be {kind} like {old!r}, got {short_repr(value)}"
    )


def _checked_list(value: list[Any], old: list[Any], dotted: str, source: str) -> list[Any]:
    if not old:
        return value
    if len({type(item) for item in old}) == 1 and isinstance(old[0], (int, float)):
        if len(value) != len(old):
            raise ParameterError(
                f"{source and f'{source}: '}{dotted} must have {len(old)} values like {old!r}, "
                f"got {short_repr(value)}"
            )
        return [_checked(item, old[0], dotted, source) for item in value]
    return value


def chosen(choices: Mapping[str, Any], key: str, name: str) -> Any:
    """Returns the choice of this name.

    Args:
        choices: Choices by name.
        key: Configuration key, for the message.
        name: Its value.

    Raises:
        ParameterError: There is no such choice.
    """
    if name not in tuple(choices):  # a list, which a mapping would not compare, is no name
        raise ParameterError(f"{key} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]


def check_share(key: str, value: Any) -> None:
    """Checks that a value is a share in [0, 1], not for instance 90 for 90 percent.

    Args:
        key: Configuration key, for the message.
        value: Value of the key.

    Raises:
        ParameterError: It is not a share.
    """
    if not (_is_number(value) and 0 <= value <= 1):
        raise ParameterError(f"{key}: expected a share from 0 to 1, got {value!r}")


def check_positive(key: str, value: Any) -> None:
    """Checks that a value is positive and finite; arguments as for :func:`check_share`.

    Raises:
        ParameterError: It is not.
    """
    if not (_is_number(value) and value > 0):
        raise ParameterError(f"{key}: expected a number above 0, got {value!r}")


def check_counts(key: str, value: Any) -> None:
    """Checks a (fewest, most) pair of counts; arguments as for :func:`check_share`.

    Raises:
        ParameterError: It is not such a pair.
    """
    if not (_is_pair(value) and all(isinstance(x, int) for x in value) and value[0] >= 0):
        raise ParameterError(
            f"{key}: expected two whole numbers from 0 on, the fewest and the most, got {value!r}"
        )
    _check_order(key, value)


def check_range(key: str, value: Any, positive: bool = False, most: float | None = None) -> None:
    """Checks a (smallest, largest) pair of non-negative numbers.

    Args:
        key: Configuration key, for the message.
        value: Value of the key.
        positive: Refuse zero, because logarithms are taken.
        most: Upper bound.

    Raises:
        ParameterError: It is not such a pair.
    """
    highest = math.inf if most is None else most
    if not (
        _is_pair(value) and all(0 <= x <= highest for x in value) and not (positive and 0 in value)
    ):
        bounds = "above 0" if positive else "from 0 on" if most is None else f"from 0 to {most}"
        raise ParameterError(
            f"{key}: expected two numbers {bounds}, the smallest and the largest, got {value!r}"
        )
    _check_order(key, value)


def _check_order(key: str, pair: Any) -> None:
    if pair[0] > pair[1]:
        raise ParameterError(f"{key}: {pair[0]} is larger than {pair[1]}; the smaller one first")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
