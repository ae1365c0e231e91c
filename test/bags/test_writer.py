# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import BagReader, BagWriter
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import ImageError, OutputError, ParameterError

REPOSITORY = Path(__file__).resolve().parents[2]


def write(path, samples, **options):
    with BagWriter(path, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def interrupted(samples, error):
    """Yields the samples, then raises."""
    yield from samples
    raise error


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_written_is_read_back(tmp_path, samples, storage):
    path = write(tmp_path / "bag", samples, storage=storage, dataset="street", frame_rate=4)
    with BagReader(path) as reader:
        assert len(reader) == 5
        assert reader.dataset == "street"
        assert reader.frame_rate == 4
        frames = list(reader.frames())
        assert all(found.matched == found.messages for found in reader.matches.values())
    for frame, sample in zip(frames, samples, strict=True):
        assert frame.name == sample.name
        assert frame.frame_id == "camera_optical_frame"
        assert np.array_equal(frame.to_rgb(), sample.image)
        assert np.array_equal(frame.anomaly_mask, sample.anomaly_mask)
        assert np.array_equal(frame.labels, sample.labels)
        assert np.array_equal(frame.disparity, sample.disparity)
        assert frame.camera_info.k.tolist() == [500, 0, 16.5, 0, 501, 12.5, 0, 0, 1]
        assert frame.camera_info.p.tolist() == [500, 0, 16.5, 0, 0, 501, 12.5, 0, 0, 0, 1, 0]
        assert (frame.camera_info.height, frame.camera_info.width) == (24, 32)
        assert frame.camera_info.k[0] > 0
        assert frame.baseline_m == 0.25
        assert frame.fold == sample.fold
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps[0] > 10**18
    assert np.diff(stamps).tolist() == [250_000_000] * 4


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_decode_with_the_jazzy_definitions(tmp_path, samples, storage):
    path = write(tmp_path / "bag", samples[:1], storage=storage)
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(path) as reader:
        messages = {
            c.topic: (t, store.deserialize_cdr(d, c.msgtype)) for c, t, d in reader.messages()
        }
    assert list(messages) == [
        "/camera/image_raw",
        "/camera/camera_info",
        "/ground_truth/anomaly_mask",
        "/ground_truth/labels",
        "/camera/disparity",
    ]
    headers = {(m.header.stamp.sec, m.header.stamp.nanosec) for _, m in messages.values()}
    assert headers == {divmod(messages["/camera/image_raw"][0], 10**9)}
    image = messages["/camera/image_raw"][1]
    assert (image.encoding, image.step, image.is_bigendian) == ("rgb8", 96, 0)
    assert messages["/ground_truth/labels"][1].encoding == "mono8"
    disparity = messages["/camera/disparity"][1]
    assert (disparity.encoding, disparity.step) == ("mono16", 64)
    assert np.array_equal(disparity.data.view("<u2").reshape(24, 32), samples[0].disparity)


def test_metadata_is_what_ros2_bag_play_needs(tmp_path, samples):
    path = write(tmp_path / "bag", samples)
    info = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert 5 <= info["version"] <= 8
    assert info["relative_file_paths"] == ["bag.mcap"]
    assert info["message_count"] == 25
    assert info["duration"]["nanoseconds"] == 400_000_000
    for topic in info["topics_with_message_count"]:
        assert topic["message_count"] == 5
        assert topic["topic_metadata"]["type_description_hash"].startswith("RIHS01_")
        (qos,) = yaml.safe_load(topic["topic_metadata"]["offered_qos_profiles"])
        # rmw's numbers: keep last, reliable, volatile
        assert (qos["history"], qos["reliability"], qos["durability"]) == (1, 1, 2)
        assert qos["depth"] == 10
    recorded = json.loads(info["custom_data"]["anomaly_seg_ros.samples"])
    assert [x["name"] for x in recorded] == [x.name for x in samples]


def test_type_hashes_are_those_of_the_ros_distribution(tmp_path, samples):
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(":"))]
    shares = [Path(prefix) / "share" / "sensor_msgs" / "msg" for prefix in prefixes]
    share = next((x for x in shares if (x / "Image.json").is_file()), None)
    if share is None:
        pytest.skip("no ROS 2 Iron or later here: no sensor_msgs/msg/Image.json")
    path = write(tmp_path / "bag", samples[:1])
    with Reader(path) as reader:
        found = {c.msgtype.rsplit("/", 1)[1]: c.digest for c in reader.connections}
    assert set(found) == {"Image", "CameraInfo"}
    for name, digest in found.items():
        hashes = json.loads((share / f"{name}.json").read_text())["type_hashes"]
        assert {x["type_name"]: x["hash_string"] for x in hashes}[
            f"sensor_msgs/msg/{name}"
        ] == digest


@pytest.mark.parametrize("compressed", [False, True])
def test_ros_itself_reads_the_messages(tmp_path, samples, compressed):
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2")
    messages = pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2")
    path = write(tmp_path / "bag", samples[:1], compressed=compressed)
    with Reader(path) as reader:
        read = {
            c.topic: serialization.deserialize_message(
                d, getattr(messages, c.msgtype.rsplit("/", 1)[1])
            )
            for c, _, d in reader.messages()
        }
    assert {x.header.frame_id for x in read.values()} == {"camera_optical_frame"}
    assert bytes(read["/ground_truth/labels"].data) == samples[0].labels.tobytes()
    assert read["/camera/camera_info"].k[0] == 500
    if compressed:
        assert read["/camera/image_raw/compressed"].format == "jpeg"
    else:
        assert bytes(read["/camera/image_raw"].data) == samples[0].image.tobytes()


