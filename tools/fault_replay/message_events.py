"""Messages that come too fast, too late, broken, or in another form."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, CompressedImage

from tools.fault_replay import frames
from tools.fault_replay.bench import Bench
from tools.fault_replay.events import SOME, event
from tools.fault_replay.link import CAMERA_INFO_TOPIC, DEEP, IMAGE_TOPIC

_WHOLE_JPEG = 4 << 6  # for Sender.compressed


@event("burst")
def _burst(bench: Bench, variant: int) -> None:
    bench.burst(variant)


@event("stall")
def _stall(bench: Bench, variant: int) -> None:
    bench.link.spin(0.02 + variant % 100 / 1000)


@event("garbage bytes")
def _garbage_bytes(bench: Bench, variant: int) -> None:
    rogue = bench.new_publisher(DEEP)
    bench.link.spin_until(rogue.get_subscription_count, "the node finds another publisher")
    for index in range(3):
        template = bench.sender.choose("plain", variant)
        stamp = bench.sender.next_stamp()
        broken = frames.garbage(template.stamped(*stamp), variant + index)
        # One that claims another encoding of the same layout may be read; the rest must not.
        content = template.content if frames.may_be_read(variant + index) else None
        bench.sender.note(stamp, template.frame_id, content, "uncertain")
        rogue.publish(broken)
    bench.link.spin(0.01)
    bench.link.node.destroy_publisher(rogue)


@event("garbage camera_info")
def _garbage_camera_info(bench: Bench, variant: int) -> None:
    rogue = bench.link.node.create_publisher(CameraInfo, CAMERA_INFO_TOPIC, DEEP)
    bench.link.spin_until(rogue.get_subscription_count, "the node finds the camera_info")
    serialised = bench.sender.choose("plain", variant).stamped(1, 1)
    rogue.publish(frames.garbage(serialised, variant))
    bench.link.spin(0.01)
    bench.link.node.destroy_publisher(rogue)


@event("camera_info")
def _camera_info(bench: Bench, variant: int) -> None:
    publisher = bench.link.node.create_publisher(CameraInfo, CAMERA_INFO_TOPIC, DEEP)
    bench.link.spin_until(publisher.get_subscription_count, "the node finds the camera_info")
    message = CameraInfo(width=variant % 4000, height=variant % 7, distortion_model="plumb_bob")
    message.d = [float("nan")] * (variant % 20)
    publisher.publish(message)
    bench.link.spin(0.01)
    bench.link.node.destroy_publisher(publisher)


@event("bad frame alone")
def _bad_frame_alone(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    before = bench.link.totals.copy()
    names = list(frames.BAD_FORMS)
    form = names[variant % len(names)]
    bench.publish(bench.sender.choose(form, variant))
    bench.settle()
    new = {k: n - before[k] for k, n in bench.link.totals.items() if n != before[k]}
    if new not in ({"received": 1, "bad": 1}, {"received": 1, "throttled": 1}):
        bench.ledger.violate(f"one bad frame ({form}) was counted as {new}")


@event("compressed input")
def _compressed_input(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.deactivate()
    bench.set_parameter("image_transport", "compressed", accepted=True)
    raw = bench.publisher
    bench.publisher = bench.link.node.create_publisher(
        CompressedImage, f"{IMAGE_TOPIC}/compressed", DEEP
    )
    bench.activate(bench.sender.compressed(_WHOLE_JPEG))
    for index in range(4 * SOME):
        bench.ask(bench.sender.compressed(variant + 41 * index))
    bench.settle()
    bench.deactivate()
    bench.link.node.destroy_publisher(bench.publisher)
    bench.publisher = raw
    bench.set_parameter("image_transport", "raw", accepted=True)
    bench.activate()
