# SPDX-License-Identifier: Apache-2.0
"""Partial states in files: nothing is lost, order leaves no trace, damage is noticed."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.metrics import states
from anomaly_seg_ros.metrics.count_pages import INDEX
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.states import load_state, save_state


def frames(count: int = 6, size: int = 200) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Frames with ties, frames without anomalies, one without any label."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = rng.choice([0, 1, 255], (10, size // 10), p=[0.6, 0.3, 0.1])
        if number % 3 == 1:
            mask[mask == 1] = 0
        if number == 5:
            mask[:] = 255
        score = rng.normal(size=mask.shape) + mask % 2
        if number % 2:
            score = np.round(score)
        made.append((score.astype(np.float32), mask.astype(np.uint8), f"frame {number}"))
    return made


def collect(some: list[tuple[np.ndarray, np.ndarray, str]], **options: object) -> PixelScores:
    pixels = PixelScores(**options)
    for score, mask, name in some:
        pixels.update(score, mask, name)
    return pixels


def saved(pixels: PixelScores, path: Path) -> bytes:
    save_state(pixels, path)
    return path.read_bytes()


@pytest.mark.parametrize("limit", [1 << 28, 3000])
def test_a_loaded_state_goes_on_as_if_never_saved(tmp_path: Path, limit: int) -> None:
    whole = collect(frames())
    save_state(collect(frames()[:3], memory_limit=limit), tmp_path / "new folder" / "a.state")
    pixels = load_state(tmp_path / "new folder" / "a.state", memory_limit=limit)
    for frame in frames()[3:]:
        pixels.update(*frame)
    assert pixels.compute() == whole.compute()
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["a.state"]


@given(st.permutations(range(6)), st.lists(st.integers(0, 6), max_size=3), st.data())
@settings(max_examples=20, deadline=None)
def test_any_split_order_and_tree_of_merges_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("states")
    given_frames = frames()
    borders = [0, *sorted(cuts), 6]
    parts = []
    for start, end in itertools.pairwise(borders):
        limit = data.draw(st.sampled_from([3000, 1 << 28]))
        some = [given_frames[place] for place in order[start:end]]
        save_state(collect(some, memory_limit=limit), folder / f"{len(parts)}.state")
        parts.append(load_state(folder / f"{len(parts)}.state", memory_limit=limit))
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(first)
    whole = collect(given_frames)
    assert parts[0].compute() == whole.compute()
    assert saved(parts[0], folder / "parts") == saved(whole, folder / "whole")


def test_without_frames_and_without_pixels(tmp_path: Path) -> None:
    pixels = collect(frames(), per_image=False)
    save_state(pixels, tmp_path / "pooled")
    assert load_state(tmp_path / "pooled").compute() == pixels.compute()
    assert load_state(tmp_path / "pooled").compute().per_image is None
    save_state(PixelScores(), tmp_path / "empty")
    assert load_state(tmp_path / "empty").compute().positives == 0


@given(st.integers(0, 10**9), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_no_flipped_byte_changes_a_figure(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    pixels = collect(frames(3))
    content = bytearray(saved(pixels, folder / "state"))
    content[place % len(content)] ^= flip
    (folder / "state").write_bytes(content)
    try:
        loaded = load_state(folder / "state")
    except OutputError as error:
        assert str(folder / "state") in str(error)  # noqa: PT017 - either outcome is right
    else:
        # Such as a byte of a member's date.
        assert loaded.compute() == pixels.compute()


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    content = saved(collect(frames()), tmp_path / "state")
    (tmp_path / "state").write_bytes(content[: int(share * len(content))])
    with pytest.raises(OutputError, match="cannot read"):
        load_state(tmp_path / "state")


def rewritten(path: Path, name: str, content: bytes) -> None:
    """Replaces one member, with a checksum that fits."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == name else old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, this program reads 1"),
        ({"format": "something else"}, "not that of a state"),
        ({"positives": 7}, "not 7"),
        ({"frames": [{"name": "x"}]}, "frame are damaged"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    save_state(collect(frames()), tmp_path / "state")
    with zipfile.ZipFile(tmp_path / "state") as archive:
        header = json.loads(archive.read("header.json"))
    rewritten(tmp_path / "state", "header.json", json.dumps(header | change).encode())
    with pytest.raises(OutputError, match=message):
        load_state(tmp_path / "state")


def test_scores_that_cannot_be_are_refused(tmp_path: Path) -> None:
    save_state(collect(frames()), tmp_path / "state")
    index = io.BytesIO()
    np.save(index, np.array([(0xFFFF, 0, 1, 1)], INDEX))  # keys of NaN
    rewritten(tmp_path / "state", "positives.index.npy", index.getvalue())
    with pytest.raises(OutputError, match="index of its positives"):
        load_state(tmp_path / "state")


def test_a_missing_file_and_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no_such"):
        load_state(tmp_path / "no_such")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        save_state(PixelScores(), tmp_path / "file" / "state")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "write_pages", full)
    with pytest.raises(OutputError, match="No space left"):
        save_state(collect(frames()), tmp_path / "state")
    assert not list(tmp_path.iterdir())
