# SPDX-License-Identifier: Apache-2.0
"""Reads image, label and disparity files; incomplete or unsuitable files raise a clear error.

OpenCV decodes, after checks of what it would accept silently: it returns a half-grey picture for a
truncated JPEG, spreads 1-bit masks to 0 / 255 and turns palette indices into colours.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError, first_line
from anomaly_seg_ros.io.image_headers import JPEG_MAGIC, PNG_MAGIC, read_header

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".pgm", ".bmp", ".tif", ".tiff")
)
LABEL_SUFFIXES = IMAGE_SUFFIXES - {".jpg", ".jpeg"}

_PNG_GREY, _PNG_PALETTE = 0, 3
_SUPPORTED = "JPEG, PNG, WebP, PNM, BMP or TIFF"
# Other content found in image files, by its first bytes.
_UNSUPPORTED = {
    "a GIF": re.compile(rb"GIF8"),
    "HEIC or AVIF": re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1|avi[fs])", re.DOTALL),
    "JPEG 2000": re.compile(rb"\xff\x4f\xff\x51|.{4}jP {2}", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|.{4}JXL ", re.DOTALL),
    "a web page": re.compile(rb"\s*<(?:!doctype|html)", re.IGNORECASE),
    "a Git LFS pointer, not the file itself": re.compile(rb"version https://git-lfs"),
}
# These bytes hold the size, unless a large thumbnail or colour profile comes first.
_HEADER_BYTES = 1 << 16
_BINARY_PNM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d{1,10})\s+(\d{1,10})\s+(\d{1,10})\s")


def read_image(path: str | Path, upright: bool = True) -> np.ndarray:
    """Reads a colour or grey image; transparency is dropped.

    Args:
        path: JPEG, PNG, WebP, PNM, BMP or TIFF file.
        upright: True applies the orientation in the EXIF data; False keeps the stored pixels,
            except in a TIFF, which OpenCV always turns.

    Returns:
        (H, W, 3) uint8 RGB in C order; grey images have three equal channels.

    Raises:
        ImageError: The file is missing, empty, truncated, no image, or not 8 bits a channel.
    """
    path = Path(path)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    array = _decode(_read_complete(path), flags, path)
    if array.dtype != np.uint8:
        raise ImageError(f"{path}: {array.dtype} image; only 8 bits a channel are supported")
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def read_annotated_image(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Reads an image in the orientation that its annotation was made for.

    Annotations are usually made for the stored pixels, as the usual readers of data sets ignore
    EXIF. Only if the annotation's size is that of the upright image, and not of the stored one,
    was the upright image annotated.

    Args:
        path: As for :func:`read_image`.
        size: (height, width) of the annotation.

    Returns:
        (H, W, 3) uint8 RGB in C order, of the stored size if neither fits.

    Raises:
        ImageError: As for :func:`read_image`.
    """
    stored = read_image(path, upright=False)
    if stored.shape[1::-1] == size != stored.shape[:2]:
        upright = read_image(path)
        if upright.shape[:2] == size:
            return upright
    return stored


def read_label(path: str | Path, palette: bool = False) -> np.ndarray:
    """Reads a label image or mask, with its stored values unchanged.

    Args:
        path: A lossless image with one 8-bit channel, or with equal channels.
        palette: In a PNG with a palette the indices are the labels. False refuses such a file,
            as the values could be meant to be its colours.

    Returns:
        (H, W) uint8 in C order.

    Raises:
        ImageError: As for :func:`read_image`, or there is not one 8-bit label a pixel.
    """
    path = Path(path)
    data = _read_complete(path)
    if data.startswith(JPEG_MAGIC):
        raise ImageError(f"{path}: a JPEG cannot hold labels (lossy); use PNG")
    if data.startswith(PNG_MAGIC):
        bit_depth, colour_type = data[24], data[25]
        if bit_depth == 8 and colour_type == _PNG_PALETTE and palette:
            data = _without_palette(data)
        elif colour_type == _PNG_PALETTE:
            raise ImageError(
                f"{path}: {bit_depth}-bit palette PNG; store the label values as 8-bit grey"
            )
        if bit_depth < 8:
            raise ImageError(f"{path}: {bit_depth}-bit PNG; store the label values as 8-bit grey")
    array = _decode(data, cv2.IMREAD_UNCHANGED, path)
    if array.dtype != np.uint8:
        raise ImageError(f"{path}: {array.dtype} label image; expected one 8-bit channel")
    if array.ndim == 3:
        colours = array[..., :3]  # a fourth channel is transparency
        if (colours != colours[..., :1]).any():
            raise ImageError(f"{path}: colour image; expected label values in one 8-bit channel")
        array = colours[..., 0]
    return np.ascontiguousarray(array)


