# SPDX-License-Identifier: Apache-2.0
"""Events on topics: messages too fast, too late or broken; peers that come, go, die or do not fit.

Each function takes the bench and the action's variant, and leaves an active node whose answers
are heard. :data:`EVENTS` has them by the names that they have in a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from tools.fault_replay import frames
from tools.fault_replay.bench import FEW, Bench
from tools.fault_replay.ledger import Header
from tools.fault_replay.link import CAMERA_INFO_TOPIC, DEEP, DETECTOR, IMAGE_TOPIC

_WHOLE_JPEG = 4 << 6  # for Sender.compressed
_BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


def stall(bench: Bench, variant: int) -> None:
    """Publishes nothing for up to 0.12 s."""
    bench.link.spin(0.02 + variant % 100 / 1000)


@contextmanager
def _publisher(bench: Bench, kind: type, topic: str) -> Iterator[Publisher]:
    """Another publisher, which the detector has found."""
    publisher = bench.link.node.create_publisher(kind, topic, DEEP)
    bench.link.spin_until(publisher.get_subscription_count, f"the node finds {topic}")
    yield publisher
    bench.link.spin(0.01)
    bench.link.node.destroy_publisher(publisher)


def garbage_bytes(bench: Bench, variant: int) -> None:
    """Three images as bytes that no serialiser writes."""
    with _publisher(bench, Image, IMAGE_TOPIC) as rogue:
        for index in range(3):
            template = bench.sender.choose("plain", variant)
            stamp = bench.sender.next_stamp()
            broken = frames.garbage(template.stamped(*stamp), variant + index)
            # One names another encoding of the same layout and may be read; the rest must not.
            content = template.content if frames.may_be_read(variant + index) else None
            bench.ledger.ask(Header(*stamp, template.frame_id), content, "uncertain")
            rogue.publish(broken)


def garbage_camera_info(bench: Bench, variant: int) -> None:
    """A CameraInfo as bytes that no serialiser writes."""
    with _publisher(bench, CameraInfo, CAMERA_INFO_TOPIC) as rogue:
        serialised = bench.sender.choose("plain", variant).stamped(1, 1)
        rogue.publish(frames.garbage(serialised, variant))


def camera_info(bench: Bench, variant: int) -> None:
    """A CameraInfo with any size and coefficients that are not numbers."""
    with _publisher(bench, CameraInfo, CAMERA_INFO_TOPIC) as publisher:
        message = CameraInfo(
            width=variant % 4000, height=variant % 7, distortion_model="plumb_bob"
        )
        message.d = [float("nan")] * (variant % 20)
        publisher.publish(message)


def bad_frame_alone(bench: Bench, variant: int) -> None:
    """One bad frame must be counted as received and bad, or throttled, and as nothing else."""
    bench.settle_alone()
    before = bench.link.totals.copy()
    names = list(frames.BAD_FORMS)
    form = names[variant % len(names)]
    bench.publish(bench.sender.choose(form, variant))
    bench.settle()
    new = {k: n - before[k] for k, n in bench.link.totals.items() if n != before[k]}
    if new not in ({"received": 1, "bad": 1}, {"received": 1, "throttled": 1}):
        bench.ledger.violate(f"one bad frame ({form}) was counted as {new}")


def compressed_input(bench: Bench, variant: int) -> None:
    """Whole and broken JPEG and PNG images in place of raw ones."""
    bench.settle()
    bench.deactivate()
    bench.set_parameter("image_transport", "compressed")
    raw = bench.publisher
    bench.publisher = bench.link.node.create_publisher(
        CompressedImage, f"{IMAGE_TOPIC}/compressed", DEEP
    )
    bench.activate(bench.sender.compressed(_WHOLE_JPEG))
    for index in range(4 * FEW):
        bench.ask(bench.sender.compressed(variant + 41 * index))
    bench.settle()
    bench.deactivate()
    bench.link.node.destroy_publisher(bench.publisher)
    bench.publisher = raw
    bench.set_parameter("image_transport", "raw")
    bench.activate()


def subscriber_comes_or_goes(bench: Bench, variant: int) -> None:
    """A subscriber appears on some output, or one leaves."""
    bench.viewers.come_or_go(variant)


def nobody_subscribes(bench: Bench, variant: int) -> None:
    """Without a subscriber no frame may be processed."""
    bench.settle_alone()
    bench.forget_answers()
    bench.viewers.remove_all()
    bench.detector.command("watch", on=False)
    before = bench.link.totals["unwatched"]

    def is_noticed() -> bool:
        bench.ask_plain(1, variant, fate="uncertain")
        bench.link.spin(0.05)
        return bench.link.totals["unwatched"] > before

    bench.link.spin_until(is_noticed, "the node notices that nobody subscribes")
    bench.settle()
    processed = bench.link.totals["processed"]
    bench.ask_plain(FEW, variant)
    bench.settle()
    if bench.link.totals["processed"] > processed:
        bench.ledger.violate("frames that nobody asked for were processed")
    bench.detector.command("watch", on=True)
    bench.open()


def incompatible_subscriber(bench: Bench, variant: int) -> None:
    """A subscriber requests a durability that the node does not offer."""
    subscription = bench.viewers.add_incompatible(variant)
    bench.ask_plain(FEW, variant)
    bench.viewers.remove(subscription)


def publisher_re_created(bench: Bench, variant: int) -> None:
    """The camera's publisher is replaced by one of another QoS."""
    bench.settle()
    depth = (1, 10, 1000)[variant % 3]
    durability = (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)[(variant >> 4) % 2]
    reliable = ReliabilityPolicy.RELIABLE
    bench.replace_publisher(QoSProfile(depth=depth, durability=durability, reliability=reliable))
    bench.open()
    # A short queue may be overrun before the node has taken everything.
    bench.ask_plain(FEW, variant, fate="uncertain")
    bench.settle()
    bench.replace_publisher(DEEP)
    bench.open()


