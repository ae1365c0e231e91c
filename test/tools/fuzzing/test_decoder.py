# SPDX-License-Identifier: Apache-2.0
"""Images: any message fields, and headers that promise more than a machine has."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io import image_headers
from anomaly_seg_ros.io.image_headers import MOST_PIXELS, read_header
from anomaly_seg_ros.io.images import image_fault, read_image
from anomaly_seg_ros.io.pixel_formats import (
    ENCODINGS,
    FrameError,
    rgb_from_compressed,
    rgb_from_raw,
)
from tools.fuzzing.images import png_of

UINT32 = st.integers(0, 2**32 - 1)
SMALL = st.integers(0, 9)
QUICK = settings(derandomize=True, database=None, deadline=None, max_examples=400)
ENCODERS = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "PNM": ".ppm", "BMP": ".bmp",
            "TIFF": ".tiff"}  # fmt: skip


def encoded(kind: str, width: int = 7, height: int = 5, options: tuple[int, ...] = ()) -> bytes:
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(ENCODERS[kind], picture, options)[1].tobytes()


@QUICK
@given(
    height=st.one_of(SMALL, UINT32),
    width=st.one_of(SMALL, UINT32),
    step=st.one_of(SMALL, UINT32),
    encoding=st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=20)),
    is_bigendian=st.booleans(),
    data=st.binary(max_size=300),
)
@example(height=1, width=1, step=1, encoding="bayer_rggb8", is_bigendian=False, data=b"x")
@example(height=2, width=2**31, step=2**32 - 1, encoding="rgb8", is_bigendian=False, data=b"")
@example(height=9, width=1, step=0, encoding="\ud800" * 9999, is_bigendian=True, data=b"")
def test_any_fields_of_a_raw_image(height, width, step, encoding, is_bigendian, data):
    message = SimpleNamespace(
        height=height, width=width, step=step, encoding=encoding, is_bigendian=is_bigendian,
        data=data,
    )  # fmt: skip
    try:
        rgb = rgb_from_raw(message)
    except FrameError as error:
        refusal = str(error)
    else:
        assert rgb.shape == (height, width, 3)
        assert rgb.dtype == np.uint8
        return
    assert len(refusal) < 1000


@QUICK
@given(kind=st.sampled_from(list(ENCODERS)), width=st.integers(1, 300), height=st.integers(1, 300))
def test_headers_say_what_opencv_decodes(kind, width, height):
    data = encoded(kind, width, height)
    header = read_header(data)
    assert (header.kind, header.width, header.height) == (kind, width, height)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape[:2] == (height, width)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_WEBP_QUALITY, 101)])
def test_both_kinds_of_webp(options):
    header = read_header(encoded("WebP", 300, 200, options))
    assert (header.width, header.height) == (300, 200)


def patched(data: bytes, place: int, code: str, *values: int) -> bytes:
    return data[:place] + struct.pack(code, *values) + data[place + struct.calcsize(code) :]


def _bombs() -> dict[str, bytes]:
    jpeg, bmp, tiff = encoded("JPEG"), encoded("BMP"), encoded("TIFF")
    extended = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff\xff\x3f" * 2 + b"\0" * 8
    width = tiff.index(struct.pack("<HHI", 256, 3, 1)) + 2
    height = tiff.index(struct.pack("<HHI", 257, 3, 1)) + 2
    large = patched(patched(tiff, width, "<HII", 4, 1, 1 << 20), height, "<HII", 4, 1, 1 << 20)
    return {
        "PNG": png_of(60000, 60000),
        "JPEG": patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", 65000, 65000),
        "WebP": extended,
        "PNM": b"P3 60000 60000 255 0 0 0 ",
        "BMP": patched(bmp, 18, "<ii", 60000, -60000),
        "TIFF": large,
    }


@pytest.mark.parametrize("kind", ENCODERS)
def test_huge_sizes_are_refused_before_anything_is_decoded(kind, monkeypatch, tmp_path):
    def decode(*_):
        pytest.fail("the decoder saw it")

    monkeypatch.setattr(cv2, "imdecode", decode)
    data = _bombs()[kind]
    header = read_header(data)
    assert header.kind == kind
    assert header.width * header.height > MOST_PIXELS
    with pytest.raises(FrameError, match=f"{kind} of .* million") as caught:
        rgb_from_compressed(SimpleNamespace(format="jpeg", data=data))
    assert caught.value.kind == "undecodable"
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"image\.png: .* million"):
        read_image(tmp_path / "image.png")


def test_a_picture_of_the_largest_size_is_decoded(monkeypatch):
    data = encoded("PNG", 40, 30)
    monkeypatch.setattr(image_headers, "MOST_PIXELS", 1200)
    assert image_fault(data) is None
    monkeypatch.setattr(image_headers, "MOST_PIXELS", 1199)
    assert "PNG of 40 x 30 pixels" in image_fault(data)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    data = encoded("JPEG", 1000, 1000, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    assert image_fault(data) is None
    start = data.rindex(b"\xff\xda")
    assert "scans, too many" in image_fault(data[:start] + data[start:-2] * 1100 + data[-2:])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "data",
    [
        b"P5" + b" " * 5000,  # a pattern that tried every way to part the spaces
        b"P5\n" + b"#\n" * 3000 + b"x",
        b"P6 " + b"9" * 5000 + b" 1 255 ",  # more digits than Python converts
        b"II\x2b\0\x08\0\0\0" + b"\xff" * 24,  # BigTIFF with an offset beyond 63 bits
        b"MM\0\x2a" + b"\xff" * 400,
        b"\xff\xd8\xff",
        b"\xff\xd8" + b"\xff" * 100_000,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 4 + b"IEND\xaeB`\x82",
        b"RIFF\x04\0\0\0WEBP",
        b"BM",
        b"GIF89a" + b"\1" * 30,  # known to OpenCV, but no camera's format
    ],
)
def test_what_fuzzing_found(data, tmp_path):
    with pytest.raises(FrameError):
        rgb_from_compressed(SimpleNamespace(format="x" * 10_000, data=data))
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ImageError):
        read_image(tmp_path / "image.png")
