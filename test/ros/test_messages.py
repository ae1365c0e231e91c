# SPDX-License-Identifier: Apache-2.0
"""Image messages <-> arrays, and every fault a message can have."""

from __future__ import annotations

import array
import struct
import zlib

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from detector_harness import stamped, street
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from anomaly_seg_ros.io import pixel_formats
from anomaly_seg_ros.io.pixel_formats import FrameError
from anomaly_seg_ros.ros.messages import (
    image_message,
    jpeg_message,
    png_message,
    rgb_from_message,
    set_data,
    show_data,
)

RGB = street(24, 40)  # not square: swapped sizes must not pass
GREY = RGB[..., 1]


def message_of(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Image:
    """A message whose rows are followed by ``padding`` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    message = Image(
        height=height, width=width, encoding=encoding, step=padded.shape[1], is_bigendian=big
    )
    message.data = array.array("B", padded.tobytes())
    return message


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], 9, np.uint8)])


def as_16_bit(pixels: np.ndarray, order: str) -> np.ndarray:
    return (pixels.astype(np.uint16) << 8 | 55).astype(f"{order}u2")


GREY_RGB = np.dstack([GREY] * 3)
EXACT = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[..., ::-1], RGB),
    "8UC3": (RGB[..., ::-1], RGB),
    "rgba8": (with_alpha(RGB), RGB),
    "bgra8": (with_alpha(RGB[..., ::-1]), RGB),
    "8UC4": (with_alpha(RGB[..., ::-1]), RGB),
    "mono8": (GREY, GREY_RGB),
    "8UC1": (GREY, GREY_RGB),
    "rgb16": (as_16_bit(RGB, "<"), RGB),
    "bgr16": (as_16_bit(RGB[..., ::-1], "<"), RGB),
    "rgba16": (as_16_bit(with_alpha(RGB), "<"), RGB),
    "mono16": (as_16_bit(GREY, "<"), GREY_RGB),
    "16UC1": (as_16_bit(GREY, "<"), GREY_RGB),
    "32FC1": ((GREY / np.float32(255)).astype("<f4"), GREY_RGB),
    "32FC3": ((RGB[..., ::-1] / np.float32(255)).astype("<f4"), RGB),
}


@pytest.mark.parametrize("padding", [0, 8, 5])
@pytest.mark.parametrize("encoding", EXACT)
def test_encodings_without_loss_give_the_picture(encoding, padding):
    pixels, expected = EXACT[encoding]
    np.testing.assert_array_equal(
        rgb_from_message(message_of(pixels, encoding, padding)), expected
    )


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb16", as_16_bit(RGB, ">"), RGB),
        ("mono16", as_16_bit(GREY, ">"), GREY_RGB),
        ("32FC1", (GREY / np.float32(255)).astype(">f4"), GREY_RGB),
    ],
)
def test_big_endian(encoding, pixels, expected):
    message = message_of(pixels, encoding, padding=6, big=True)
    np.testing.assert_array_equal(rgb_from_message(message), expected)


def test_rgb8_is_not_copied():
    message = message_of(RGB, "rgb8", padding=16)
    view = rgb_from_message(message)
    assert np.shares_memory(view, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_keep_their_colours(pattern, bits):
    # Flat colour: demosaicing must give it back exactly, in the right channels.
    colour = dict(zip("rgb", (200, 120, 30), strict=True))
    mosaic = np.zeros((24, 40), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour[letter]
    pixels = mosaic if bits == 8 else as_16_bit(mosaic, "<")
    rgb = rgb_from_message(message_of(pixels, f"bayer_{pattern}{bits}", padding=4))
    np.testing.assert_array_equal(rgb[4:-4, 4:-4], np.full((16, 32, 3), (200, 120, 30), np.uint8))


def flat_yuv(y: int, u: int, v: int, encoding: str) -> Image:
    """40 x 24 pixels of one colour."""
    if encoding in ("nv12", "nv21"):
        chroma = (u, v) if encoding == "nv12" else (v, u)
        planes = np.vstack([np.full((24, 40), y, np.uint8), np.tile(np.uint8(chroma), (12, 20))])
        message = message_of(planes, encoding, padding=4)
        message.height = 24
        return message
    order = {"yuv422": (u, y, v, y), "uyvy": (u, y, v, y)}.get(encoding, (y, u, y, v))
    return message_of(np.tile(np.uint8(order), (24, 20)).reshape(24, 40, 2), encoding, padding=4)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
def test_yuv_follows_bt601(encoding):
    y, u, v = 130, 90, 170
    rgb = rgb_from_message(flat_yuv(y, u, v, encoding))
    # ITU-R BT.601, studio range.
    luma, blue, red = 1.164 * (y - 16), u - 128, v - 128
    expected = (luma + 1.596 * red, luma - 0.813 * red - 0.391 * blue, luma + 2.018 * blue)
    assert rgb.shape == (24, 40, 3)
    assert np.abs(rgb - np.array(expected)).max() <= 1.5


SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 3)


def compressed(suffix: str, image_format: str, picture: np.ndarray = RGB) -> CompressedImage:
    _, data = cv2.imencode(suffix, picture[..., ::-1])
    return CompressedImage(format=image_format, data=data.tobytes())


def test_compressed_images():
    np.testing.assert_array_equal(rgb_from_message(compressed(".png", "png")), RGB)
    message = compressed(".jpg", "jpeg", SMOOTH)
    assert np.abs(rgb_from_message(message).astype(int) - SMOOTH).mean() < 2
    message.data = array.array("B", bytes(message.data) + bytes(64))  # padded, as cameras do
    assert rgb_from_message(message).shape == RGB.shape


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
def test_older_opencv_decodes_to_the_same_pixels(suffix, monkeypatch):
    message = compressed(suffix, suffix[1:])
    newest = rgb_from_message(message)
    monkeypatch.setattr(pixel_formats, "_READ_RGB", None)
    np.testing.assert_array_equal(rgb_from_message(message), newest)


def broken(**fields: object) -> Image:
    message = message_of(RGB, "rgb8")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def giant_png() -> CompressedImage:
    """A PNG of a few bytes whose header claims 2^32 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    end = struct.pack(">I", 0) + b"IEND\xaeB`\x82"
    return CompressedImage(format="png", data=b"\x89PNG\r\n\x1a\n" + chunks + end)


FLOATS = GREY / np.float32(255)
NAN, INFINITY = np.float32("nan"), np.float32("inf")
FAULTS = {
    "unknown encoding": (broken(encoding="rgb9"), "rgb9"),
    "empty encoding": (broken(encoding=""), "''"),
    "short data": (broken(data=array.array("B", bytes(24 * 120 - 1))), "2879"),
    "no data": (broken(data=array.array("B")), "0 bytes"),
    "short step": (broken(step=119), "119"),
    "step of zero": (broken(step=0), "needs 120"),
    "zero height": (broken(height=0), "40 x 0"),
    "zero width": (broken(width=0), "0 x 24"),
    "huge size": (broken(height=2**32 - 1), "4294967295"),
    "NaN": (message_of(np.where(FLOATS > 0.5, NAN, FLOATS), "32FC1"), "not finite"),
    "infinity": (message_of(np.where(FLOATS > 0.5, INFINITY, FLOATS), "32FC1"), "not finite"),
    "float range": (message_of(FLOATS * 255, "32FC1"), r"\[0, 1\]"),
    "odd YUV": (message_of(np.zeros((24, 39, 2), np.uint8), "uyvy"), "39"),
    "short YUV": (message_of(np.zeros((24, 40), np.uint8), "nv12"), "1440"),
    "giant PNG": (giant_png(), "png"),
    "empty JPEG": (CompressedImage(format="jpeg"), "0 bytes"),
    "not a JPEG": (CompressedImage(format="jpeg", data=b"hello" * 20), "cannot be decoded"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault):
    message, words = FAULTS[fault]
    with pytest.raises(FrameError, match=words) as caught:
        rgb_from_message(message)
    assert caught.value.kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_cut_off_files_are_refused(suffix, share):
    message = compressed(suffix, suffix[1:])
    message.data = message.data[: int(len(message.data) * share)]
    with pytest.raises(FrameError) as caught:
        rgb_from_message(message)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [(GREY, "mono8"), (RGB, "rgb8"), (FLOATS, "32FC1"), (RGB[:, ::2], "rgb8")],
)
def test_written_images_are_unpadded_and_exact(pixels, encoding):
    header = stamped(12.25)
    message = image_message(pixels, encoding, header)
    assert message.header == header
    assert (message.height, message.width) == pixels.shape[:2]
    assert message.encoding == encoding
    assert message.step * message.height == len(message.data) == pixels.nbytes
    back = np.frombuffer(message.data, pixels.dtype).reshape(pixels.shape)
    np.testing.assert_array_equal(back, pixels)


HEADERS = st.builds(
    lambda sec, nanosec, frame_id: Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 10**9 - 1),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
)
SIDES = st.integers(1, 9)
ARRAYS = st.one_of(
    st.tuples(
        st.just(encoding),
        hypothesis_numpy.arrays(dtype, st.tuples(SIDES, SIDES, *map(st.just, channels))),
    )
    for encoding, dtype, channels in (
        ("mono8", np.uint8, ()), ("rgb8", np.uint8, (3,)), ("32FC1", np.float32, ())
    )
)  # fmt: skip