def incompatible_publisher(bench: Bench, variant: int) -> None:
    """A best-effort publisher, which the reliable subscription does not hear."""
    usual = bench.publisher
    bench.publisher = bench.new_publisher(_BEST_EFFORT)
    bench.link.spin(0.1)
    for index in range(3):
        bench.publish(bench.sender.choose("plain", variant + index), fate="unheard")
    bench.link.node.destroy_publisher(bench.publisher)
    bench.publisher = usual


def input_qos_changed(bench: Bench, variant: int) -> None:
    """The node subscribes with best effort and a queue of one, then as before."""
    bench.settle()
    for reliability, depth in (("best_effort", 1), ("reliable", DEEP.depth)):
        bench.deactivate()
        bench.set_parameter("qos_reliability", reliability)
        bench.set_parameter("qos_depth", depth)
        bench.activate()
        if depth == 1:
            bench.ask_plain(FEW, variant, fate="uncertain")
            bench.settle()


def publishing_peer_killed(bench: Bench, variant: int) -> None:
    """Another camera starts publishing; the next checkpoint kills it."""
    bench.forget_answers()
    bench.peers.start_camera(IMAGE_TOPIC)


def subscribing_peer_killed(bench: Bench, variant: int) -> None:
    """Another process subscribes to an image output; a later checkpoint kills it."""
    names = [name for name, kind in FRAME_TOPICS.items() if kind is Image]
    bench.peers.start_viewer(f"{DETECTOR}/{names[variant % len(names)]}")


EVENTS: dict[str, Callable[[Bench, int], None]] = {
    "burst": Bench.burst,
    "stall": stall,
    "garbage bytes": garbage_bytes,
    "garbage camera_info": garbage_camera_info,
    "camera_info": camera_info,
    "bad frame alone": bad_frame_alone,
    "compressed input": compressed_input,
    "subscriber comes or goes": subscriber_comes_or_goes,
    "nobody subscribes": nobody_subscribes,
    "incompatible subscriber": incompatible_subscriber,
    "publisher re-created": publisher_re_created,
    "incompatible publisher": incompatible_publisher,
    "input QoS changed": input_qos_changed,
    "publishing peer killed": publishing_peer_killed,
    "subscribing peer killed": subscribing_peer_killed,
}
