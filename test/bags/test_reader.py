# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import BagReader, BagWriter
from anomaly_seg_ros.bags.evaluation_input import label_classes
from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import BagError
from anomaly_seg_ros.taxonomy import load_taxonomy

IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)


def read(path, **options):
    with BagReader(path, **options) as reader:
        return list(reader.frames())


@pytest.mark.parametrize(
    "store", [Stores.ROS2_FOXY, Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS2_KILTED]
)
@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_bags_of_other_distributions(foreign, store, plugin):
    bag = foreign(store, plugin)
    bag.string("/rosout_text", "hello")
    bag.image("/front/depth/image", 5, np.zeros((4, 6), np.uint16), "16UC1")
    bag.image("/front/image_rect", 7_000_000_001, IMAGE, "bgr8")
    with BagReader(bag.close()) as reader:
        assert (reader.image_topic, reader.other_image_topics) == ("/front/image_rect", [])
        assert reader.topics["/rosout_text"] == ("std_msgs/msg/String", 1)
        assert reader.dataset is None
        assert reader.frame_rate is None
        (frame,) = reader.frames()
    assert np.array_equal(frame.to_rgb(), IMAGE[..., ::-1])
    assert (frame.stamp_ns, frame.frame_id) == (7_000_000_001, "cam")
    assert frame.name is None
    assert frame.camera_info is None


def test_a_bag_without_type_definitions(foreign):
    """Humble's sqlite3 bags: schema 3, no message_definitions table."""
    sqlite3 = pytest.importorskip("sqlite3")
    bag = foreign()
    bag.image("/cam", 1, IMAGE, "rgb8")
    path = bag.close()
    with sqlite3.connect(next(path.glob("*.db3"))) as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3, ros_distro = 'humble'")
    database.close()
    assert np.array_equal(read(path)[0].to_rgb(), IMAGE)


def test_single_storage_files_are_read(tmp_path, samples):
    for storage, suffix in (("mcap", "mcap"), ("sqlite3", "db3")):
        with BagWriter(tmp_path / storage, storage=storage) as writer:
            writer.write(samples[0])
        (frame,) = read(tmp_path / storage / f"{storage}.{suffix}")
        assert np.array_equal(frame.to_rgb(), samples[0].image)
        assert frame.name is None  # names are in the folder's metadata.yaml


@pytest.mark.parametrize("mode", [x for x in CompressionMode if x != CompressionMode.NONE])
def test_compressed_storage(tmp_path, samples, mode):
    with BagWriter(tmp_path / "plain") as bag_writer:
        bag_writer.write(samples[0])
    store = get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(tmp_path / "packed", version=8, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(tmp_path / "plain") as source, writer:
        targets = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=store)
            for c in source.connections
        }
        for connection, stamp, data in source.messages():
            writer.write(targets[connection.id], stamp, data)
    (frame,) = read(tmp_path / "packed")
    assert np.array_equal(frame.to_rgb(), samples[0].image)
    assert np.array_equal(frame.labels, samples[0].labels)


def test_ground_truth_may_come_before_or_after(foreign):
    bag = foreign()
    bag.image("/ground_truth/anomaly_mask", 1, MASK, "mono8")  # before its image
    bag.image("/cam", 1, IMAGE, "rgb8")
    bag.image("/cam", 2, IMAGE, "rgb8")
    bag.image("/cam", 3, IMAGE, "rgb8")
    bag.image("/ground_truth/anomaly_mask", 3, MASK + 0, "mono8")
    bag.image("/ground_truth/anomaly_mask", 2, MASK[:, ::-1], "mono8")  # two images later
    bag.image("/ground_truth/anomaly_mask", 99, MASK, "mono8")  # of no image
    bag.image("/cam", 4, IMAGE, "rgb8")  # without a mask
    with BagReader(bag.close()) as reader:
        assert reader.matches["anomaly_mask"].unmatched == 1
        frames = list(reader.frames())
    assert [frame.stamp_ns for frame in frames] == [1, 2, 3, 4]
    assert np.array_equal(frames[0].anomaly_mask, MASK)
    assert np.array_equal(frames[1].anomaly_mask, MASK[:, ::-1])
    assert np.array_equal(frames[2].anomaly_mask, MASK)
    assert frames[3].anomaly_mask is None