def read_disparity(path: str | Path) -> np.ndarray:
    """Reads a disparity image as stored (Lost and Found: 256 * pixels, 0 = none).

    Args:
        path: An image with one 16-bit channel.

    Returns:
        (H, W) uint16.

    Raises:
        ImageError: As for :func:`read_image`, or there is not one 16-bit channel.
    """
    path = Path(path)
    array = _decode(_read_complete(path), cv2.IMREAD_UNCHANGED, path)
    if array.ndim != 2 or array.dtype != np.uint16:
        channels = 1 if array.ndim == 2 else array.shape[2]
        raise ImageError(
            f"{path}: expected one 16-bit channel of disparity, got {channels} of {array.dtype}"
        )
    return array


def read_size(path: str | Path) -> tuple[int, int]:
    """Reads the size of an image file from its header, without decoding.

    Returns:
        (height, width) of the stored pixels.

    Raises:
        ImageError: The file is missing or in no format of :func:`read_image`.
    """
    path = Path(path)
    with _file_errors(path), path.open("rb") as file:
        header = read_header(data := file.read(_HEADER_BYTES))
        if header is None:  # the size comes after a thumbnail or a profile
            header = read_header(data + file.read())
    if header is None or header.fault:
        raise ImageError(f"{path}: {header.fault if header else _no_image(data)}")
    return header.height, header.width


def check_same_size(
    image: np.ndarray, other: np.ndarray, image_path: str | Path, other_path: str | Path
) -> None:
    """Raises ImageError naming both files unless two arrays have the same height and width."""
    if image.shape[:2] != other.shape[:2]:
        raise ImageError(
            f"{other_path}: {other.shape[1]}x{other.shape[0]} pixels, "
            f"but {image_path} has {image.shape[1]}x{image.shape[0]}"
        )


def _decode(data: bytes, flags: int, path: Path) -> np.ndarray:
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"{path}: not a readable image ({first_line(error)})") from error
    if array is None or array.size == 0:
        raise ImageError(f"{path}: not a readable image")
    return array


def _read_complete(path: Path) -> bytes:
    """Reads the bytes of an image file and checks that they are complete."""
    with _file_errors(path):
        data = path.read_bytes()
    if not data:
        raise ImageError(f"{path}: empty file")
    fault = image_fault(data)
    if fault:
        raise ImageError(f"{path}: {fault}")
    return data


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turns the exceptions of reading a file into an ImageError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    except (ValueError, MemoryError) as error:  # a name with a zero byte; too large
        raise ImageError(f"{path}: cannot be read ({error})") from error


def image_fault(data: bytes) -> str | None:
    """Says why an encoded image should not be decoded; None if no fault was found.

    Allocates nothing: the header shows formats other than JPEG, PNG, WebP, PNM, BMP and TIFF, and
    sizes that no camera has. Truncation or damage is found in JPEG, PNG (by checksums), WebP and
    binary PNM; for the others the decoder is trusted.
    """
    if (fault := _damage(data)) is not None:
        return fault
    header = read_header(data)
    if header is None:
        return _no_image(data)
    return header.fault


def _no_image(data: bytes) -> str:
    """Names the content if it is no image, judging by its first bytes."""
    found = next((what for what, start in _UNSUPPORTED.items() if start.match(data)), None)
    unsupported = f"it is {found}; " if found else ""
    return f"not a readable image ({unsupported}no {_SUPPORTED})"


def _damage(data: bytes) -> str | None:
    if data.startswith(JPEG_MAGIC):
        return _jpeg_fault(data)
    if data.startswith(PNG_MAGIC):
        return _png_fault(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        if len(data) < int.from_bytes(data[4:8], "little") + 8:
            return "truncated WebP"
    elif match := _BINARY_PNM.match(data):
        kind, width, height, largest = (int(group) for group in match.groups())
        channels, depth = (3 if kind == 6 else 1), (2 if largest > 255 else 1)
        if len(data) - match.end() < width * height * channels * depth:
            return "truncated PNM"
    return None


def _jpeg_fault(data: bytes) -> str | None:
    """Looks for the end marker after the first scan; an EXIF thumbnail has its own before."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return "damaged JPEG (no marker where a segment should start)"
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan: compressed data follow, 0xFF in them is escaped
            complete = data.find(b"\xff\xd9", position) >= 0
            return None if complete else "truncated JPEG (no end marker)"
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return "truncated JPEG (no image data)"


def _without_palette(data: bytes) -> bytes:
    """Turns a complete 8-bit palette PNG into a grey one, whose values are the indices.

    Only the header says what the compressed bytes mean, and OpenCV gives colours for a palette.
    """
    body = data[12:25] + bytes((_PNG_GREY,)) + data[26:29]
    kept = [data[:12], body, zlib.crc32(body).to_bytes(4, "big")]
    position = 33  # after the header
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind in (b"IDAT", b"IEND"):
            kept.append(data[position:end])
        position = len(data) if kind == b"IEND" else end
    return b"".join(kept)


def _png_fault(data: bytes) -> str | None:
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        kind = data[position + 4 : position + 8]
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            return f"damaged PNG (checksum of chunk {kind.decode('latin-1')!r})"
        if kind == b"IEND":
            return None
        position = end
    return "truncated PNG (no end chunk)"
