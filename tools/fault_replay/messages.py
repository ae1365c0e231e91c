# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes: frames to publish, and what identifies an answer.

A message is serialised once and stamped in its serialised form, and of an answer only the header
is read: rclpy takes as long to build or read a message as the detector takes for the whole frame.
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

from tools.fault_replay import frames
from tools.fault_replay.ledger import Content, Header, Ledger

# Most frames published and not yet counted by the detector; below the depth of every queue.
MOST_OUTSTANDING = 300
FRAME_IDS = ("camera_optical_frame", "left", "c", "a/long/name/of/a/frame" * 8)
_FIRST_STAMP_S = 1000
# Fields of serialised messages, which begin with four bytes that name the encoding.
_STAMP = struct.Struct("<iI")
_HEADER = struct.Struct("<iII")  # sec, nanosec, length of the frame id with its zero
_SIZE = struct.Struct("<III")  # height, width, length of the encoding with its zero
_START = 4
_FORM_VARIANTS = 64
_TEMPLATE_BYTES = 64 * 2**20


def read_header(serialised: bytes) -> tuple[Header, int]:
    """The header at the start of a serialised message, and the offset of the next field."""
    sec, nanosec, length = _HEADER.unpack_from(serialised, _START)
    end = _START + _HEADER.size + length
    frame_id = bytes(serialised[end - length : end - 1]).decode()
    return Header(sec, nanosec, frame_id), _aligned(end)


def read_size(serialised: bytes, offset: int) -> tuple[tuple[int, int], int]:
    """(height, width) of a serialised Image, and the offset of its pixels.

    Args:
        serialised: The message.
        offset: Where its header ends. Padding between fields is not initialised.
    """
    height, width, length = _SIZE.unpack_from(serialised, offset)
    step = _aligned(offset + _SIZE.size + length + 1)  # is_bigendian is one byte
    return (height, width), step + 8


def _aligned(offset: int) -> int:
    return (offset + 3) // 4 * 4


class Template(NamedTuple):
    """A serialised message without its stamp.

    Attributes:
        serialised: The message.
        frame_id: Its frame id.
        content: What it shows; None if it holds no usable image.
    """

    serialised: bytes
    frame_id: str
    content: Content | None

    def stamped(self, sec: int, nanosec: int) -> bytes:
        """The message with this stamp."""
        message = bytearray(self.serialised)
        _STAMP.pack_into(message, _START, sec, nanosec)
        return bytes(message)


class Sender:
    """Turns pictures into messages, publishes them and enters each into the ledger.

    Args:
        ledger: Learns of every frame before it is published.
        pictures: (H, W, 3) uint8 RGB each.

    Attributes:
        frames: Frames published so far.
    """

    def __init__(self, ledger: Ledger, pictures: Sequence[np.ndarray]) -> None:
        self._ledger = ledger
        self._pictures = pictures
        self._number = 0
        self.frames = 0
        most = max(32, _TEMPLATE_BYTES // max(4 * picture.size for picture in pictures))
        self._cached_template = lru_cache(maxsize=most)(self._template)

    def next_stamp(self) -> tuple[int, int]:
        """A (sec, nanosec) later than all before it."""
        self._number += 1
        return _FIRST_STAMP_S + self._number // 1000, self._number % 1000 * 1_000_000

    def choose(self, form: str, variant: int) -> Template:
        """A message of the named form; ``variant`` chooses picture, frame id and details."""
        detail = 0 if form == "plain" else (variant >> 16) % _FORM_VARIANTS
        frame_id = FRAME_IDS[(variant >> 8) % len(FRAME_IDS)]
        return self._cached_template(form, variant % len(self._pictures), frame_id, detail)

    def send(
        self,
        publisher: Publisher,
        template: Template,
        fate: str,
        stamp: tuple[int, int] | None = None,
    ) -> Header:
        """Enters and publishes a frame.

        Args:
            publisher: Publishes messages of the template's type.
            template: The message.
            fate: See :meth:`Ledger.ask`.
            stamp: (sec, nanosec); the next one if None.
        """
        stamp = self.next_stamp() if stamp is None else stamp
        header = Header(*stamp, template.frame_id)
        self._ledger.ask(header, template.content, fate)
        publisher.publish(template.stamped(*stamp))
        self.frames += 1
        return header

    def compressed(self, variant: int) -> Template:
        """A CompressedImage: a whole, cut or empty JPEG or PNG, or something else."""
        index = variant % len(self._pictures)
        bgr = cv2.cvtColor(self._pictures[index], cv2.COLOR_RGB2BGR)
        suffix = (".jpg", ".png")[(variant >> 4) % 2]
        data = cv2.imencode(suffix, bgr)[1].tobytes()
        content: Content | None = Content(*bgr.shape[:2], f"{index} {suffix}")
        broken = (data[: len(data) // 2], b"", b"GIF89a", data[:20] + b"\xff" * 500)
        choice = (variant >> 6) % (2 * len(broken))
        if choice < len(broken):
            data, content = broken[choice], None
        message = CompressedImage(header=HeaderMessage(frame_id=FRAME_IDS[0]), format=suffix[1:])
        message.data.frombytes(data)
        return Template(serialize_message(message), FRAME_IDS[0], content)

    def _template(self, form: str, picture: int, frame_id: str, variant: int) -> Template:
        made = frames.make(form, self._pictures[picture], variant)
        image = made.image
        message = Image(  # whether its fields fit each other or not
            header=HeaderMessage(frame_id=frame_id),
            height=image.height,
            width=image.width,
            encoding=image.encoding,
            is_bigendian=image.is_bigendian,
            step=image.step,
        )
        message.data.frombytes(memoryview(np.ascontiguousarray(image.data)).cast("B"))
        content = Content(image.height, image.width, f"{picture} {made.pixels}")
        return Template(serialize_message(message), frame_id, content if made.good else None)
