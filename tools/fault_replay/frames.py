# SPDX-License-Identifier: Apache-2.0
"""Good frames in many forms, and damaged ones: whatever a camera driver could publish.

A form takes an RGB picture and a number that chooses among its variants, and returns the fields
of a sensor_msgs/Image. The same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anomaly_seg_ros.bags.messages import RawImage

PADDING = 13  # bytes after each row: odd, so that no sample is aligned
_HUGE = 2**32 - 1
_GARBAGES = 10
_UNKNOWN_ENCODINGS = ("rgb7", "", "RGB8", "jpeg", "\N{SNOWMAN}", "x" * 5000)
_TOO_WIDE_ENCODINGS = ("rgba8", "rgb16", "32FC3", "bgra16")
_OTHER_SIZES = ((16, 16), (48, 32), (33, 101), (1, 1), (64, 96), (7, 300))


@dataclass(frozen=True)
class Form:
    """One frame to publish.

    Attributes:
        image: Its fields.
        good: Whether a detector must be able to read it.
        pixels: Name of what a reader sees; frames of equal ``pixels`` must get equal labels.
    """

    image: RawImage
    good: bool
    pixels: str


def pictures(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """``count`` different (height, width, 3) uint8 RGB pictures: gradients under noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, height, dtype=np.uint8)[:, None, None]
    return [
        rng.integers(0, 90, (height, width, 3), np.uint8) + np.roll(ramp, index, 0)
        for index in range(count)
    ]


def raw_image(pixels: np.ndarray, encoding: str, big_endian: bool = False) -> RawImage:
    """An unpadded image of an (H, W) or (H, W, C) array."""
    pixels = np.ascontiguousarray(pixels)
    data = np.frombuffer(pixels.tobytes(), np.uint8)
    return RawImage(*pixels.shape[:2], encoding, big_endian, pixels.strides[0], data)


def padded(image: RawImage, padding: int = PADDING) -> RawImage:
    """The same image with ``padding`` bytes of noise after each row."""
    rows = image.data.reshape(image.height, image.step)
    noise = np.random.default_rng(padding).integers(0, 256, (image.height, padding), np.uint8)
    data = np.hstack([rows, noise]).ravel()
    return replace(image, step=image.step + padding, data=data)