def test_images_that_share_a_stamp_are_all_yielded(foreign):
    bag = foreign()
    bag.camera_info("/camera_info", 0, 1.0)
    for value in range(3):  # a driver that never sets its stamp
        bag.image("/cam", 0, np.full((4, 6), value, np.uint8), "mono8")
    assert [frame.to_rgb()[0, 0, 0] for frame in read(bag.close())] == [0, 1, 2]


def test_camera_info_of_the_same_camera_and_the_newest_before(foreign):
    bag = foreign()
    bag.camera_info("/right/camera_info", 1, 9.0)
    bag.camera_info("/left/camera_info", 1, 1.0)
    bag.image("/left/image_raw", 2, IMAGE, "rgb8")
    bag.camera_info("/left/camera_info", 3, 2.0)
    bag.image("/left/image_raw", 4, IMAGE, "rgb8")
    bag.image("/left/image_raw", 5, IMAGE, "rgb8")
    bag.camera_info("/left/camera_info", 5, 3.0)
    assert [frame.camera_info.k[0] for frame in read(bag.close())] == [1.0, 2.0, 3.0]


def test_camera_infos_do_not_displace_early_ground_truth(foreign):
    bag = foreign()
    bag.image("/ground_truth/anomaly_mask", 50, MASK, "mono8")
    for stamp in range(10):
        bag.camera_info("/cam/camera_info", stamp, 1.0)
    bag.image("/cam/image", 50, IMAGE, "rgb8")
    (frame,) = read(bag.close())
    assert np.array_equal(frame.anomaly_mask, MASK)


def test_image_topic_can_be_chosen(foreign):
    bag = foreign()
    png = cv2.imencode(".png", IMAGE[..., ::-1])[1].tobytes()
    bag.image("/a/image", 1, IMAGE, "rgb8")
    bag.compressed("/b/image/compressed", 2, png, "rgb8; png compressed bgr8")
    path = bag.close()
    assert read(path)[0].stamp_ns == 1
    (frame,) = read(path, image_topic="/b/image/compressed")
    assert np.array_equal(frame.to_rgb(), IMAGE)
    with pytest.raises(BagError, match=r"no images on topic /c \(image topics: /a/image, /b/ima"):
        BagReader(path, image_topic="/c")


def test_own_ground_truth_topics(foreign):
    bag = foreign()
    bag.image("/cam", 1, IMAGE, "rgb8")
    bag.image("/depth_truth/unknown", 1, MASK, "8UC1")
    (frame,) = read(bag.close(), anomaly_mask_topic="/depth_truth/unknown")
    assert np.array_equal(frame.anomaly_mask, MASK)


@pytest.mark.parametrize(
    ("noted", "taxonomy"),
    [
        ({"taxonomy": "streethazards"}, "streethazards"),
        ({"dataset": "folder: mine", "taxonomy": "streethazards"}, "streethazards"),
        ({"dataset": "street_hazards: mine"}, "streethazards"),  # as earlier versions wrote
        ({"dataset": "cityscapes"}, "cityscapes"),
        ({"dataset": "mine"}, None),
        ({}, None),
    ],
)
def test_whose_classes_the_labels_are(tmp_path, samples, noted, taxonomy):
    with BagWriter(tmp_path / "bag", **noted) as writer:
        writer.write(samples[0])
    with BagReader(tmp_path / "bag") as reader:
        found = label_classes(reader)
    assert found == (taxonomy and load_taxonomy(taxonomy).classes)


def test_an_unknown_taxonomy_is_no_matter_without_labels(tmp_path, samples):
    with BagWriter(tmp_path / "bag", taxonomy="nobody") as writer:
        writer.write(replace(samples[0], labels=None))
    with BagReader(tmp_path / "bag") as reader:
        assert label_classes(reader) is None


def test_a_bag_lists_the_classes_of_ones_own_taxonomy(tmp_path, samples):
    with BagWriter(tmp_path / "bag", taxonomy="yard.yaml", classes=("gravel", "föhre")) as writer:
        writer.write(samples[0])
    with BagReader(tmp_path / "bag") as reader:
        assert label_classes(reader) == reader.classes == ("gravel", "föhre")


@pytest.mark.parametrize("value", ["{}", "3", "[3]", "[[]]", "[", "null"])
def test_damaged_classes(tmp_path, samples, value):
    with BagWriter(tmp_path / "bag") as writer:
        writer.write(samples[0])
        writer._writer.set_custom_data("anomaly_seg_ros.classes", value)
    with pytest.raises(BagError, match="custom_data in metadata"):
        BagReader(tmp_path / "bag")


