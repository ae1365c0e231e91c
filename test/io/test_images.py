# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
from tiny_images import palette_png

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import (
    check_same_size,
    read_disparity,
    read_image,
    read_label,
    read_size,
)

RNG = np.random.default_rng(3)
COLOUR = RNG.integers(0, 256, (40, 70, 3), np.uint8)
GREY = RNG.integers(0, 256, (40, 70), np.uint8)


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".ppm", ".bmp", ".tiff"])
def test_lossless_formats_give_rgb_in_c_order(tmp_path, suffix):
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    path = tmp_path / f"x{suffix}"
    cv2.imwrite(str(path), COLOUR[..., ::-1], options)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(image, COLOUR)


def test_jpeg_is_close(tmp_path):
    smooth = cv2.resize(COLOUR[:4, :7], (70, 40))
    path = tmp_path / "x.jpg"
    cv2.imwrite(str(path), smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert np.abs(read_image(path).astype(int) - smooth).mean() < 3


def test_grey_is_expanded_and_alpha_dropped(tmp_path):
    grey = read_image(write(tmp_path / "g.png", GREY))
    assert np.array_equal(grey, np.repeat(GREY[..., None], 3, axis=2))
    alpha = np.dstack([COLOUR[..., ::-1], GREY])
    assert np.array_equal(read_image(write(tmp_path / "a.png", alpha)), COLOUR)


def test_exif_orientation_is_applied(tmp_path):
    encoded = cv2.imencode(".jpg", np.full((16, 48, 3), 90, np.uint8))[1].tobytes()
    tiff = (
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
        + bytes(4)
    )
    body = b"Exif\x00\x00" + tiff
    path = tmp_path / "rotated.jpg"
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    path.write_bytes(encoded[:2] + segment + encoded[2:])
    assert read_image(path).shape == (48, 16, 3)


def test_sixteen_bit_image_is_refused(tmp_path):
    path = write(tmp_path / "deep.png", COLOUR.astype(np.uint16) * 257)
    with pytest.raises(ImageError, match=r"deep\.png: uint16 image"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".ppm"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = write(tmp_path / f"cut{suffix}", COLOUR)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=rf"cut\{suffix}: (truncated|damaged|not a readable)"):
        read_image(path)


def test_truncated_jpeg_with_complete_thumbnail_is_refused(tmp_path):
    encoded = cv2.imencode(".jpg", COLOUR)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", COLOUR[:8, :8])[1].tobytes()
    assert thumbnail.endswith(b"\xff\xd9")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encoded[:2] + segment + encoded[2:]
    path = tmp_path / "thumb.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == COLOUR.shape
    path.write_bytes(whole[:-200])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)


def test_progressive_jpeg_is_read(tmp_path):
    path = tmp_path / "p.jpg"
    cv2.imwrite(str(path), COLOUR, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert read_image(path).shape == COLOUR.shape


def test_png_with_a_flipped_byte_is_refused(tmp_path):
    path = write(tmp_path / "x.png", GREY)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged PNG"):
        read_label(path)


@pytest.mark.parametrize("reader", [read_image, read_label, read_disparity])
def test_missing_empty_and_foreign_files_name_the_file(tmp_path, reader):
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        reader(tmp_path / "none.png")
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(ImageError, match=r"empty\.png: empty file"):
        reader(empty)
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.png: not a readable image"):
        reader(text)
    with pytest.raises(ImageError, match="directory"):
        reader(tmp_path)


def test_label_values_are_unchanged(tmp_path):
    assert np.array_equal(read_label(write(tmp_path / "l.png", GREY)), GREY)
    equal_channels = np.repeat(GREY[..., None], 3, axis=2)
    label = read_label(write(tmp_path / "rgb.png", equal_channels))
    assert np.array_equal(label, GREY)
    assert label.flags.c_contiguous


def test_labels_that_are_no_labels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="colour image"):
        read_label(write(tmp_path / "c.png", COLOUR))
    with pytest.raises(ImageError, match="uint16 label"):
        read_label(write(tmp_path / "d.png", GREY.astype(np.uint16)))
    with pytest.raises(ImageError, match="lossy"):
        read_label(write(tmp_path / "j.jpg", GREY))


