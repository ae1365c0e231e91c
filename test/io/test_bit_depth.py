# SPDX-License-Identifier: Apache-2.0
"""16-bit images whose samples have fewer bits: read right where that is stated, told where not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.bags.messages import CompressedImage, RawImage
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.pixel_formats import rgb_from_compressed, rgb_from_raw

RNG = np.random.default_rng(4)
PICTURE = RNG.integers(0, 256, (12, 20, 3), np.uint8)  # (H, W, 3) RGB, uses all 8 bits
PICTURE[0, 0] = 255
ALPHA = np.full((12, 20, 1), 65535, np.uint16)


def deep(values: np.ndarray, bits: int) -> np.ndarray:
    """The same brightness in samples of so many bits, with noise in the bits that are new."""
    noise = RNG.integers(0, 1 << (bits - 8), values.shape, np.uint16)
    return values.astype(np.uint16) << (bits - 8) | noise


def raw(samples: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> RawImage:
    """A message whose rows end with rubbish."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if big else "<u2").reshape(height, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((height, padding), 255, np.uint8)])
    return RawImage(height, width, encoding, big, rows.shape[1], rows.reshape(-1))


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    grey = np.zeros(rgb.shape[:2], rgb.dtype)
    for place, letter in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        grey[rows, columns] = rgb[rows, columns, "rgb".index(letter)]
    return grey


GREY = np.ascontiguousarray(PICTURE[..., 1])
LAYOUTS = {
    "mono16": (GREY, "mono8", None),
    "16UC1": (GREY, "mono8", None),
    "rgb16": (PICTURE, "rgb8", None),
    "bgr16": (PICTURE[..., ::-1], "bgr8", None),
    "16UC3": (PICTURE[..., ::-1], "bgr8", None),
    "rgba16": (PICTURE, "rgb8", ALPHA),
    "bgra16": (PICTURE[..., ::-1], "bgr8", ALPHA),
    "16UC4": (PICTURE[..., ::-1], "bgr8", ALPHA),
    **{
        f"bayer_{pattern}16": (mosaic(PICTURE, pattern), f"bayer_{pattern}8", None)
        for pattern in ("rggb", "bggr", "gbrg", "grbg")
    },
}


