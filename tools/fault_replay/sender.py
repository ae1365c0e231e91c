"""Publishes frames and enters each into the ledger.

A message is serialised once and stamped in its serialised form, since building a message in
Python takes as long as the detector takes for the whole frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header as HeaderMessage

from anomaly_seg_ros.bags.messages import RawImage
from tools.fault_replay import frames
from tools.fault_replay.ledger import Content, Header, Ledger

# Published and not yet counted by the detector; less than the depth of every queue.
MOST_OUTSTANDING = 300
FRAME_IDS = ("camera_optical_frame", "left", "c", "a/long/name/of/a/frame" * 8)
FIRST_STAMP_S = 1000
_STAMP = struct.Struct("<iI")  # behind the four bytes that name the encoding
_STAMP_AT = 4
_FORM_VARIANTS = 64
_TEMPLATE_BYTES = 64 * 2**20


class Template(NamedTuple):
    """A serialised message without its stamp.

    Attributes:
        serialised: The bytes.
        frame_id: In them.
        content: What it shows; None if it holds no usable image.
    """

    serialised: bytes
    frame_id: str
    content: Content | None

    def stamped(self, sec: int, nanosec: int) -> bytes:
        """The message with this stamp."""
        message = bytearray(self.serialised)
        _STAMP.pack_into(message, _STAMP_AT, sec, nanosec)
        return bytes(message)


class Sender:
    """Makes messages of pictures.

    Args:
        ledger: Is told of every frame before it is published.
        pictures: (H, W, 3) uint8 RGB each.

    Attributes:
        frames: How many were published.
    """

    def __init__(self, ledger: Ledger, pictures: Sequence[np.ndarray]) -> None:
        self._ledger = ledger
        self._pictures = pictures
        self._number = 0
        self.frames = 0
        most = max(32, _TEMPLATE_BYTES // max(4 * picture.size for picture in pictures))
        self.template = lru_cache(maxsize=most)(self._template)

    def next_stamp(self) -> tuple[int, int]:
        """(sec, nanosec), later than every one before it."""
        self._number += 1
        return FIRST_STAMP_S + self._number // 1000, self._number % 1000 * 1_000_000

    def choose(self, form: str, variant: int) -> Template:
        """A message of the named form; the number chooses picture, frame id and details."""
        detail = 0 if form == "plain" else (variant >> 16) % _FORM_VARIANTS
        picture = variant % len(self._pictures)
        return self.template(form, picture, FRAME_IDS[(variant >> 8) % len(FRAME_IDS)], detail)

    def send(
        self,
        publisher: Publisher,
        template: Template,
        fate: str,
        stamp: tuple[int, int] | None = None,
    ) -> Header:
        """Enters and publishes a frame.

        Args:
            publisher: Of the frame's type.
            template: What to publish.
            fate: See :meth:`Ledger.ask`.
            stamp: (sec, nanosec); None takes the next one.
        """
        stamp = self.next_stamp() if stamp is None else stamp
        header = Header(*stamp, template.frame_id)
        self._ledger.ask(header, template.content, fate)
        publisher.publish(template.stamped(*stamp))
        self.frames += 1
        return header

    def note(
        self, stamp: tuple[int, int], frame_id: str, content: Content | None, fate: str
    ) -> None:
        """Enters a frame that somebody else publishes."""
        self._ledger.ask(Header(*stamp, frame_id), content, fate)

    def compressed(self, variant: int) -> Template:
        """A CompressedImage: a JPEG or PNG, whole, cut, empty, or something else."""
        index = variant % len(self._pictures)
        bgr = cv2.cvtColor(self._pictures[index], cv2.COLOR_RGB2BGR)
        suffix = (".jpg", ".png")[(variant >> 4) % 2]
        data = cv2.imencode(suffix, bgr)[1].tobytes()
        height, width = bgr.shape[:2]
        content: Content | None = Content(height, width, f"{index} {suffix}")
        broken = (data[: len(data) // 2], b"", b"GIF89a", data[:20] + b"\xff" * 500)
        choice = (variant >> 6) % (2 * len(broken))
        if choice < len(broken):
            data, content = broken[choice], None
        message = CompressedImage(header=HeaderMessage(frame_id=FRAME_IDS[0]), format=suffix[1:])
        message.data.frombytes(data)
        return Template(serialize_message(message), FRAME_IDS[0], content)

    def _template(self, form: str, picture: int, frame_id: str, variant: int) -> Template:
        made = frames.make(form, self._pictures[picture], variant)
        content = None
        if made.good:
            content = Content(made.image.height, made.image.width, f"{picture} {made.pixels}")
        return Template(serialize_message(image_message(made.image, frame_id)), frame_id, content)


def image_message(image: RawImage, frame_id: str) -> Image:
    """The fields as a message, whether they fit each other or not; the stamp is zero."""
    message = Image(
        header=HeaderMessage(frame_id=frame_id),
        height=image.height,
        width=image.width,
        encoding=image.encoding,
        is_bigendian=image.is_bigendian,
        step=image.step,
    )
    message.data.frombytes(memoryview(np.ascontiguousarray(image.data)).cast("B"))
    return message
