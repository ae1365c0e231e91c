# SPDX-License-Identifier: Apache-2.0
"""Events inside the node: lifecycle and ``~/enable``, parameters, and a device that fails.

Each function takes the bench and the action's variant, and leaves an active node whose answers
are heard. :data:`EVENTS` has them by the names that they have in a plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue

from tools.fault_replay.bench import FEW, Bench
from tools.fault_replay.link import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE
from tools.fault_replay.network import CALIBRATED

# Transitions that an active node does not have: other states', private ones of rcl, no ones.
_IMPOSSIBLE = (
    Transition.TRANSITION_CREATE,
    CONFIGURE,
    CLEANUP,
    ACTIVATE,
    Transition.TRANSITION_DESTROY,
    Transition.TRANSITION_ON_CONFIGURE_SUCCESS,
    Transition.TRANSITION_ON_ERROR_ERROR,
    99,
    255,
)
_NEXT_STATE = {
    ("unconfigured", CONFIGURE): "inactive",
    ("inactive", ACTIVATE): "active",
    ("inactive", CLEANUP): "unconfigured",
    ("active", DEACTIVATE): "inactive",
}
_REFUSED_PARAMETERS: tuple[tuple[str, object], ...] = (
    ("threshold", 1.5),
    ("threshold", float("nan")),
    ("threshold", True),
    ("threshold", "high"),
    ("overlay_alpha", -0.1),
    ("jpeg_quality", 0),
    ("jpeg_quality", True),
    ("max_rate", [1.0, 2.0]),
    ("max_rate", float("inf")),
    ("score_method", "magic"),
    ("score_method", "dense_hybrid"),
    ("model", "default"),
    ("image_transport", "compressed"),
    ("qos_depth", 5),
    ("autostart", "yes"),
    ("device", [b"c", b"p", b"u"]),
)
_NUMBER = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.5)
_UNKNOWN_PARAMETERS = (
    ("treshold", _NUMBER),
    ("", _NUMBER),
    ("x" * 10000, _NUMBER),
    ("threshold", ParameterValue(type=ParameterType.PARAMETER_NOT_SET)),
    ("threshold", ParameterValue(type=77)),
    ("\N{SNOWMAN} / ..", _NUMBER),
)
_STUCK_S = 4.0  # longer than the node waits for its thread


def impossible_transition(bench: Bench, variant: int) -> None:
    """A transition that an active node does not have."""
    which = _IMPOSSIBLE[variant % len(_IMPOSSIBLE)]
    bench.refuse_transition(which, ("", "configure", "nonsense")[(variant >> 8) % 3], "active")


def deactivated_and_activated(bench: Bench, variant: int) -> None:
    """Frames of an inactive node."""
    bench.settle()
    bench.deactivate()
    bench.ask_plain(FEW, variant)
    bench.activate()


def deactivated_under_load(bench: Bench, variant: int) -> None:
    """Deactivated with a burst in its queue."""
    bench.settle()
    bench.fate = "uncertain"
    bench.burst(variant)
    bench.deactivate()
    bench.activate()


def cleaned_up_and_configured(bench: Bench, variant: int) -> None:
    """Frames of an unconfigured node."""
    bench.settle()
    bench.stop()
    bench.ask_plain(FEW, variant)
    bench.start()


def transitions_at_random(bench: Bench, variant: int) -> None:
    """A walk over the lifecycle, with impossible transitions, until it ends at active."""
    bench.settle_alone()
    bench.forget_answers()
    usual = (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP)
    state, steps = "active", random.Random(variant)  # noqa: S311 - reproducible, not secret
    while steps.random() < 0.9 or state != "active":
        which = steps.choice((*usual, *usual, *_IMPOSSIBLE))
        then = _NEXT_STATE.get((state, which))
        bench.fate = "uncertain" if "active" in (state, then) else "unheard"
        bench.ask_plain(2, variant)
        if then is None:
            bench.refuse_transition(which, "", state)
            continue
        bench.transition(which, then)
        state = then
        if which == CLEANUP:
            bench.close_epoch()
        elif which == CONFIGURE:
            bench.link.next_report(state)
    bench.open()


def configure_fails(bench: Bench, variant: int) -> None:
    """Configured with a model that does not exist."""
    bench.settle()
    bench.stop()
    weights = bench.link.get_value("model")
    bench.set_parameter("model", "/nowhere/model.safetensors")
    if bench.link.change_state(CONFIGURE):
        bench.ledger.violate("configure succeeded without a model")
    bench.set_parameter("model", weights)
    bench.start()


def disabled_and_enabled(bench: Bench, variant: int) -> None:
    """Frames of a disabled node."""
    bench.settle()
    bench.fate = "uncertain"
    bench.link.enable(False)
    bench.fate = "unheard"
    bench.ask_plain(FEW, variant)
    bench.link.enable(True)
    bench.open()


def valid_parameter(bench: Bench, variant: int) -> None:
    """A parameter that may change while the node is active."""
    share = variant % 101 / 100
    choices: tuple[tuple[str, object], ...] = (
        ("threshold", share),
        ("target_tpr", 0.01 + 0.89 * share if variant % 2 else 0.0),
        ("overlay_alpha", share),
        ("jpeg_quality", 1 + variant % 100),
        ("max_rate", (0.0, 1000.0)[variant % 2]),
        ("score_method", ("auto", *CALIBRATED)[variant % (1 + len(CALIBRATED))]),
    )
    name, value = choices[(variant >> 8) % len(choices)]
    bench.set_parameter(name, value)
    if name == "max_rate":
        bench.is_throttled = value != 0.0


def refused_parameter(bench: Bench, variant: int) -> None:
    """A value out of range or of another type, or a parameter that is fixed while active."""
    bench.set_parameter(*_REFUSED_PARAMETERS[variant % len(_REFUSED_PARAMETERS)], accepted=False)


def unknown_parameter(bench: Bench, variant: int) -> None:
    """A name or a type that does not exist."""
    name, value = _UNKNOWN_PARAMETERS[variant % len(_UNKNOWN_PARAMETERS)]
    accepted, _ = bench.link.set_parameter(ParameterMessage(name=name, value=value))
    if accepted:
        bench.ledger.violate(f"parameter {name[:20]!r} of no type was accepted")


def rate_limited(bench: Bench, variant: int) -> None:
    """Frames faster than ``max_rate``."""
    bench.settle()
    before = bench.link.totals["throttled"]
    bench.set_parameter("max_rate", 1.0)
    bench.is_throttled = True
    bench.ask_plain(FEW, variant)
    bench.settle()
    if bench.link.totals["throttled"] == before:
        bench.ledger.violate("a rate limit of 1 Hz let everything pass")
    bench.set_parameter("max_rate", 0.0)
    bench.is_throttled = False


def out_of_memory(bench: Bench, variant: int) -> None:
    """One to three inferences run out of memory; the node fails these frames or tries tiles."""
    bench.settle_alone()
    tries_tiles = variant % 2 == 1
    bench.set_parameter("on_out_of_memory", "tile" if tries_tiles else "fail")
    before = bench.link.totals["failed"]
    fired = bench.detector.command("out of memory", times=1 + variant % 3)["fired"]
    # With tiles the labels at the seams may differ.
    bench.ledger.compares_labels = not tries_tiles
    bench.ask_plain(FEW, variant)
    bench.settle()
    now = bench.detector.command("out of memory", times=0)["fired"]
    failed = bench.link.totals["failed"] - before
    failures = now["out of memory"] - fired["out of memory"]
    if failed > failures or (failed < failures and not tries_tiles):
        bench.ledger.violate(f"{failed} frames failed of {failures} failures")
    if tries_tiles:  # the node keeps to tiles until it is configured again
        bench.stop()
        bench.start()
        bench.ledger.compares_labels = True


def inference_slow(bench: Bench, variant: int) -> None:
    """One inference takes up to 0.6 s while frames and a parameter arrive."""
    bench.detector.command("stall", seconds=0.1 + variant % 500 / 1000)
    bench.burst(variant)
    bench.set_parameter("threshold", variant % 101 / 100)
    if bench.link.get_state() != "active":
        bench.ledger.violate("a slow inference changed the node's state")


def inference_stuck(bench: Bench, variant: int) -> None:
    """Deactivated while an inference does not end: the node gives the frame up."""
    bench.settle_alone()
    before = bench.link.totals["failed"]
    bench.set_parameter("stuck_after", 0.1)
    bench.detector.command("stall", seconds=_STUCK_S)
    stuck = bench.publish(bench.sender.choose("plain", variant), fate="uncertain")
    bench.link.spin(0.2)
    bench.forget_answers()
    bench.link.change_state(DEACTIVATE)
    bench.fate = "unheard"
    if (state := bench.link.get_state()) != "unconfigured":
        bench.ledger.violate(f"deactivated with a frame that is stuck, the node is {state}")
    bench.ledger.withdraw(stuck)
    bench.close_epoch()
    if bench.link.totals["failed"] != before + 1:
        bench.ledger.violate("a frame that was left behind does not count as failed")
    bench.set_parameter("stuck_after", 30.0)
    bench.start()


def device_lost(bench: Bench, variant: int) -> None:
    """Every inference fails until the network is built again, by the node itself or by us."""
    bench.settle_alone()
    recovers = variant % 2 == 1
    bench.set_parameter("recovery_attempts", int(recovers))
    bench.forget_answers()
    bench.fate = "uncertain"
    before = bench.link.totals["failed"]
    bench.detector.command("lose device")

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
        bench.start()


EVENTS: dict[str, Callable[[Bench, int], None]] = {
    "impossible transition": impossible_transition,
    "deactivated and activated": deactivated_and_activated,
    "deactivated under load": deactivated_under_load,
    "cleaned up and configured": cleaned_up_and_configured,
    "transitions at random": transitions_at_random,
    "configure fails": configure_fails,
    "disabled and enabled": disabled_and_enabled,
    "valid parameter": valid_parameter,
    "refused parameter": refused_parameter,
    "unknown parameter": unknown_parameter,
    "rate limited": rate_limited,
    "out of memory": out_of_memory,
    "inference slow": inference_slow,
    "inference stuck": inference_stuck,
    "device lost": device_lost,
}
