# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.bags import CompressedImage, RawImage
from anomaly_seg_ros.errors import ImageError

RED = np.zeros((8, 10, 3), np.uint8)
RED[..., 0], RED[..., 1] = 200, 30


def raw(array, kind, **changes):
    data = np.ascontiguousarray(array)
    fields = {
        "height": array.shape[0],
        "width": array.shape[1],
        "encoding": kind,
        "is_bigendian": False,
        "step": data.strides[0],
        "data": data.reshape(-1).view(np.uint8),
    }
    return RawImage(**{**fields, **changes})


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", (0, 1, 2)), ("bgr8", (2, 1, 0)), ("8UC3", (2, 1, 0)), ("rgba8", (0, 1, 2, 0)),
     ("bgra8", (2, 1, 0, 0))],
)  # fmt: skip
def test_channel_orders(encoding, channels):
    assert np.array_equal(raw(RED[..., channels], encoding).to_rgb(), RED)


def test_padded_rows():
    padded = np.full((8, 40), 77, np.uint8)
    padded[:, :30] = RED.reshape(8, 30)
    assert np.array_equal(raw(padded, "rgb8", width=10).to_rgb(), RED)
    grey = raw(padded, "mono8", width=30).to_grey()
    assert np.array_equal(grey, RED.reshape(8, 30))


@pytest.mark.parametrize("is_bigendian", [False, True])
def test_sixteen_bits_in_both_byte_orders(is_bigendian):
    values = np.arange(80, dtype=np.uint16).reshape(8, 10) * 801
    stored = values.astype(">u2" if is_bigendian else "<u2")
    grey = raw(stored, "mono16", is_bigendian=is_bigendian).to_grey()
    assert grey.dtype == np.uint16
    assert np.array_equal(grey, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros(10, np.uint8)}, "10 bytes"),
        ({"width": 11}, "step is 30"),
        ({"height": 0}, "10 x 0"),
        ({"encoding": "rgb9"}, "rgb9"),
    ],
)
def test_faults(changes, message):
    with pytest.raises(ImageError, match=message):
        raw(RED, "rgb8", **changes).to_rgb()
    with pytest.raises(ImageError):
        raw(RED, "rgb8", **changes).to_grey()


def test_compressed_faults():
    encoded = cv2.imencode(".jpg", RED)[1]
    with pytest.raises(ImageError, match=r"'jpeg'.*truncated JPEG"):
        CompressedImage("jpeg", encoded[:-30]).to_rgb()
    with pytest.raises(ImageError, match="cannot be decoded"):
        CompressedImage("jpeg", np.zeros(50, np.uint8)).to_rgb()
    with pytest.raises(ImageError, match="'jpeg' of 0 bytes"):
        CompressedImage("jpeg", np.zeros(0, np.uint8)).to_rgb()