def test_compressed_frames(tmp_path, samples):
    smooth = replace(samples[0], image=np.full((24, 32, 3), (200, 40, 90), np.uint8))
    path = write(tmp_path / "bag", [smooth], compressed=True)
    with BagReader(path) as reader:
        assert reader.image_topic == "/camera/image_raw/compressed"
        (frame,) = reader.frames()
    assert frame.image.format == "jpeg"
    assert bytes(frame.image.data[:2]) == b"\xff\xd8"
    assert np.abs(frame.to_rgb().astype(int) - smooth.image).max() <= 4
    assert np.array_equal(frame.anomaly_mask, smooth.anomaly_mask)
    assert frame.camera_info.k[0] > 0


def test_image_alone_has_an_uncalibrated_camera(tmp_path, samples):
    plain = replace(samples[0], anomaly_mask=None, labels=None, disparity=None, camera=None)
    path = write(tmp_path / "bag", [plain])
    with BagReader(path) as reader:
        assert set(reader.topics) == {"/camera/image_raw", "/camera/camera_info"}
        assert not reader.slots
        (frame,) = reader.frames()
    assert not frame.camera_info.k.any()
    assert not frame.camera_info.p.any()
    assert frame.anomaly_mask is None
    assert frame.baseline_m is None


def test_strided_images_are_written_whole(tmp_path, samples):
    flipped = replace(samples[0], image=samples[0].image[:, ::-1])
    with BagReader(write(tmp_path / "bag", [flipped])) as reader:
        assert np.array_equal(next(reader.frames()).to_rgb(), flipped.image)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_remains_of_an_interrupted_bag(tmp_path, samples, error):
    with pytest.raises(error):
        write(tmp_path / "bag", interrupted(samples[:1], error))
    assert not list(tmp_path.iterdir())


def test_a_bag_without_frames_is_refused(tmp_path):
    with pytest.raises(OutputError, match="bag: no frame to write"):
        write(tmp_path / "bag", [])
    assert not list(tmp_path.iterdir())


def test_mask_of_another_size(tmp_path, samples):
    odd = replace(samples[0], labels=samples[0].labels[:5])
    with pytest.raises(ImageError, match=r"street_0: /ground_truth/labels is \(5, 32\)"):
        write(tmp_path / "bag", [odd])
    assert not list(tmp_path.iterdir())


def test_existing_targets(tmp_path, samples):
    path = write(tmp_path / "bag", samples)
    with pytest.raises(OutputError, match="bag: exists already"):
        BagWriter(path)
    # A replacement that fails leaves the old bag as it was.
    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted(samples[:1], KeyboardInterrupt), overwrite=True)
    with BagReader(path) as reader:
        assert len(reader) == 5
    write(path, samples[:2], overwrite=True)
    with BagReader(path) as reader:
        assert len(reader) == 2
    assert [x.name for x in tmp_path.iterdir()] == ["bag"]


def test_what_is_no_bag_is_never_overwritten(tmp_path, samples):
    folder = tmp_path / "thesis"
    folder.mkdir()
    write(folder, samples[:1], overwrite=True)  # an empty folder may be filled
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").touch()
    for target in (other, other / "holiday.jpg"):
        with pytest.raises(OutputError, match="is not a bag, so it is not overwritten"):
            BagWriter(target, overwrite=True)
    assert (other / "holiday.jpg").exists()


def test_unwritable_target(tmp_path, samples):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "file" / "bag", samples)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_full_disk(tmp_path, storage):
    # A file size limit fails as a full disk does: in the middle of a write.
    script = textwrap.dedent(
        f"""
        import resource, numpy as np
        from anomaly_seg_ros.bags import BagWriter
        from anomaly_seg_ros.datasets import LoadedSample
        from anomaly_seg_ros.errors import OutputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        image = np.zeros((500, 800, 3), np.uint8)
        try:
            with BagWriter({str(tmp_path / "bag")!r}, storage={storage!r}) as writer:
                for i in range(10):
                    writer.write(LoadedSample(str(i), image))
        except OutputError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert "bag: cannot write (" in done.stdout
    assert not list(tmp_path.iterdir())


def test_no_space_left_is_explained(tmp_path, samples, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rosbags.rosbag2.Writer.write", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        write(tmp_path / "bag", samples)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"storage": "bag"}, {"frame_rate": 0}, {"frame_rate": float("nan")},
                {"jpeg_quality": 101}],
)  # fmt: skip
def test_options_are_checked(tmp_path, options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        BagWriter(tmp_path / "bag", **options)


def test_sqlite_path_that_would_be_misread(tmp_path, samples):
    with pytest.raises(OutputError, match="use mcap"):
        BagWriter(tmp_path / "a#b", storage="sqlite3")
    with BagReader(write(tmp_path / "a#b", samples[:1])) as reader:
        assert len(reader) == 1


@pytest.mark.data
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_real_frames_survive_byte_for_byte(tmp_path, shared_data, storage):
    dataset = open_dataset("fishyscapes", shared_data / "anomaly" / "fishyscapes_lostandfound")
    chosen = [dataset[i] for i in (0, 8, 16)]
    with BagReader(write(tmp_path / "bag", chosen, storage=storage)) as reader:
        for frame, sample in zip(reader.frames(), chosen, strict=True):
            loaded = sample.load()
            assert np.array_equal(frame.to_rgb(), loaded.image)
            assert np.array_equal(frame.anomaly_mask, loaded.anomaly_mask)
