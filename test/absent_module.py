# SPDX-License-Identifier: Apache-2.0
"""A Python in which one module cannot be imported, as if its package were not installed."""

from __future__ import annotations

from pathlib import Path

_SITE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def hide(module: str, folder: Path) -> None:
    """Hides a module from interpreters that have the folder on PYTHONPATH."""
    (folder / "sitecustomize.py").write_text(_SITE.format(module=module))
