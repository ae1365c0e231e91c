# SPDX-License-Identifier: Apache-2.0
"""Bags: no frame's name leads out of a folder, no file is a program or a bomb."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode

try:
    from compression import zstd as _zstd  # Python 3.14
except ImportError:
    from backports import zstd as _zstd

from anomaly_seg_ros.bags import storage, topics
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.errors import BagError
from tools.fuzzing.bags import (
    SQLITE_ATTACKS,
    image_messages,
    own_bag,
    packed_bag,
    read_all,
    sqlite_attack,
)


def written(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("attack", SQLITE_ATTACKS)
@pytest.mark.timeout(20)
def test_a_database_has_plain_tables_only(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "bag.db3"
    path.write_bytes(sqlite_attack("SELECT 1;"))
    read_all(path)
    path.write_bytes(sqlite_attack(SQLITE_ATTACKS[attack]))
    with pytest.raises(BagError, match=r"bag\.db3: .* (view|virtual table|computed|trigger)"):
        read_all(path)
    # In a folder, whatever the file is called there.
    files = own_bag("sqlite3")
    files = {"metadata.yaml": files["metadata.yaml"].replace(b"bag.db3", b"data.bin")}
    bag = written({**files, "data.bin": path.read_bytes()}, tmp_path / "bag")
    with pytest.raises(BagError, match=r"data\.bin has"):
        read_all(bag)


@pytest.mark.parametrize("name", ["..%2fsecret.db3", "a?mode=rwc&x.db3", "a#b.db3"])
def test_names_that_mean_something_to_sqlite(tmp_path: Path, name: str) -> None:
    (tmp_path / "bag").mkdir()
    # What the names would mean as addresses: other files, which are no databases.
    for other in ("secret.db3", "bag/a", "bag/a.db3"):
        (tmp_path / other).write_bytes(b"nothing")
    (tmp_path / "bag" / name).write_bytes(sqlite_attack("SELECT 1;"))
    read_all(tmp_path / "bag" / name)


@pytest.mark.parametrize("place", ["../outside.mcap", "/etc/hostname", "a/../../outside.mcap"])
def test_storage_files_lie_in_the_bag(tmp_path: Path, place: str) -> None:
    files = own_bag()
    (tmp_path / "outside.mcap").write_bytes(files["bag.mcap"])
    metadata = files["metadata.yaml"].replace(b"bag.mcap", place.encode())
    assert metadata != files["metadata.yaml"]
    bag = written({"metadata.yaml": metadata}, tmp_path / "bag")
    with pytest.raises(BagError, match="missing"):
        read_all(bag)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "..", ".", "", "a\\b", "a\0b", "x" * 300, 3, ["a"]]
)
def test_names_of_frames_are_names_of_files(tmp_path: Path, name: object) -> None:
    with pytest.raises(BagError, match=r"custom_data in metadata\.yaml is unreadable"):
        BagReader(with_custom_data(tmp_path, topics.SAMPLES_KEY, [{"stamp_ns": 1, "name": name}]))


@pytest.mark.parametrize(
    "samples", [3, "x", [3], [{}], [{"stamp_ns": "1"}], [{"stamp_ns": [1]}],
                [{"stamp_ns": 1, "fold": 2}], [{"stamp_ns": 1, "baseline_m": "a"}]],
)  # fmt: skip
def test_other_values_of_samples(tmp_path: Path, samples: object) -> None:
    with pytest.raises(BagError, match="custom_data"):
        BagReader(with_custom_data(tmp_path, topics.SAMPLES_KEY, samples))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "x"])
def test_frame_rates(tmp_path: Path, rate: object) -> None:
    with pytest.raises(BagError, match="custom_data"):
        BagReader(with_custom_data(tmp_path, topics.FRAME_RATE_KEY, rate))


def with_custom_data(folder: Path, key: str, value: object) -> Path:
    """The bag with other custom data; it is readable with its own."""
    import yaml

    files = own_bag()
    content = yaml.safe_load(files["metadata.yaml"])
    information = content["rosbag2_bagfile_information"]
    with BagReader(written(files, folder / "own")) as reader:
        assert len(reader) == 2
    information["custom_data"][key] = json.dumps(value)
    metadata = yaml.safe_dump(content).encode()
    return written({**files, "metadata.yaml": metadata}, folder / "changed")


@pytest.mark.parametrize("custom", ["5", "[1]", "text"])
def test_custom_data_that_is_no_mapping(tmp_path: Path, custom: str) -> None:
    files = own_bag()
    head, _, _ = files["metadata.yaml"].partition(b"  custom_data:")
    metadata = head + f"  custom_data: {custom}\n".encode()
    with pytest.raises(BagError, match="bag"):
        BagReader(written({**files, "metadata.yaml": metadata}, tmp_path / "bag"))


@pytest.mark.parametrize("format_", ["zstd", "lz4"])
@pytest.mark.parametrize("stated", [1000, 2**40])
def test_chunks_do_not_grow(format_: str, stated: int) -> None:
    zeros = bytes(1 << 28)
    data = packed(format_, zeros)
    del zeros
    assert len(data) < 2 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BagError, match="more than"):
            storage.unpacked_chunk(data, format_, stated, 0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format_", ["zstd", "lz4"])
def test_chunks_of_the_stated_size_are_unpacked(format_: str) -> None:
    content = np.random.default_rng(1).bytes(50_000)
    assert storage.unpacked_chunk(packed(format_, content), format_, 50_000, 0) == (content)
    both = packed("zstd", content[:7]) + packed("zstd", content[7:])
    assert storage.unpacked_chunk(both, "zstd", 50_000, 0) == content


def packed(format_: str, data: bytes) -> bytes:
    return lz4.frame.compress(data) if format_ == "lz4" else _zstd.compress(data)


def test_packed_messages_do_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = written(packed_bag(CompressionMode.MESSAGE), tmp_path / "bag")
    read_all(bag)
    size = len(image_messages()[0]) - 1
    monkeypatch.setattr(storage, "LARGEST_CHUNK", size)
    read_all(bag)
    monkeypatch.setattr(storage, "LARGEST_CHUNK", size - 1)
    with pytest.raises(BagError, match=f"more than the {size - 1} bytes"):
        read_all(bag)