def test_one_bit_and_palette_pngs_are_refused(tmp_path):
    # OpenCV would return 0 and 255 for the bits, and colours for the palette.
    path = tmp_path / "bits.png"
    cv2.imwrite(str(path), (GREY > 127).astype(np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])
    with pytest.raises(ImageError, match="1-bit PNG"):
        read_label(path)
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / "palette.png"
    image = pillow.fromarray(GREY)
    image.putpalette(list(RNG.integers(0, 256, 768)))
    image.save(path)
    with pytest.raises(ImageError, match="palette PNG"):
        read_label(path)


def test_palette_indices_if_they_are_asked_for(tmp_path):
    colours = RNG.integers(0, 256, (256, 3), np.uint8)
    path = tmp_path / "palette.png"
    path.write_bytes(palette_png(GREY, colours))
    read = read_label(path, palette=True)
    assert read.dtype == np.uint8
    assert np.array_equal(read, GREY)
    assert np.array_equal(read_image(path), colours[GREY])  # the file is what it should be
    assert np.array_equal(read_label(write(tmp_path / "g.png", GREY), palette=True), GREY)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"palette\.png: truncated PNG"):
        read_label(path, palette=True)


def test_palettes_of_pillow(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / "palette.png"
    for colours in (256, 66, 16):
        indices = (GREY.astype(int) % colours).astype(np.uint8)
        image = pillow.fromarray(indices)
        image.putpalette(list(RNG.integers(0, 256, 3 * colours)))
        image.save(path)
        if colours > 16:
            assert np.array_equal(read_label(path, palette=True), indices)
        else:  # four bits a pixel
            with pytest.raises(ImageError, match="palette PNG"):
                read_label(path, palette=True)


def test_disparity(tmp_path):
    stored = RNG.integers(0, 65536, (20, 30), np.uint16)
    assert np.array_equal(read_disparity(write(tmp_path / "d.png", stored)), stored)
    with pytest.raises(ImageError, match="16-bit channel of disparity, got 1 of uint8"):
        read_disparity(write(tmp_path / "e.png", GREY))
    with pytest.raises(ImageError, match="got 3 of uint16"):
        read_disparity(write(tmp_path / "f.png", COLOUR.astype(np.uint16)))


def test_check_same_size_names_both_files():
    check_same_size(COLOUR, GREY, "a.png", "b.png")
    with pytest.raises(ImageError, match=r"b\.png: 70x20 pixels, but a\.png has 70x40"):
        check_same_size(COLOUR, GREY[:20], "a.png", "b.png")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GIF89a\1\0\1\0", "it is a GIF; "),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC or AVIF; "),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it is HEIC or AVIF; "),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000; "),
        (b"\xff\x0a\xfa\x7f", "it is JPEG XL; "),
        (b"<!DOCTYPE html><html>", "it is a web page; "),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"no image", ""),
    ],
)
def test_what_is_found_under_the_name_of_an_image(tmp_path, content, what):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, read_label, read_size):
        with pytest.raises(ImageError, match=rf"a\.jpg: not a readable image \({what}") as caught:
            read(path)
        assert str(caught.value).endswith("no JPEG, PNG, WebP, PNM, BMP or TIFF)")


def test_the_size_that_a_header_states(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (11, 23, 3)).astype(np.uint8)
    for suffix in ("jpg", "png", "webp", "ppm", "bmp", "tif"):
        path = tmp_path / f"a.{suffix}"
        assert cv2.imwrite(str(path), pixels)
        assert read_size(path) == (11, 23)
    with pytest.raises(ImageError, match=r"b\.png: no such file"):
        read_size(tmp_path / "b.png")