@given(HEADERS, ARRAYS, st.booleans())
@settings(deadline=None)
def test_what_is_published_equals_a_message_that_owns_its_bytes(header, picture, reverse):
    encoding, array_ = picture
    array_ = array_[::-1] if reverse else array_  # not contiguous
    height, width = array_.shape[:2]
    step = array_.nbytes // height
    plain = Image(header=header, height=height, width=width, encoding=encoding, step=step)
    plain.data = array.array("B", array_.tobytes())
    sent = serialize_message(image_message(array_, encoding, header))
    # Past its end the serialised message may hold any byte.
    assert deserialize_message(sent, Image) == plain
    assert len(sent) == len(serialize_message(plain))


def test_an_image_is_not_copied_into_its_message():
    message = image_message(RGB, "rgb8", stamped(1))
    assert np.shares_memory(np.frombuffer(message.data, np.uint8), RGB)


def test_written_jpeg_is_read_back():
    message = jpeg_message(SMOOTH, 95, stamped(1))
    assert "jpeg" in message.format
    assert np.abs(rgb_from_message(message).astype(int) - SMOOTH).mean() < 2
    assert len(jpeg_message(SMOOTH, 20, stamped(1)).data) < len(message.data)


def as_image_transport_reads(message: CompressedImage) -> tuple[np.ndarray, str]:
    """Pixels and encoding, by the rules of compressed_image_transport's subscriber."""
    encoding, words = message.format.split(";")
    pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if "compressed bgr" in words and encoding == "rgb8":
        pixels = pixels[..., ::-1]
    return pixels, encoding