@pytest.mark.parametrize("name", ["nobody", "../detector", "/etc/passwd", "x" * 300, "ü" * 150])
def test_an_unknown_taxonomy_is_an_error(tmp_path, samples, name):
    with BagWriter(tmp_path / "bag", taxonomy=name) as writer:
        writer.write(samples[0])
    with BagReader(tmp_path / "bag") as reader, pytest.raises(BagError, match="bag: unknown taxo"):
        label_classes(reader)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(BagError, match="nowhere: no such bag"):
        BagReader(tmp_path / "nowhere")
    with pytest.raises(BagError, match=r"not a bag \(no metadata\.yaml"):
        BagReader(tmp_path)
    for name, message in (("a.bag", "a ROS 1 bag"), ("a.txt", "not a bag"), ("a.mcap", "empty")):
        (tmp_path / name).touch()
        with pytest.raises(BagError, match=message):
            BagReader(tmp_path / name)


def test_bags_without_messages_or_images(foreign, tmp_path):
    with Writer(tmp_path / "empty", version=8):
        pass
    with pytest.raises(BagError, match="empty: the bag is empty"):
        BagReader(tmp_path / "empty")
    bag = foreign()
    bag.string("/chatter", "hi")
    bag.image("/ground_truth/labels", 1, MASK, "mono8")
    with pytest.raises(BagError, match=r"no image topic \(topics: /chatter, /ground_truth/labels"):
        BagReader(bag.close())


def test_messages_that_break_their_topics_promise(foreign):
    bag = foreign()
    bag.image("/cam", 1, IMAGE, "rgb8")
    bag.image("/ground_truth/labels", 1, IMAGE, "rgb8")
    with pytest.raises(BagError, match=r"topic /ground_truth/labels: encoding 'rgb8', expected"):
        read(bag.close())


def test_mask_with_sixteen_bits(foreign):
    bag = foreign()
    bag.image("/cam", 1, IMAGE, "rgb8")
    bag.image("/ground_truth/labels", 1, MASK.astype(np.uint16), "mono16")
    with pytest.raises(BagError, match=r"labels: encoding 'mono16', expected 8 bits"):
        read(bag.close())


def test_frames_that_hold_no_picture(foreign):
    bag = foreign()
    bag.image("/cam", 1, IMAGE, "rgb8", step=3)
    bag.image("/cam", 2, IMAGE, "vendor12")
    first, second = read(bag.close())
    with pytest.raises(BagError, match=r"frame 1: .*step is 3 bytes, a row needs 18"):
        first.to_rgb()
    with pytest.raises(BagError, match="frame 2: encoding 'vendor12' is not one of"):
        second.to_rgb()


def failure(path) -> str | None:
    """What a reader that decodes everything says about a bag; None if nothing."""
    try:
        for frame in read(path):
            frame.to_rgb()
    except BagError as error:
        return str(error)
    return None


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("what", ["truncated", "overwritten", "metadata"])
def test_damaged_bags_give_one_clear_line(tmp_path, samples, storage, what):
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        for sample in samples[:2]:
            writer.write(sample)
    file = tmp_path / "bag" / "metadata.yaml"
    if what != "metadata":
        file = next(x for x in (tmp_path / "bag").iterdir() if x != file)
    whole = file.read_bytes()
    generator = random.Random(11)
    messages = []
    for _ in range(25):
        damaged = bytearray(whole)
        place = generator.randrange(len(whole))
        if what == "overwritten":
            damaged[place : place + 300] = generator.randbytes(len(damaged[place : place + 300]))
        else:
            del damaged[place:]
        file.write_bytes(damaged)
        messages.append(failure(tmp_path / "bag"))
    failures = [x for x in messages if x]
    assert not [x for x in failures if "\n" in x or "bag" not in x]
    # Noise in the pixels themselves cannot be noticed; a truncated file always is.
    assert len(failures) >= (1 if what == "overwritten" else 24)


def test_memory_stays_small(tmp_path):
    image = np.zeros((512, 1024, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(24):
            writer.write(LoadedSample(str(i), image, anomaly_mask=image[..., 0]))
    with BagReader(tmp_path / "bag") as reader:
        tracemalloc.start()
        count = sum(1 for _ in reader.frames())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 24
    # All frames are 32 times an image. rosbags itself holds two chunks in several copies.
    assert peak < 12 * image.nbytes
