"""What the ``format`` of a ``sensor_msgs/CompressedImage`` says about its pixels.

image_transport writes ``<encoding>; <codec> compressed <target encoding>``, such as
``rgb8; jpeg compressed bgr8``: the camera's encoding, and the one in which the pixels were handed
to OpenCV's encoder. An empty target means that they were handed over as they came. OpenCV takes
three channels for BGR whatever they are, so a picture of target ``rgb8`` has red and blue swapped
for every other decoder. Drivers of their own mostly write the codec alone: an ordinary file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_ENCODING = re.compile(r"(?:rgba?|bgra?|mono|bayer_(rggb|bggr|gbrg|grbg))(?:8|16)$")
_RED_FIRST = re.compile(r"rgba?(?:8|16)$")
_OPENCV_TYPE = re.compile(r"(?:8|16|32)[usf]c[1-4]$")
_VIDEO = re.compile(r"\b(h\.?26[45]|hevc|avc|av1|vp[89]|mpeg-?[124])\b")
# More than any format has: a cache must not keep what a stranger puts there.
_LONGEST = 100
RGB, BGR = "rgb", "bgr"


@dataclass(frozen=True)
class CompressedFormat:
    """How to read a picture once it is decoded.

    Attributes:
        order: ``bgr`` for an ordinary file, ``rgb`` for one whose red and blue are swapped.
        bayer: Pattern of the mosaic that the picture is, such as ``rggb``; else empty.
        high_bytes: Whether 8-bit samples are the upper half of the camera's 16.
        refusal: Why it cannot be read, or empty.
        remark: What the receiver should know of it, or empty; one of few texts.
    """

    order: str = BGR
    bayer: str = ""
    high_bytes: bool = False
    refusal: str = ""
    remark: str = ""


def read_format(text: str) -> CompressedFormat:
    """Reads a format string of any origin.

    Args:
        text: Such as ``rgb8; jpeg compressed bgr8``, ``bayer_rggb8; png compressed ``, ``jpeg``.
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
    if not semicolon:  # an ordinary file, as far as the colours go
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
