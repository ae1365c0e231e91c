"""Publishers and subscribers that come, go, die, or do not fit."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from tools.fault_replay.bench import Bench
from tools.fault_replay.events import SOME, event
from tools.fault_replay.link import DEEP

_BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@event("subscriber comes or goes")
def _subscriber(bench: Bench, variant: int) -> None:
    bench.viewers.come_or_go(variant)


@event("nobody subscribes")
def _nobody(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    bench.forget_answers()
    bench.viewers.remove_all()
    bench.host.command("watch", on=False)
    before = bench.link.totals["unwatched"]

    def is_noticed() -> bool:
        bench.ask_plain(1, variant, fate="uncertain")
        bench.link.spin(0.05)
        return bench.link.totals["unwatched"] > before

    bench.link.spin_until(is_noticed, "the node notices that nobody subscribes")
    bench.settle()
    before = bench.link.totals.copy()
    bench.ask_plain(SOME, variant)
    bench.settle()
    if bench.link.totals["processed"] > before["processed"]:
        bench.ledger.violate("frames that nobody asked for were processed")
    bench.host.command("watch", on=True)
    bench.open()


@event("incompatible subscriber")
def _incompatible_subscriber(bench: Bench, variant: int) -> None:
    subscription = bench.viewers.add_incompatible(variant)
    bench.ask_plain(SOME, variant)
    bench.viewers.remove(subscription)


@event("publisher re-created")
def _publisher_re_created(bench: Bench, variant: int) -> None:
    bench.settle()
    depth = (1, 10, 1000)[variant % 3]
    durability = (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)[(variant >> 4) % 2]
    reliable = ReliabilityPolicy.RELIABLE
    bench.replace_publisher(QoSProfile(depth=depth, durability=durability, reliability=reliable))
    bench.open()
    # A short queue may be overrun before the node has everything.
    bench.ask_plain(SOME, variant, fate="uncertain")
    bench.settle()
    bench.replace_publisher(DEEP)
    bench.open()


@event("incompatible publisher")
def _incompatible_publisher(bench: Bench, variant: int) -> None:
    usual = bench.publisher
    bench.publisher = bench.new_publisher(_BEST_EFFORT)
    bench.link.spin(0.1)
    for index in range(3):
        bench.publish(bench.sender.choose("plain", variant + index), fate="unheard")
    bench.link.node.destroy_publisher(bench.publisher)
    bench.publisher = usual


@event("input QoS changed")
def _input_qos(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.deactivate()
    bench.set_parameter("qos_reliability", "best_effort", accepted=True)
    bench.set_parameter("qos_depth", 1, accepted=True)
    bench.activate()
    bench.ask_plain(SOME, variant, fate="uncertain")
    bench.settle()
    bench.deactivate()
    bench.set_parameter("qos_reliability", "reliable", accepted=True)
    bench.set_parameter("qos_depth", DEEP.depth, accepted=True)
    bench.activate()


@event("publishing peer killed")
def _camera_peer(bench: Bench, variant: int) -> None:
    bench.forget_answers()
    bench.peers.start_camera()


@event("subscribing peer killed")
def _viewer_peer(bench: Bench, variant: int) -> None:
    bench.peers.start_viewer(variant)
