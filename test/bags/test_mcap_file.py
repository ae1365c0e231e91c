# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import numpy as np
import pytest
from mcap_bytes import MAGIC, McapBytes, channel, record, schema
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import BagReader, BagWriter
from anomaly_seg_ros.errors import BagError

STORE = get_typestore(Stores.ROS2_JAZZY)
SECOND = 10**9
IMAGE_SCHEMA = schema(1, "sensor_msgs/msg/Image")
CAMERA = IMAGE_SCHEMA + channel(1, 1, "/cam")


def image(stamp_ns: int, value: int) -> bytes:
    """A serialised 4x6 Image of one grey value."""
    types = STORE.types
    header = types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, SECOND)), frame_id="cam"
    )
    message = types["sensor_msgs/msg/Image"](
        header=header, height=4, width=6, encoding="mono8", is_bigendian=0, step=6,
        data=np.full(24, value, np.uint8),
    )  # fmt: skip
    return bytes(STORE.serialize_cdr(message, "sensor_msgs/msg/Image"))


def images(values, number: int = 1) -> list[tuple[int, int, bytes]]:
    return [(number, 100 + value, image(value * SECOND, value)) for value in values]


def values(path) -> list[int]:
    with BagReader(path) as reader:
        assert len(reader) == reader.topics[reader.image_topic][1]
        return [int(frame.to_rgb()[0, 0, 0]) for frame in reader.frames()]


@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("summary", [b"", IMAGE_SCHEMA, CAMERA])
def test_a_summary_and_indexes_are_no_condition(tmp_path, compression, has_index, summary):
    mcap = McapBytes(compression=compression, has_index=has_index)
    mcap.chunk(CAMERA, images([1, 2]))
    mcap.chunk(b"", [])
    mcap.chunk(b"", images([3]))
    (tmp_path / "a.mcap").write_bytes(mcap.finished(summary))
    assert values(tmp_path / "a.mcap") == [1, 2, 3]


def test_messages_outside_of_chunks_and_out_of_order(tmp_path):
    mcap = McapBytes(chunked=False)
    mcap.chunk(CAMERA, images([2]))
    mcap.chunk(b"", images([1, 3]))
    mcap.chunked = True
    mcap.chunk(b"", images([5]))
    mcap.chunk(b"", images([4]))
    (tmp_path / "a.mcap").write_bytes(mcap.finished())
    assert values(tmp_path / "a.mcap") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("profile", ["", "ros2", "protobuf", "my profile"])
@pytest.mark.parametrize(
    ("encoding", "kind", "data"),
    [
        ("json", "jsonschema", b'{"type": "object"}'),
        ("protobuf", "protobuf", b"\x0a\xff\xfe\x80 binary"),
        ("flatbuffer", "flatbuffer", b"\xff\xff"),
        ("", "", b""),
        ("cdr", "something new", b"\xff"),
    ],
)
def test_channels_of_other_encodings_are_left_alone(tmp_path, profile, encoding, kind, data):
    mcap = McapBytes(profile=profile, compression="zstd")
    other = schema(2, "acme.Status", kind, data) + channel(2, 2, "/acme/image", encoding)
    mcap.chunk(other + CAMERA, [(2, 99, b"\xff{}"), *images([1, 2]), (2, 103, b"")])
    (tmp_path / "a.mcap").write_bytes(mcap.finished())
    assert values(tmp_path / "a.mcap") == [1, 2]


def test_files_without_ros_2_say_what_they_hold(tmp_path):
    for encoding, words in (("ros1", "ROS 1 is unsupported"), ("json", "not serialised by ROS 2")):
        mcap = McapBytes(profile="ros1")
        mcap.chunk(IMAGE_SCHEMA + channel(1, 1, "/cam", encoding), images([1]))
        (tmp_path / "a.mcap").write_bytes(mcap.finished())
        with pytest.raises(BagError, match=rf"a\.mcap: no ROS 2 message; {words}.*/cam"):
            BagReader(tmp_path / "a.mcap")


@pytest.mark.parametrize("keep", [9, 60, 400, -1, -9, -40])
def test_a_file_that_was_not_finished_is_cut_short(tmp_path, keep):
    mcap = McapBytes()
    mcap.chunk(CAMERA, images([1, 2, 3]))
    (tmp_path / "a.mcap").write_bytes(mcap.finished(CAMERA)[:keep])
    with pytest.raises(BagError, match=r"a\.mcap: cut short.*`mcap recover .*a\.mcap -o NEW"):
        BagReader(tmp_path / "a.mcap")