@pytest.mark.parametrize("big", [False, True], ids=["little", "big endian"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("encoding", LAYOUTS)
def test_stated_bits_give_the_picture_of_8_bits(encoding, bits, big):
    values, encoding_8_bit, alpha = LAYOUTS[encoding]
    plain = RawImage(12, 20, encoding_8_bit, False, values[0].size, values.reshape(-1))
    samples = deep(values, bits)
    samples = samples if alpha is None else np.dstack([samples, alpha])
    for padding in (0, 6, 5):
        depth = BitDepth(bits)
        found = rgb_from_raw(raw(samples, encoding, padding, big), depth)
        np.testing.assert_array_equal(found, rgb_from_raw(plain))
        assert (depth.used, depth.clipped) == (bits, 0)


def test_fewer_than_8_bits_are_stretched():
    samples = (GREY >> 4).astype(np.uint16)
    found = rgb_from_raw(raw(samples, "mono16"), BitDepth(4))
    np.testing.assert_array_equal(found[..., 0], GREY & 0xF0)


@pytest.mark.parametrize("bits", [0, 16])
@pytest.mark.parametrize("justified", [10, 12])
def test_left_justified_samples_are_right_with_all_bits(bits, justified):
    samples = deep(PICTURE, justified) << (16 - justified)
    depth = BitDepth(bits)
    for _ in range(20):
        found = rgb_from_raw(raw(samples, "rgb16"), depth)
    np.testing.assert_array_equal(found, PICTURE)
    assert depth.remarks() == {}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("bits", "told"), [(8, 8), (9, 10), (10, 10), (12, 12), (13, 14), (15, 0), (16, 0)]
)
@pytest.mark.parametrize("encoding", ["mono16", "bgra16", "bayer_grbg16"])
def test_bits_that_are_never_set_are_told(encoding, bits, told, big):
    values, _, alpha = LAYOUTS[encoding]
    samples = deep(values, bits)
    samples = samples if alpha is None else np.dstack([samples, alpha])
    message, depth = raw(samples, encoding, 4, big), BitDepth()
    for _ in range(4):
        rgb_from_raw(message, depth)
    assert depth.remarks() == {}  # a camera that starts may be dark
    rgb_from_raw(message, depth)
    assert depth.looks_like == told
    assert f"bit_depth: {told}'" in depth.remarks().get("bit depth", f"bit_depth: {told}'")
    assert bool(depth.remarks()) == bool(told)
    depth.bits = 16  # the user says that the scene is dark
    assert depth.remarks() == {}


def test_one_bright_frame_ends_the_warning():
    depth = BitDepth()
    for _ in range(9):
        rgb_from_raw(raw(deep(GREY, 12), "mono16"), depth)
    assert "bit depth" in depth.remarks()
    rgb_from_raw(raw(deep(GREY, 16), "mono16"), depth)
    rgb_from_raw(raw(deep(GREY, 12), "mono16"), depth)
    assert depth.remarks() == {}


def test_black_frames_say_nothing():
    depth = BitDepth()
    for _ in range(9):
        rgb_from_raw(raw(np.zeros((12, 20), np.uint16), "mono16"), depth)
    assert depth.remarks() == {}


def test_samples_over_the_stated_depth_become_white_and_are_told():
    samples = deep(GREY, 10)
    samples[3, 4:7] = (1024, 4000, 65535)
    depth = BitDepth(10)
    found = rgb_from_raw(raw(samples, "mono16"), depth)[..., 0]
    expected = GREY.copy()
    expected[3, 4:7] = 255
    np.testing.assert_array_equal(found, expected)
    assert depth.clipped == 3
    assert "3 samples" in depth.remarks()["over bit depth"]
    assert "bit_depth: 16" in depth.remarks()["over bit depth"]
    samples[3, 4:7] = 1000
    rgb_from_raw(raw(samples, "mono16"), depth)
    assert depth.remarks() == {}  # of the newest frame


@pytest.mark.parametrize("bits", [-1, 17])
def test_impossible_depths_are_refused(bits):
    with pytest.raises(ParameterError, match=f"bit depth {bits}"):
        BitDepth(bits)


def png(samples: np.ndarray, image_format: str) -> CompressedImage:
    _, data = cv2.imencode(".png", samples)
    return CompressedImage(image_format, data.reshape(-1))


@pytest.mark.parametrize(
    ("image_format", "stored", "expected"),
    [
        ("mono16; png compressed ", GREY, np.dstack([GREY] * 3)),
        ("rgb16; png compressed bgr16", PICTURE[..., ::-1], PICTURE),
        ("bgr16; png compressed bgr16", PICTURE[..., ::-1], PICTURE),
        ("rgba16; png compressed bgr16", PICTURE[..., ::-1], PICTURE),
        ("png", PICTURE[..., ::-1], PICTURE),
        ("rgb16; png compressed rgb16", PICTURE, PICTURE),
    ],
)
@pytest.mark.parametrize("bits", [12, 16])
def test_compressed_16_bit_images_follow_it_too(image_format, stored, expected, bits):
    depth = BitDepth(bits)
    found = png(deep(stored, bits), image_format).to_rgb(depth)
    np.testing.assert_array_equal(found, expected)
    assert depth.used == bits


def test_compressed_16_bit_mosaics_follow_it_too():
    message = png(deep(mosaic(PICTURE, "gbrg"), 12), "bayer_gbrg16; png compressed ")
    values, encoding, _ = LAYOUTS["bayer_gbrg16"]
    plain = RawImage(12, 20, encoding, False, 20, values.reshape(-1))
    np.testing.assert_array_equal(message.to_rgb(BitDepth(12)), plain.to_rgb())


def test_jpeg_of_12_in_16_bits_is_stretched_and_told():
    """image_transport's publisher keeps the upper 8 of the 16 bits, its subscriber shifts back."""
    smooth = cv2.GaussianBlur(np.tile(np.arange(0, 256, 4, np.uint8), (32, 1)), (0, 0), 1)
    _, data = cv2.imencode(".jpg", smooth >> 4, [cv2.IMWRITE_JPEG_QUALITY, 100])
    message = SimpleNamespace(format="mono16; jpeg compressed mono8", data=data.reshape(-1))
    depth = BitDepth()
    for _ in range(5):
        dark = rgb_from_compressed(message, depth)
    assert dark.max() <= 16
    assert depth.looks_like == 12
    right = rgb_from_compressed(message, BitDepth(12))[..., 0].astype(int)
    assert np.abs(right - smooth).max() <= 32  # four bits are left


def test_given_12_bits_look_as_the_picture_does():
    cases = Path(os.environ.get("ANOMALY_SEG_CASES", Path(__file__).parents[3] / "shared/cases"))
    if not cases.is_dir():
        pytest.skip(f"no cases at {cases}")
    samples = cv2.imread(str(cases / "images/mono16_12bit.png"), cv2.IMREAD_UNCHANGED)
    rgb = cv2.imread(str(cases / "images/same_as_rgb.png"))[..., ::-1]
    expected = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    message, depth = raw(samples, "mono16"), BitDepth()
    for _ in range(5):
        message.to_rgb(depth)
    assert depth.looks_like == 12
    found = message.to_rgb(BitDepth(12))[..., 0].astype(int)
    assert np.abs(found - expected).max() <= 1
