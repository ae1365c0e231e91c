# SPDX-License-Identifier: Apache-2.0
"""What a bag is, and what is wrong with one, said apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from foreign_bag import ForeignBag
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores

from anomaly_seg_ros.bags import BagReader
from anomaly_seg_ros.bags.recording import is_bag_folder
from anomaly_seg_ros.errors import BagError

try:
    from compression import zstd
except ImportError:
    from backports import zstd

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "mcap"
MCAP, SQLITE3 = StoragePlugin.MCAP, StoragePlugin.SQLITE3
IMAGE = np.full((40, 60), 9, np.uint8)


def recorded(path: Path, plugin: StoragePlugin = MCAP, first: int = 1, count: int = 3) -> Path:
    bag = ForeignBag(path, Stores.ROS2_HUMBLE, plugin)
    for stamp in range(first, first + count):
        bag.image("/cam", stamp, IMAGE, "mono8")
    return bag.close()


def storage_of(bag: Path) -> Path:
    return next(path for path in bag.iterdir() if path.name != "metadata.yaml")


def change(bag: Path, **changes: object) -> None:
    """Puts other values into metadata.yaml."""
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"].update(changes)
    path.write_text(yaml.safe_dump(content))


def stamps(path: Path) -> list[int]:
    with BagReader(path) as reader:
        return [frame.stamp_ns for frame in reader.frames()]


def fault(path: Path) -> str:
    with pytest.raises(BagError) as caught:
        stamps(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["a b", "a#b", "a?b=c&d", "100%", "a%23b", "ü 東京", "a'b\"c", "-x"]
)
@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
def test_paths_are_names_whatever_is_in_them(tmp_path, name, plugin):
    bag = recorded(tmp_path / "bag", plugin)
    path = storage_of(bag).rename(bag / f"{name}{storage_of(bag).suffix}")
    change(bag, relative_file_paths=[path.name])
    bag = bag.rename(tmp_path / name)
    assert stamps(bag) == stamps(storage_of(bag)) == [1, 2, 3]


@pytest.mark.parametrize(("plugin", "ending"), [(MCAP, ".db3"), (SQLITE3, ".mcap"), (MCAP, "")])
@pytest.mark.parametrize("identifier", ["mcap", "sqlite3", "my_own"])
def test_the_content_decides_what_a_file_is(tmp_path, plugin, ending, identifier):
    bag = recorded(tmp_path / "bag", plugin)
    path = storage_of(bag).rename(bag / f"data{ending}")
    change(bag, relative_file_paths=[path.name], storage_identifier=identifier)
    assert stamps(bag) == stamps(path) == [1, 2, 3]


def test_parts_of_one_bag_in_different_formats(tmp_path):
    bag = recorded(tmp_path / "bag")
    other = storage_of(recorded(tmp_path / "other", SQLITE3, first=4))
    other.rename(bag / "second")
    change(bag, relative_file_paths=["bag/bag.mcap", "second"])
    assert stamps(bag) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
@pytest.mark.parametrize("is_folder", [True, False])
def test_files_that_are_compressed_as_a_whole(tmp_path, plugin, is_folder):
    bag = recorded(tmp_path / "bag", plugin)
    path = storage_of(bag)
    data = path.read_bytes()
    path.unlink()
    packed = path.with_name(f"{path.name}.zstd")
    packed.write_bytes(zstd.compress(data[:1000]) + zstd.compress(data[1000:]))
    change(
        bag,
        relative_file_paths=[packed.name],
        compression_format="zstd",
        compression_mode="FILE",
    )
    assert stamps(bag if is_folder else packed) == [1, 2, 3]
    packed.write_bytes(packed.read_bytes()[:-7])
    assert f"{packed}: cut short" in fault(bag)
    packed.write_bytes(zstd.compress(b"nothing"))
    assert str(packed) in fault(bag)
    packed.write_bytes(zstd.compress(zstd.compress(data)))
    assert str(packed) in fault(bag)


def test_what_is_not_there(tmp_path):
    assert fault(tmp_path / "no") == f"{tmp_path / 'no'}: no such bag"
    (tmp_path / "link").symlink_to(tmp_path / "no")
    assert fault(tmp_path / "link") == f"{tmp_path / 'link'}: a link to nothing"
    bag = recorded(tmp_path / "bag")
    change(bag, relative_file_paths=["bag.mcap", "bag_1.mcap"])
    assert fault(bag) == f"{bag}/metadata.yaml: names bag_1.mcap, which is missing in this folder"


@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
def test_a_folder_without_metadata_is_a_bag_cut_short(tmp_path, plugin):
    bag = recorded(tmp_path / "bag", plugin)
    (bag / "metadata.yaml").unlink()
    said = fault(bag)
    assert f"{bag}: cut short: no metadata.yaml beside {storage_of(bag).name}" in said
    assert f"`ros2 bag reindex {bag}`" in said
    assert stamps(storage_of(bag)) == [1, 2, 3]
    assert is_bag_folder(bag)
    (bag / "images").mkdir()
    assert not is_bag_folder(bag)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 12}, "unsupported: version 12 of the bag's format"),
        ({"compression_format": "lz4", "compression_mode": "FILE"}, "unsupported compression 'lz"),
        ({"version": "x"}, "damaged bag (version 'x'"),
        ({"relative_file_paths": 3}, "damaged bag (its relative_file_paths"),
    ],
)
def test_metadata_of_the_future_and_damaged_metadata(tmp_path, changes, words):
    bag = recorded(tmp_path / "bag")
    change(bag, **changes)
    said = fault(bag)
    assert said.startswith(f"{bag}/metadata.yaml: ")
    assert words in said
    assert ("reindex" in said) == ("damaged" in words)


def test_unknown_storage_is_unsupported(tmp_path):
    bag = recorded(tmp_path / "bag")
    storage_of(bag).write_bytes(b"of another plugin " * 9)
    assert "damaged bag (it starts neither like MCAP nor" in fault(bag)
    change(bag, storage_identifier="my_plugin")
    assert f"{storage_of(bag)}: unsupported storage 'my_plugin'" in fault(bag)


def test_ros_1_is_named_whatever_the_file_is_called(tmp_path):
    for name in ("a.bag", "a.mcap", "a"):
        (tmp_path / name).write_bytes(b"#ROSBAG V2.0\n" + bytes(99))
        assert "a ROS 1 bag; convert it with rosbags-convert" in fault(tmp_path / name)


def test_files_that_the_metadata_does_not_name_are_told(tmp_path):
    bag = recorded(tmp_path / "bag")
    extra = storage_of(recorded(tmp_path / "other", first=4))
    extra.rename(bag / "bag_1.mcap")
    with BagReader(bag) as reader:
        assert len(reader) == 3
        (note,) = reader.notes
    assert "metadata.yaml does not name bag_1.mcap" in note


def test_counts_are_those_of_the_files(tmp_path):
    bag = recorded(tmp_path / "bag")
    text = (bag / "metadata.yaml").read_text().replace("message_count: 3", "message_count: 1")
    (bag / "metadata.yaml").write_text(text)
    with BagReader(bag) as reader:
        assert len(reader) == 3
        assert reader.topics == {"/cam": ("sensor_msgs/msg/Image", 3)}


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
@pytest.mark.parametrize(
    "name", ["empty_profile.mcap", "json_channel_beside.mcap", "protobuf_channel_beside.mcap"]
)
def test_given_bags(name):
    with BagReader(CASES / name) as reader:
        assert [frame.to_rgb().shape for frame in reader.frames()] == [(64, 96, 3)] * 4
