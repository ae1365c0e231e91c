# SPDX-License-Identifier: Apache-2.0
"""One configuration mechanism: what may be overridden, and what each mistake says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from anomaly_seg_ros.errors import ParameterError
from training.engine.config import (
    CONFIGS,
    changed_keys,
    load_config,
    to_dataclass,
    without_folders,
)

DEFAULTS = """
steps: 100
rate: 1.0e-3
name: x
flag: false
size: [256, 512]
scores: [energy]
anything: null
mixing:
  probability: 0.9
  placement: {rows: 3}
loss:
  name: top_k
  options: {}
"""


@pytest.fixture
def defaults(tmp_path: Path) -> Path:
    path = tmp_path / "defaults.yaml"
    path.write_text(DEFAULTS)
    return path


def test_file_then_overrides(defaults: Path, tmp_path: Path) -> None:
    user = tmp_path / "user.yaml"
    user.write_text("steps: 5\nmixing: {placement: {rows: 7}}\nloss: {options: {k: 3}}\n")
    overrides = ["steps=6", "mixing.probability=1", "loss.options.s=2.5", "anything=[1, a]"]
    config = load_config(defaults, user, overrides)
    assert config["steps"] == 6
    assert config["mixing"] == {"probability": 1.0, "placement": {"rows": 7}}
    assert isinstance(config["mixing"]["probability"], float)
    assert config["loss"] == {"name": "top_k", "options": {"k": 3, "s": 2.5}}
    assert config["anything"] == [1, "a"]
    assert config["rate"] == 1e-3
    # The defaults are read anew each time.
    assert load_config(defaults)["steps"] == 100


@pytest.mark.parametrize("text", ["rate=1e-5", "rate=1.0e-5", "rate=0.00001"])
def test_numbers_as_people_write_them(defaults: Path, text: str) -> None:
    """YAML 1.1 reads 1e-5 as a string."""
    assert load_config(defaults, overrides=[text])["rate"] == 1e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepps=3", r"--set stepps: unknown configuration key 'stepps'; did you mean steps"),
        ("mixing.propability=1", r"'mixing.propability'; did you mean mixing.probability"),
        ("probability=1", r"'probability'; did you mean mixing.probability\?"),
        ("qqqqqqqq=1", "unknown configuration key 'qqqqqqqq'; known: anything, flag, loss.name"),
        ("steps=1.5", "steps must be a whole number like 100, got 1.5"),
        ("steps=true", "steps must be a whole number like 100, got True"),
        ("flag=1", "flag must be true or false like False, got 1"),
        ("rate=.nan", "rate must be a number like 0.001, got nan"),
        ("rate=.inf", "rate must be a number like 0.001, got inf"),
        ("rate=fast", "rate must be a number like 0.001, got 'fast'"),
        ("name=3", "name must be a text like 'x', got 3"),
        ("size=[1]", r"size must have 2 values like \[256, 512\], got \[1\]"),
        ("size=[1, b]", "size must be a whole number like 256, got 'b'"),
        ("size=4", r"size must be a list like \[256, 512\], got 4"),
        ("mixing=3", "mixing must be a mapping"),
        ("mixing.placement.rows.x=3", "mixing.placement.rows must be a whole number"),
        ("steps", "--set steps: expected KEY=VALUE"),
        ("size=[1, ", "--set size: not valid YAML"),
    ],
)
def test_each_mistake_is_named(defaults: Path, override: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        load_config(defaults, overrides=[override])


def test_lists_of_names_may_have_any_length(defaults: Path) -> None:
    assert load_config(defaults, overrides=["scores=[a, b]"])["scores"] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("stepps: 1", "user.yaml: unknown"), ("a: [", "user.yaml: not valid YAML"), ("- 1", "a map")],
)
def test_a_bad_file_is_named(defaults: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "user.yaml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        load_config(defaults, tmp_path / "user.yaml")


@pytest.mark.parametrize("text", ["base: data.yaml", "base: other.yaml"])
def test_a_base_that_leads_back(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: data.yaml")
    with pytest.raises(ParameterError, match=r"base 'data\.yaml' leads back to .*data\.yaml"):
        load_config(CONFIGS / "closed_set.yaml", data_folder=tmp_path)


@pytest.mark.parametrize("damage", [Path.mkdir, lambda path: path.symlink_to("gone")])
def test_a_data_file_that_cannot_be_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "data.yaml")
    with pytest.raises(ParameterError, match=r"data\.yaml: "):
        load_config(CONFIGS / "closed_set.yaml", data_folder=tmp_path)


def test_a_missing_file_is_named(defaults: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.yaml"):
        load_config(defaults, tmp_path / "none.yaml")


def test_changed_keys_are_dotted() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    assert changed_keys(old, {"a": 1, "b": {"c": 5}, "e": 1}) == ["b.c", "b.d", "e"]
    assert changed_keys(old, old) == []


def test_what_a_file_tells_of_a_configuration_has_no_folders() -> None:
    given = {"model": "/home/me/runs/logits/final.safetensors", "size": (1, 2), "part": "all/none"}
    told = without_folders({"data": {"drives": {"root": "/data/drives"}}, "sets": [given]})
    assert told["data"] == {"drives": {"root": "drives"}}
    assert told["sets"] == [{"model": "final.safetensors", "size": [1, 2], "part": "all/none"}]


def test_options_from_nested_values() -> None:
    @dataclass(frozen=True)
    class Inner:
        sizes: tuple[int, int] = (1, 2)

    @dataclass(frozen=True)
    class Outer:
        share: float = 0.5
        inner: Inner = field(default_factory=Inner)

    assert to_dataclass(Outer, {"inner": {"sizes": [3, 4]}}) == Outer(inner=Inner((3, 4)))
    with pytest.raises(ParameterError, match="Inner has no option 'size'"):
        to_dataclass(Outer, {"inner": {"size": 3}})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_the_shipped_files_are_valid(path: Path) -> None:
    """Each is a set of defaults, or changes to those of fine_tune.yaml."""
    if path.name == "deeplab_lite0_open_set.yaml":
        assert load_config(CONFIGS / "fine_tune.yaml", path)["name"]
    else:
        assert load_config(path) == load_config(path, path)