@given(hypothesis_numpy.arrays(np.uint8, st.tuples(SIDES, SIDES)))
@settings(deadline=None)
def test_written_png_is_the_label_map(labels):
    message = png_message(labels, stamped(3))
    assert message.header == stamped(3)
    pixels, encoding = as_image_transport_reads(message)
    assert (encoding, pixels.dtype) == ("mono8", np.uint8)
    np.testing.assert_array_equal(pixels, labels)


def test_written_jpeg_keeps_its_colours_in_image_transport():
    pixels, encoding = as_image_transport_reads(jpeg_message(SMOOTH, 95, stamped(1)))
    assert encoding == "rgb8"
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 2


def test_label_maps_compress_well():
    labels = np.kron(np.arange(128).reshape(8, 16) % 19, np.ones((64, 64))).astype(np.uint8)
    assert len(png_message(labels, stamped(1)).data) < labels.nbytes / 40


class Slotless(Image):
    """Accepts any attribute, and keeps its data elsewhere than in ``_data``."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = array.array("B")

    data = property(lambda self: self.kept, lambda self, value: setattr(self, "kept", value))


class Sealed:
    """Refuses the private attribute."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = array.array("B")


PLAIN = np.ascontiguousarray(GREY)


@pytest.mark.parametrize("kind", [Slotless, Sealed])
def test_a_message_without_the_private_attribute_gets_its_data_by_the_public_one(kind):
    message = kind()
    show_data(message, PLAIN)
    assert isinstance(message.data, array.array)
    assert message.data.typecode == "B"
    assert message.data.tobytes() == PLAIN.tobytes()


def test_todays_messages_show_the_pixels_without_a_copy():
    for message in (Image(), CompressedImage(), PointCloud2()):
        show_data(message, PLAIN)
        assert np.shares_memory(np.frombuffer(message.data, np.uint8), PLAIN)


def test_both_ways_give_the_same_bytes_on_the_wire():
    shown = image_message(PLAIN, "mono8", stamped(3))
    assigned = image_message(PLAIN, "mono8", stamped(3))
    set_data(assigned, memoryview(PLAIN.tobytes()))
    assert serialize_message(assigned) == serialize_message(shown)
    assert (
        deserialize_message(serialize_message(assigned), Image).data.tobytes() == PLAIN.tobytes()
    )
