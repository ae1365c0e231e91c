# SPDX-License-Identifier: Apache-2.0
"""Reads the ``format`` of a ``sensor_msgs/CompressedImage``: colour order, mosaic and depth.

image_transport writes ``<encoding>; <codec> compressed <target encoding>``, such as
``rgb8; jpeg compressed bgr8``: the camera's encoding, and the encoding in which OpenCV's encoder
got the pixels. An empty target means that they were not converted. OpenCV takes any three channels
for BGR, so a picture of target ``rgb8`` has red and blue swapped for every other decoder. Other
drivers mostly write only the codec: an ordinary file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_ENCODING = re.compile(r"(?:rgba?|bgra?|mono|bayer_(rggb|bggr|gbrg|grbg))(?:8|16)$")
_RED_FIRST = re.compile(r"rgba?(?:8|16)$")
_OPENCV_TYPE = re.compile(r"(?:8|16|32)[usf]c[1-4]$")
_VIDEO = re.compile(r"\b(h\.?26[45]|hevc|avc|av1|vp[89]|mpeg-?[124])\b")
# Longer than any format: the cache must not keep arbitrary text of a publisher.
_LONGEST = 100
RGB, BGR = "rgb", "bgr"


@dataclass(frozen=True)
class CompressedFormat:
    """How to interpret a decoded picture.

    Attributes:
        order: ``bgr`` for an ordinary file, ``rgb`` for one whose red and blue are swapped.
        bayer: Pattern of a Bayer mosaic, such as ``rggb``; empty for other pictures.
        high_bytes: True if 8-bit samples are the upper half of the camera's 16 bits.
        refusal: Why it cannot be read; empty if it can.
        remark: Advice for the receiver, one of few texts; may be empty.
    """

    order: str = BGR
    bayer: str = ""
    high_bytes: bool = False
    refusal: str = ""
    remark: str = ""


def read_format(text: str) -> CompressedFormat:
    """Reads a format string of any origin.

    Args:
        text: Such as ``rgb8; jpeg compressed bgr8``, ``bayer_rggb8; png compressed `` or ``jpeg``.
    """
    return _read(text[:_LONGEST].lower())


@lru_cache(maxsize=64)
def _read(text: str) -> CompressedFormat:
    if "compresseddepth" in text:
        return CompressedFormat(
            refusal="it is a depth image: subscribe to the camera's colour or grey images"
        )
    if video := _VIDEO.search(text):
        return CompressedFormat(
            refusal=f"{video[1]} is a video stream: decode it to sensor_msgs/Image before"
        )
    source, semicolon, rest = (part.strip() for part in text.partition(";"))
    if not semicolon:  # an ordinary file in colour order
        return CompressedFormat(bayer=_bayer(source.split(" ")[0]))
    codec, _, target = (part.strip() for part in rest.partition("compressed"))
    if target and not (_ENCODING.match(target) or _OPENCV_TYPE.match(target)):
        return CompressedFormat(
            refusal=f"the picture's encoding, '{target[:40]}', is none of rgb, bgr, mono and Bayer"
        )
    handed_over = target or source
    order = RGB if _RED_FIRST.match(handed_over) else BGR
    remark = ""
    if target.startswith("mono") and _bayer(source):
        remark = (
            f"the publisher made the mosaic {source} grey ({target}) before it compressed it, so "
            "the colours are lost: have it send PNG or the debayered image, or set its "
            "'jpeg_compress_bayer'"
        )
    elif order == RGB:
        remark = (
            f"compressed images of {handed_over}: red and blue are exchanged, as image_transport "
            "does; if that is wrong, the publisher sends ordinary pictures and should say 'jpeg' "
            "or 'png'"
        )
    return CompressedFormat(
        order, _bayer(handed_over), codec == "jpeg" and source.endswith("16"), remark=remark
    )


def _bayer(encoding: str) -> str:
    """The pattern of a Bayer encoding, empty for others."""
    match = _ENCODING.match(encoding)
    return (match and match[1]) or ""
