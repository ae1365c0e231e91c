# SPDX-License-Identifier: Apache-2.0
"""Serialised messages that are none, from a publisher that sends bytes: the node stays up."""

from __future__ import annotations

import struct

import pytest
from detector_harness import stamped, street
from rclpy.serialization import serialize_message

from anomaly_seg_ros.ros.messages import image_message

FRAME = street(48, 80)
GOOD = serialize_message(image_message(FRAME, "rgb8", stamped(1.0, "cam")))
LENGTH_OF_DATA = struct.pack("<I", FRAME.nbytes)
LENGTH_OF_FRAME_ID = struct.pack("<I", len("cam") + 1)
MALFORMED = {
    "empty": b"",
    "less than an encapsulation header": GOOD[:3],
    "only the encapsulation header": GOOD[:4],
    "cut in the header": GOOD[:13],
    "cut in the data": GOOD[: len(GOOD) // 2],
    "more data than there are": GOOD.replace(LENGTH_OF_DATA, struct.pack("<I", 2**32 - 1), 1),
    "endless frame id": GOOD.replace(LENGTH_OF_FRAME_ID, struct.pack("<I", 2**31 - 1), 1),
    "big-endian by its header only": b"\x00\x00" + GOOD[2:],
    "noise": bytes(range(256)) * 40,
}
# This is a message; rclpy replaces what is no text.
NOT_UTF8 = GOOD.replace(b"cam", b"\xff\xfe\xfd", 1)


@pytest.mark.ros
def test_malformed_messages_are_dropped_and_the_next_frame_is_answered(start_detector):
    detector = start_detector(qos_reliability="reliable", qos_depth=10)
    detector.listen("labels")
    detector.wait_connected()
    for number, (what, message) in enumerate(MALFORMED.items()):
        detector.send(message)
        seconds = 10.0 + number
        detector.segment(FRAME, seconds)
        assert detector.wait_for("labels", seconds).header == stamped(seconds), what
    assert len(detector.received["labels"]) == len(MALFORMED)
    detector.send(NOT_UTF8)
    assert detector.wait_for("labels", 1.0).header.frame_id == "\N{REPLACEMENT CHARACTER}" * 3
