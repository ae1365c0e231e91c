# SPDX-License-Identifier: Apache-2.0
"""The format of a CompressedImage, read as image_transport writes it and drivers write theirs."""

from __future__ import annotations

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_seg_ros.bags.messages import CompressedImage, RawImage
from anomaly_seg_ros.io.compressed_format import read_format
from anomaly_seg_ros.io.pixel_formats import FrameError, rgb_from_compressed

# Smooth and colourful: JPEG keeps it, and no two channels may be taken for each other.
_Y, _X = np.mgrid[:64, :96]
RGB = np.dstack([180 + _X / 2, 60 + _Y, 20 + _X / 4 + _Y / 4]).astype(np.uint8)
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
JPEG_NOISE = 3  # mean, of 255


def message(pixels: np.ndarray, image_format: str, suffix: str | None = None) -> CompressedImage:
    """``pixels`` as OpenCV's encoder got them, in the file that the format names."""
    if suffix is None:
        suffix = next(f".{s}" for s in ("jpeg", "png", "tiff") if s in image_format)
    _, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, 98])
    return CompressedImage(image_format, data.reshape(-1))


def mosaic(pattern: str) -> np.ndarray:
    grey = np.zeros(RGB.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        grey[rows, columns] = RGB[rows, columns, "rgb".index(letter)]
    return grey


BGR = RGB[..., ::-1]
RGBA, BGRA = (np.dstack([p, np.full(p.shape[:2], 9, np.uint8)]) for p in (RGB, BGR))
GREY_RGB = np.dstack([GREY] * 3)
WRITTEN = [
    # image_transport on Humble and later.
    ("rgb8; jpeg compressed bgr8", BGR, RGB),
    ("bgr8; jpeg compressed bgr8", BGR, RGB),
    ("rgba8; jpeg compressed bgr8", BGR, RGB),
    ("yuv422_yuy2; jpeg compressed bgr8", BGR, RGB),
    ("mono8; jpeg compressed mono8", GREY, GREY_RGB),
    ("bayer_rggb8; jpeg compressed mono8", GREY, GREY_RGB),
    ("rgb8; png compressed bgr8", BGR, RGB),
    ("rgba8; png compressed bgr8", BGR, RGB),
    ("rgba8; png compressed bgra8", BGRA, RGB),
    ("mono8; png compressed ", GREY, GREY_RGB),
    ("8UC3; png compressed ", BGR, RGB),
    ("rgb8; tiff compressed ", RGB, RGB),
    ("bgr8; tiff compressed ", BGR, RGB),
    ("rgba8; tiff compressed ", RGBA, RGB),
    ("bgra8; tiff compressed ", BGRA, RGB),
    ("mono8; tiff compressed ", GREY, GREY_RGB),
    # Its versions before that, and others that say what they handed over.
    ("rgb8; jpeg compressed rgb8", RGB, RGB),
    ("bgr8; jpeg compressed rgb8", RGB, RGB),
    ("rgb8; png compressed rgb8", RGB, RGB),
    ("rgb8; jpeg compressed ", RGB, RGB),
    ("RGB8; JPEG compressed RGB8", RGB, RGB),
    ("rgba8; png compressed rgba8", RGBA, RGB),
    # Drivers: the codec alone, an ordinary file.
    ("jpeg", BGR, RGB),
    ("image/jpeg", BGR, RGB),
    ("png", BGR, RGB),
    ("jpeg", GREY, GREY_RGB),
]


@pytest.mark.parametrize(("image_format", "pixels", "expected"), WRITTEN)
def test_colours_are_those_that_the_camera_saw(image_format, pixels, expected):
    suffix = ".jpg" if "jpeg" in image_format.lower() else None
    found = message(pixels, image_format, suffix).to_rgb().astype(int)
    assert np.abs(found - expected).mean() <= (JPEG_NOISE if suffix else 0)


@pytest.mark.parametrize("image_format", ["", "jpg", "JPEG", "rgb8", "bgr8", "unknown"])
def test_anything_without_a_semicolon_is_an_ordinary_file(image_format):
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG", quality=98)
    found = CompressedImage(image_format, np.frombuffer(stream.getvalue(), np.uint8)).to_rgb()
    assert np.abs(found.astype(int) - RGB).mean() <= JPEG_NOISE


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize(
    "words",
    [
        "bayer_{}8; jpeg compressed bayer_{}8",
        "bayer_{}8; jpeg compressed ",
        "bayer_{}8; jpeg compressed",
        "bayer_{}16; jpeg compressed bayer_{}8",
        "bayer_{}8; png compressed bayer_{}8",
        "bayer_{}8; png compressed ",
        "bayer_{}8; tiff compressed ",
        "bayer_{}8",
    ],
)
def test_mosaics_get_their_colours_back(words, pattern):
    image_format = words.format(pattern, pattern)
    stored = mosaic(pattern)
    suffix = ".png" if words == "bayer_{}8" else None
    found = message(stored, image_format, suffix).to_rgb()
    plain = RawImage(64, 96, f"bayer_{pattern}8", False, 96, stored.reshape(-1)).to_rgb()
    difference = np.abs(found.astype(int) - plain).mean()
    assert difference <= (4 * JPEG_NOISE if "jpeg" in words else 0)
    assert np.abs(found[2:-2, 2:-2].astype(int) - RGB[2:-2, 2:-2]).mean() < 6


def test_older_opencv_reads_the_same(monkeypatch):
    formats = [*WRITTEN, ("bayer_rggb8; png compressed ", mosaic("rggb"), None)]
    messages = [message(p, f, ".jpg" if "jpeg" in f.lower() else None) for f, p, _ in formats]
    newest = [each.to_rgb() for each in messages]
    monkeypatch.setattr("anomaly_seg_ros.io.pixel_formats._READ_RGB", None)
    for each, before in zip(messages, newest, strict=True):
        np.testing.assert_array_equal(each.to_rgb(), before)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize(
    ("image_format", "mode"),
    [
        ("jpeg", "RGB"),
        ("rgb8; jpeg compressed rgb8", "RGB"),
        ("bayer_rggb8; jpeg compressed ", "L"),
    ],
)
def test_an_exif_orientation_turns_nothing(orientation, image_format, mode):
    """The pixels have to lie as camera_info says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(RGB if mode == "RGB" else mosaic("rggb"))
    plain, turned = io.BytesIO(), io.BytesIO()
    picture.save(plain, "JPEG", quality=98)
    picture.save(turned, "JPEG", quality=98, exif=exif)
    first, second = (
        CompressedImage(image_format, np.frombuffer(s.getvalue(), np.uint8)).to_rgb()
        for s in (plain, turned)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("image_format", "words"),
    [
        ("16UC1; compressedDepth png", "depth image"),
        ("32FC1; compressedDepth", "depth image"),
        ("h264", "h264 is a video stream"),
        ("rgb8; hevc", "video stream"),
        ("bgr8; jpeg compressed yuv422", "'yuv422'"),
        ("bayer_rggb8; jpeg compressed bayer_rggb8", "3 channels is no Bayer mosaic"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(image_format, words):
    broken = SimpleNamespace(format=image_format, data=message(BGR, "jpeg").data)
    with pytest.raises(FrameError, match=words) as caught:
        rgb_from_compressed(broken)
    assert caught.value.kind == "unsupported format"
    assert "\n" not in str(caught.value)
    assert repr(image_format) in str(caught.value)


def test_what_was_lost_or_guessed_is_said():
    assert "colours are lost" in read_format("bayer_rggb8; jpeg compressed mono8").remark
    assert "red and blue are exchanged" in read_format("rgb8; jpeg compressed rgb8").remark
    for ordinary in ("rgb8; jpeg compressed bgr8", "jpeg", "mono8; png compressed "):
        assert not read_format(ordinary).remark


def test_float_tiffs_are_read_in_their_range():
    values = BGR / np.float32(255)
    found = message(values, "32FC3; tiff compressed ").to_rgb()
    np.testing.assert_array_equal(found, RGB)
    with pytest.raises(FrameError, match=r"not in \[0, 1\]: have them divided"):
        message(values * 255, "32FC3; tiff compressed ").to_rgb()
    with pytest.raises(FrameError, match="cannot be decoded"):  # beyond OpenCV as a picture
        message(values[..., 0], "32FC1; tiff compressed ").to_rgb()
