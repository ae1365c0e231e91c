"""A device without memory, a slow one, and one that is gone."""

from __future__ import annotations

from tools.fault_replay import link as graph
from tools.fault_replay.bench import Bench
from tools.fault_replay.events import SOME, event

_STUCK_S = 4.0  # longer than the node waits for its thread


@event("out of memory")
def _out_of_memory(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    tries_tiles = variant % 2 == 1
    bench.set_parameter("on_out_of_memory", "tile" if tries_tiles else "fail", accepted=True)
    before = bench.link.totals["failed"]
    fired = bench.host.command("out of memory", times=1 + variant % 3)["fired"]
    # In tiles the labels at the seams may be others.
    bench.ledger.compares_labels = not tries_tiles
    bench.ask_plain(SOME, variant)
    bench.settle()
    now = bench.host.command("out of memory", times=0)["fired"]
    failed = bench.link.totals["failed"] - before
    failures = now["out of memory"] - fired["out of memory"]
    if failed > failures or (failed < failures and not tries_tiles):
        bench.ledger.violate(f"{failed} frames failed of {failures} failures")
    if tries_tiles:  # it keeps to the tiles until it is configured again
        bench.deactivate()
        bench.clean_up()
        bench.configure()
        bench.activate()
        bench.ledger.compares_labels = True


@event("inference slow")
def _inference_slow(bench: Bench, variant: int) -> None:
    bench.host.command("stall", seconds=0.1 + variant % 500 / 1000)
    bench.burst(variant)
    bench.set_parameter("threshold", variant % 101 / 100, accepted=True)
    if bench.link.get_state() != "active":
        bench.ledger.violate("a slow inference changed the node's state")


@event("inference stuck")
def _inference_stuck(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    before = bench.link.totals["failed"]
    bench.set_parameter("stuck_after", 0.1, accepted=True)
    bench.host.command("stall", seconds=_STUCK_S)
    stuck = bench.publish(bench.sender.choose("plain", variant), fate="uncertain")
    bench.link.spin(0.2)
    bench.forget_answers()
    bench.link.change_state(graph.DEACTIVATE)
    bench.fate = "unheard"
    if (state := bench.link.get_state()) != "unconfigured":
        bench.ledger.violate(f"deactivated with a frame that is stuck, the node is {state}")
    bench.ledger.withdraw(stuck)
    bench.close_epoch()
    if bench.link.totals["failed"] != before + 1:
        bench.ledger.violate("a frame that was left behind does not count as failed")
    bench.set_parameter("stuck_after", 30.0, accepted=True)
    bench.configure()
    bench.activate()


@event("device lost")
def _device_lost(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    recovers = variant % 2 == 1
    bench.set_parameter("recovery_attempts", int(recovers), accepted=True)
    bench.forget_answers()
    bench.fate = "uncertain"
    before = bench.link.totals["failed"]
    bench.host.command("lose device")

    def has_left() -> bool:
        bench.ask_plain(1, variant)
        return bench.link.state == "unconfigured"

    bench.link.spin_until(has_left, "the node leaves `active` when its device is lost")
    failed = bench.link.totals["failed"] - before
    bench.end_epoch()
    if not failed:
        bench.ledger.violate("no frame failed on a lost device")
    if recovers:
        bench.link.spin_until(lambda: bench.link.state == "active", "the node recovers by itself")
        bench.open()
    else:
        bench.fate = "unheard"
        bench.configure()
        bench.activate()
