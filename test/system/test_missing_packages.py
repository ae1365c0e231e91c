# SPDX-License-Identifier: Apache-2.0
"""Which package an error is about, as far as errors and installed metadata tell."""

from __future__ import annotations

from importlib import metadata

import pytest

from anomaly_seg_ros.system import crash_log, missing_packages
from anomaly_seg_ros.system.missing_packages import (
    absent_requirements,
    broken_installation,
    missing_package,
)

NO_LIBRARY = "libcublas.so.13: cannot open shared object file: No such file or directory"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """An environment: distribution -> what it requires."""
    table: dict[str, list[str]] = {"torch": [], "openvino": []}

    def requires(name: str) -> list[str]:
        if name not in table:
            raise metadata.PackageNotFoundError(name)
        return table[name]

    monkeypatch.setattr(metadata, "requires", requires)
    monkeypatch.setattr(metadata, "distribution", requires)
    return table


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "pip install opencv-python-h"),
        (ModuleNotFoundError("No module named 'packaging'"), "pip install packaging"),
        (ImportError(NO_LIBRARY), "libcublas.so.13"),
        (OSError(NO_LIBRARY), "libcublas.so.13"),
        (chained(RuntimeError("x"), ModuleNotFoundError("", name="lark")), "pip install lark"),
        (ModuleNotFoundError("", name="google.protobuf"), "pip install protobuf"),
        (ModuleNotFoundError("", name="torch.nowhere"), "'torch' is installed, but lacks"),
    ],
)
def test_failed_imports_name_their_package(error: Exception, words: str) -> None:
    assert words in missing_package(error)
    assert "\n" not in missing_package(error)


@pytest.mark.parametrize("error", [KeyError("a"), OSError("disk full"), ImportError("no name x")])
def test_other_errors_are_about_no_package(error: Exception) -> None:
    assert missing_package(error) is None


def test_an_optional_import_that_failed_before_is_not_the_reason() -> None:
    error = ValueError("of the way without it")
    error.__context__ = ModuleNotFoundError("", name="ujson")
    assert missing_package(error) is None
    error.__cause__ = error.__context__
    assert "pip install ujson" in missing_package(error)


@pytest.mark.parametrize("parser", ["packaging", "none"])
def test_absent_requirements_are_found_at_any_depth(
    parser: str, installed: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parser == "none":  # packaging may be the very package that is missing
        monkeypatch.setattr(missing_packages, "_parser", lambda: None)
    installed["torch"] = ["sympy>=1.13", "filelock", 'pytest; extra == "test"']
    installed["sympy"] = ["mpmath<1.4,>=1.1"]
    installed["filelock"] = ["nothing-here; python_version < '3'"]
    assert absent_requirements() == {"mpmath": "sympy"}


def test_a_missing_library_is_traced_to_its_package(installed: dict) -> None:
    installed["torch"] = ["nvidia-cublas==13.1; sys_platform == 'linux'"]
    words = missing_package(ImportError(NO_LIBRARY))
    assert words == (
        f"ImportError: {NO_LIBRARY}; not installed: 'nvidia-cublas', which torch needs: "
        "`pip install nvidia-cublas`"
    )
    # What ends the process is told with it, whatever it is.
    assert "'nvidia-cublas', which torch needs" in broken_installation(RuntimeError("no rmw"))
    assert "'nvidia-cublas', which torch needs" in crash_log.in_words(RuntimeError("no rmw"))


def test_a_missing_library_of_a_message_is_traced_through_rosidls_error(installed: dict) -> None:
    class UnsupportedTypeSupport(Exception):  # noqa: N818 - rosidl's name
        pass

    def load() -> None:
        try:
            raise ImportError("libx.so: cannot open shared object file: No such file")
        except ImportError:
            raise UnsupportedTypeSupport("Could not import 'rosidl_typesupport_c'")  # noqa: B904

    with pytest.raises(UnsupportedTypeSupport) as raised:
        load()
    assert "libx.so: cannot open shared object file" in missing_package(raised.value)


def test_a_whole_installation_leaves_errors_as_they_are(installed: dict) -> None:
    assert broken_installation(RuntimeError("no rmw")) is None
    assert crash_log.in_words(RuntimeError("no rmw")) == "RuntimeError: no rmw"