def _in_encoding(rgb: np.ndarray, variant: int) -> tuple[RawImage, str]:
    """The picture in another encoding, and a name for the pixels that this keeps."""
    wide = (rgb.astype(np.uint16) << 8) + 77  # a reader keeps the high byte
    alpha = np.full_like(rgb[..., :1], 9)
    even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    yuv = cv2.cvtColor(np.ascontiguousarray(even), cv2.COLOR_RGB2YUV_I420)
    luma = even.shape[0]
    nv12 = np.vstack([yuv[:luma], yuv[luma:].reshape(2, -1).T.reshape(luma // 2, even.shape[1])])
    choices: Sequence[Callable[[], tuple[RawImage, str]]] = (
        lambda: (raw_image(rgb[..., ::-1], "bgr8"), "rgb"),
        lambda: (raw_image(np.dstack([rgb, alpha]), "rgba8"), "rgb"),
        lambda: (raw_image(np.dstack([rgb[..., ::-1], alpha]), "bgra8"), "rgb"),
        lambda: (raw_image(wide.astype("<u2"), "rgb16"), "rgb"),
        lambda: (raw_image(wide.astype(">u2"), "rgb16", big_endian=True), "rgb"),
        lambda: (raw_image(rgb[..., 1], "mono8"), "green"),
        lambda: (raw_image(wide[..., 1].astype("<u2"), "mono16"), "green"),
        lambda: (raw_image(rgb[..., 1], "bayer_rggb8"), "bayer"),
        lambda: (raw_image(rgb[:, : rgb.shape[1] // 2 * 2, :2], "yuv422"), "yuv422"),
        lambda: (replace(raw_image(nv12, "nv12"), height=luma), "nv12"),
        lambda: (raw_image(rgb[..., ::-1].astype("<f4") / np.float32(255), "32FC3"), "float"),
    )
    return choices[variant % len(choices)]()


def _good(image: RawImage, pixels: str = "rgb") -> Form:
    return Form(image, True, f"{pixels} {image.height}x{image.width}")


def _plain(rgb: np.ndarray, variant: int) -> Form:
    return _good(raw_image(rgb, "rgb8"))


def _padded(rgb: np.ndarray, variant: int) -> Form:
    if variant % 2:
        image, pixels = _in_encoding(rgb, variant // 2 % 5)
        return _good(padded(image), pixels)
    return _good(padded(raw_image(rgb, "rgb8"), 1 + variant % 64))


def _other_encoding(rgb: np.ndarray, variant: int) -> Form:
    return _good(*_in_encoding(rgb, variant))


def _resized(rgb: np.ndarray, variant: int) -> Form:
    height, width = _OTHER_SIZES[variant % len(_OTHER_SIZES)]
    return _good(raw_image(cv2.resize(rgb, (width, height)), "rgb8"), "resized")


def _surplus(rgb: np.ndarray, variant: int) -> Form:
    """More bytes than the rows need, as drivers with fixed buffers send."""
    image = raw_image(rgb, "rgb8")
    rest = np.full(1 + variant % 1000, 255, np.uint8)
    return _good(replace(image, data=np.concatenate([image.data, rest])))


def _bad(image: RawImage) -> Form:
    return Form(image, False, "")


def _truncated(rgb: np.ndarray, variant: int) -> Form:
    image = raw_image(rgb, "rgb8")
    return _bad(replace(image, data=image.data[: variant % image.data.size]))


def _unknown_encoding(rgb: np.ndarray, variant: int) -> Form:
    return _bad(raw_image(rgb, _UNKNOWN_ENCODINGS[variant % len(_UNKNOWN_ENCODINGS)]))


def _wrong_encoding(rgb: np.ndarray, variant: int) -> Form:
    return _bad(raw_image(rgb, _TOO_WIDE_ENCODINGS[variant % len(_TOO_WIDE_ENCODINGS)]))


def _short_step(rgb: np.ndarray, variant: int) -> Form:
    image = raw_image(rgb, "rgb8")
    return _bad(replace(image, step=variant % image.step))


def _zero_size(rgb: np.ndarray, variant: int) -> Form:
    image = raw_image(rgb, "rgb8")
    sizes = ({"height": 0}, {"width": 0}, {"height": 0, "width": 0, "step": 0})
    changes = sizes[variant % len(sizes)]
    return _bad(replace(image, **changes, data=image.data[: image.data.size * (variant % 2)]))


def _huge_size(rgb: np.ndarray, variant: int) -> Form:
    """Sizes whose product overflows 32 and 64 bits; nobody may allocate by them."""
    image = raw_image(rgb, "rgb8")
    sizes = ({"height": _HUGE}, {"height": _HUGE, "width": _HUGE}, {"step": _HUGE})
    return _bad(replace(image, **sizes[variant % len(sizes)]))


def _unusable_values(rgb: np.ndarray, variant: int) -> Form:
    values = rgb[..., 0].astype("<f4") / np.float32(255)
    values.flat[variant % values.size] = (np.nan, np.inf, -np.inf, 7.0, -0.5)[variant % 5]
    return _bad(raw_image(values, "32FC1"))


def _odd_size(rgb: np.ndarray, variant: int) -> Form:
    odd = np.zeros((rgb.shape[0] + 2, rgb.shape[1] // 2 * 2 + 1), np.uint8)
    return _bad(raw_image(odd, ("nv12", "nv21")[variant % 2]))


# The names are those of the plan, of faults.json and of docs/reliability.md.
GOOD_FORMS: dict[str, Callable[[np.ndarray, int], Form]] = {
    "plain": _plain,
    "padded rows": _padded,
    "other encoding": _other_encoding,
    "resized in mid-stream": _resized,
    "surplus data": _surplus,
}
BAD_FORMS: dict[str, Callable[[np.ndarray, int], Form]] = {
    "truncated": _truncated,
    "unknown encoding": _unknown_encoding,
    "encoding too wide for the data": _wrong_encoding,
    "short step": _short_step,
    "zero size": _zero_size,
    "huge size": _huge_size,
    "values not finite or out of range": _unusable_values,
    "odd size of 4:2:0": _odd_size,
}


def make(name: str, rgb: np.ndarray, variant: int) -> Form:
    """The picture in the named form.

    Args:
        name: A key of ``GOOD_FORMS`` or ``BAD_FORMS``.
        rgb: (H, W, 3) uint8, at least 2 x 2.
        variant: Not negative.
    """
    return (GOOD_FORMS | BAD_FORMS)[name](rgb, variant)


def garbage(serialised: bytes, variant: int) -> bytes:
    """A good serialised message, damaged as no serialiser would write it.

    Publish it from a publisher of its own: after an empty payload Fast DDS delivers nothing more
    of that publisher.
    """
    cut = 4 + variant % (len(serialised) - 4)
    noise = np.random.default_rng(variant).integers(0, 256, 20 + variant % 300, np.uint8)
    lengths = serialised[:12] + b"\xff\xff\xff\xff" + serialised[16:]
    choices = (
        b"\x00\x07" + serialised[2:],
        b"",
        serialised[:2],
        serialised[:4],
        serialised[:cut],
        serialised[:4] + b"\xff" * 60,
        serialised[:4] + noise.tobytes(),
        noise.tobytes(),
        lengths,
        b"\x00\x00" + serialised[2:],
    )
    return choices[variant % _GARBAGES]


def may_be_read(variant: int) -> bool:
    """Whether a reader may accept this garbage: it names another encoding of the same layout."""
    return variant % _GARBAGES == 0
