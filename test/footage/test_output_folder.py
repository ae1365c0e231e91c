# SPDX-License-Identifier: Apache-2.0
"""The record of what is finished, and folders that are not ours."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import OutputError, ParameterError
from anomaly_seg_ros.footage.output_folder import (
    DEFAULT_KINDS,
    KINDS,
    OBJECTS,
    PROGRESS,
    OutputFolder,
    score_steps,
)
from anomaly_seg_ros.footage.sources import Frame, decoded

SETTINGS = {"input": "/pictures", "objects": {"threshold": 0.5, "limit": 100}}
MAPS = {
    "overlays": np.full((6, 8, 3), (200, 100, 0), np.uint8),
    "masks": np.full((6, 8), 255, np.uint8),
    "scores": np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365,
    "labels": np.arange(48, dtype=np.uint8).reshape(6, 8),
}


def open_folder(path: Path, resumes: bool = True, **changes: Any) -> OutputFolder:
    arguments: dict[str, Any] = {"kinds": ("overlays", "masks"), "settings": SETTINGS, **changes}
    return OutputFolder(path, resumes=resumes, **arguments)


def frame(name: str, size: int = 10) -> Frame:
    return Frame(name, decoded(MAPS["overlays"]), file=(size, 20))


def record(name: str) -> dict[str, Any]:
    return {"name": name, "file": [10, 20], "objects": []}


def fill(path: Path, *names: str, finish: bool = False, **changes: Any) -> OutputFolder:
    folder = open_folder(path, **changes)
    for name in names:
        folder.write(record(name), MAPS)
    if finish:
        folder.finish({"frames": [record(name) for name in names]})
    folder.close()
    return folder


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_every_kind_is_stored_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "o", "front/a", kinds=KINDS, finish=True)
    out = tmp_path / "o"
    for kind in ("masks", "scores", "labels"):
        stored = cv2.imread(str(out / kind / "front" / "a.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == MAPS[kind].dtype
        np.testing.assert_array_equal(stored, MAPS[kind])
    overlay = cv2.imread(str(out / "overlays" / "front" / "a.jpg"))[..., ::-1]
    np.testing.assert_allclose(overlay, MAPS["overlays"].astype(int), atol=4)
    found = json.loads((out / OBJECTS).read_text())
    assert found == {"format": 1, "settings": SETTINGS, "frames": [record("front/a")]}
    assert not (out / PROGRESS).exists()


def test_score_steps_round_and_meet_the_threshold() -> None:
    # Halfway between two steps, float32 neighbours of the threshold, both ends.
    below = np.nextafter(np.float32(0.5), np.float32(0))
    score = np.array([[0, 1, 0.5, below, 1 / 65535, 0.25]], np.float32)
    steps = score_steps(score)
    assert steps.dtype == np.uint16
    assert steps.tolist() == [[0, 65535, 32768, 32767, 1, 16384]]
    dense = np.linspace(0, 1, 400_001, dtype=np.float32)[None]
    np.testing.assert_array_equal(score_steps(dense) >= 32768, dense >= 0.5)
    assert np.abs(score_steps(dense) / 65535 - dense).max() < 1 / 131070 + 1e-7


def test_an_unfinished_run_is_kept_up_to_its_last_whole_line(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a", "b")
    with (tmp_path / "o" / PROGRESS).open("a") as file:
        file.write('{"name": "c", "fi')
    folder = open_folder(tmp_path / "o")
    assert folder.kept(frame("a")) == record("a")
    assert folder.kept(frame("b")) == record("b")
    assert folder.kept(frame("c")) is None
    folder.write(record("d"), MAPS)
    folder.close()
    again = open_folder(tmp_path / "o")
    assert [again.kept(frame(name)) is not None for name in "abcd"] == [True, True, False, True]


def test_changed_pictures_and_missing_files_are_not_kept(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a", "b", finish=True)
    folder = open_folder(tmp_path / "o")
    assert folder.kept(frame("a", size=11)) is None
    assert folder.kept(frame("a")) is not None
    (tmp_path / "o" / "masks" / "a.png").unlink()
    assert folder.kept(frame("a")) is None
    # Another kind of file is wanted now.
    assert open_folder(tmp_path / "o", kinds=("scores",)).kept(frame("b")) is None


def test_complete_only_with_the_same_frames(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a", "b", finish=True)
    folder = open_folder(tmp_path / "o")
    assert folder.complete([frame("a"), frame("b")]) == [record("a"), record("b")]
    assert folder.complete([frame("a")]) is None
    assert folder.complete([frame("a"), frame("b"), frame("c")]) is None
    with_film = open_folder(tmp_path / "o", kinds=("overlays", "masks", "video"))
    assert with_film.complete([frame("a"), frame("b")]) is None


def test_other_settings_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a")
    other = {**SETTINGS, "objects": {"threshold": 0.7, "limit": 100}}
    told = r"begun with other settings \(objects threshold: 0.5 before, 0.7 now\); --fresh"
    with pytest.raises(ParameterError, match=told):
        open_folder(tmp_path / "o", settings=other)


def test_fresh_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a", "b", finish=True)
    (tmp_path / "o" / "masks" / "mine.txt").write_text("mine")
    folder = open_folder(tmp_path / "o", settings={"input": "other"}, fresh=True)
    assert folder.kept(frame("a")) is None
    assert files(tmp_path / "o") == ["masks/mine.txt"]


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / f"{name}.txt").write_text(name)
    for fresh in (False, True):
        with pytest.raises(OutputError, match=r"other files \(a.txt, b.txt, c.txt, ...\); name"):
            open_folder(tmp_path, fresh=fresh)
    assert files(tmp_path) == ["a.txt", "b.txt", "c.txt", "d.txt"]


def test_a_file_in_its_place_and_a_foreign_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        open_folder(tmp_path / "file")
    for content in ("{", "[]", '{"format": 99}'):
        (tmp_path / "o").mkdir(exist_ok=True)
        (tmp_path / "o" / OBJECTS).write_text(content)
        with pytest.raises(OutputError, match=r"objects\.json"):
            open_folder(tmp_path / "o")


def test_what_cannot_go_on_is_not_overwritten(tmp_path: Path) -> None:
    fill(tmp_path / "o", "a", finish=True, resumes=False)
    with pytest.raises(OutputError, match="holds an earlier run; --fresh"):
        open_folder(tmp_path / "o", resumes=False)


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / ".overlay.mp4.77.partial").write_bytes(b"half")
    fill(tmp_path / "o", "a")
    (tmp_path / "o" / "masks" / ".b.77.partial.png").write_bytes(b"half")
    open_folder(tmp_path / "o")
    assert files(tmp_path / "o") == ["masks/a.png", "overlays/a.jpg", PROGRESS]


def test_a_full_disk_is_one_error_and_leaves_no_partial_file(tmp_path: Path) -> None:
    """The kernel refuses what goes beyond a limit, as a full disk does."""
    noise = np.random.default_rng(0).integers(0, 65536, (200, 200)).astype(np.uint16)
    folder = open_folder(tmp_path / "o", kinds=("scores",))
    folder.write(record("a"), MAPS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*scores/b\.png: File too large"):
            folder.write(record("b"), {"scores": noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        folder.close()
    assert files(tmp_path / "o") == [PROGRESS, "scores/a.png"]
    assert open_folder(tmp_path / "o", kinds=("scores",)).kept(frame("a")) is not None


def test_the_default_kinds_are_kinds() -> None:
    assert set(DEFAULT_KINDS) < set(KINDS)