def test_what_is_unsupported_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.mcap"
    mcap = McapBytes(compression="brotli", has_index=False)
    mcap.chunk(CAMERA, images([1]))
    for data, words in (
        (MAGIC.replace(b"0\r", b"1\r") + mcap.finished()[8:], "unsupported MCAP version '1'"),
        (mcap.finished(), "unsupported compression 'brotli'"),
    ):
        path.write_bytes(data)
        with pytest.raises(BagError, match=rf"a\.mcap: {words}") as caught:
            values(path)
        assert "damaged" not in str(caught.value)


def test_damage_is_called_damage(tmp_path):
    path = tmp_path / "a.mcap"
    mcap = McapBytes()
    mcap.chunk(CAMERA, images([1]))
    good = mcap.finished()
    pixels = bytes([1]) * 24
    undefined = McapBytes()
    undefined.chunk(b"", images([1]))
    for data, words in (
        (good.replace(pixels, bytes(24)), "checksum of a chunk"),
        (good.replace(b"0\r\n", b"0\n\n", 1), "line end"),
        (undefined.finished(), "channel 1, which is undefined"),
    ):
        assert data != good
        path.write_bytes(data)
        with pytest.raises(BagError, match=rf"a\.mcap: damaged.*{words}"):
            values(path)


def test_an_index_that_leaves_out_a_channel(tmp_path):
    """Nothing but the number of messages in the summary tells."""
    mcap = McapBytes(unindexed=(2,))
    definitions = CAMERA + channel(2, 1, "/ground_truth/anomaly_mask")
    for value in (1, 2):
        mcap.chunk(definitions, [*images([value]), *images([value], number=2)])
    statistics = record(0x0B, struct.pack("<QHIIIIQQI", 4, 1, 2, 0, 0, 2, 0, 0, 0))
    (tmp_path / "a.mcap").write_bytes(mcap.finished(statistics))
    with BagReader(tmp_path / "a.mcap") as reader:
        assert reader.topics["/ground_truth/anomaly_mask"][1] == 2
        assert reader.matches["anomaly_mask"].matched == 2


def test_an_index_that_lists_what_is_not_there(tmp_path):
    mcap = McapBytes()
    mcap.chunk(CAMERA, images([1]))
    mcap.body += record(7, struct.pack("<HI", 1, 16) + bytes(16))
    (tmp_path / "a.mcap").write_bytes(mcap.finished(CAMERA))
    with pytest.raises(BagError, match=r"damaged bag \(1 messages, its index states 2\)"):
        values(tmp_path / "a.mcap")


def test_unknown_records_are_skipped(tmp_path):
    mcap = McapBytes()
    mcap.body += record(0x80, b"private") + record(9, b"attachment")
    mcap.chunk(CAMERA + record(0x90, b"private"), images([7]))
    (tmp_path / "a.mcap").write_bytes(mcap.finished(record(0x7F, b"")))
    assert values(tmp_path / "a.mcap") == [7]


def test_messages_far_from_their_frame_are_found_in_bounded_memory(tmp_path, samples):
    """All masks lie behind all frames, in chunks that are no longer unpacked."""
    mask = schema(1, "sensor_msgs/msg/Image") + channel(2, 1, "/ground_truth/anomaly_mask")
    mcap = McapBytes(compression="zstd")
    for value in range(40):
        mcap.chunk(CAMERA, images([value]))
    for value in range(40):
        mcap.chunk(mask, [(2, 1000 + value, image(value * SECOND, value % 2))])
    (tmp_path / "a.mcap").write_bytes(mcap.finished())
    with BagReader(tmp_path / "a.mcap") as reader:
        found = [(f.to_rgb()[0, 0, 0], f.anomaly_mask[0, 0]) for f in reader.frames()]
    assert found == [(value, value % 2) for value in range(40)]


def test_written_bags_are_the_same_without_their_summary(tmp_path, samples):
    with BagWriter(tmp_path / "bag") as writer:
        for sample in samples:
            writer.write(sample)
    data = (tmp_path / "bag" / "bag.mcap").read_bytes()
    footer = data.rindex(record(2, bytes(20))[:9])
    start = int.from_bytes(data[footer + 9 : footer + 17], "little")
    plain = data[:start] + record(2, bytes(20)) + MAGIC
    (tmp_path / "bag" / "bag.mcap").write_bytes(plain)
    with BagReader(tmp_path / "bag") as reader:
        frames = list(reader.frames())
    for frame, sample in zip(frames, samples, strict=True):
        assert np.array_equal(frame.to_rgb(), sample.image)
        assert np.array_equal(frame.labels, sample.labels)
        assert frame.camera_info.k[0] == 500.0
