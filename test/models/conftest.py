# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from tiny_foreign import LateAuxiliary

from anomaly_seg_ros.models.external import ENTRY_POINT_GROUP


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which an installed package offers :class:`LateAuxiliary`."""
    folder = tmp_path / "site" / "foreign-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\nforeign = {LateAuxiliary.__module__}:LateAuxiliary\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    return "foreign"
