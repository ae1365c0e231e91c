"""Lifecycle transitions and ``~/enable``, possible and impossible."""

from __future__ import annotations

import random

from lifecycle_msgs.msg import Transition

from tools.fault_replay import link as graph
from tools.fault_replay.bench import Bench
from tools.fault_replay.events import SOME, event

_USUAL = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)
# What an active node has not, beside its own deactivate: private ones of rcl, and no ones.
_IMPOSSIBLE = (
    Transition.TRANSITION_CREATE,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DESTROY,
    Transition.TRANSITION_ON_CONFIGURE_SUCCESS,
    Transition.TRANSITION_ON_ERROR_ERROR,
    99,
    255,
)
_GRAPH = {
    ("unconfigured", Transition.TRANSITION_CONFIGURE): "inactive",
    ("inactive", Transition.TRANSITION_ACTIVATE): "active",
    ("inactive", Transition.TRANSITION_CLEANUP): "unconfigured",
    ("active", Transition.TRANSITION_DEACTIVATE): "inactive",
}


@event("impossible transition")
def _impossible_transition(bench: Bench, variant: int) -> None:
    which = _IMPOSSIBLE[variant % len(_IMPOSSIBLE)]
    bench.refuse_transition(which, ("", "configure", "nonsense")[(variant >> 8) % 3], "active")


@event("deactivated and activated")
def _deactivated(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.deactivate()
    bench.ask_plain(SOME, variant)
    bench.activate()


@event("deactivated under load")
def _deactivated_under_load(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.fate = "uncertain"
    bench.burst(variant)
    bench.deactivate()
    bench.activate()


@event("cleaned up and configured")
def _cleaned_up(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.deactivate()
    bench.clean_up()
    bench.ask_plain(SOME, variant)
    bench.configure()
    bench.activate()


@event("transitions at random")
def _random_transitions(bench: Bench, variant: int) -> None:
    bench.peers.kill_all()
    bench.settle()
    bench.forget_answers()
    state, steps = "active", random.Random(variant)  # noqa: S311 - reproducible, not secret
    while steps.random() < 0.9 or state != "active":
        which = steps.choice((*_USUAL, *_USUAL, *_IMPOSSIBLE))
        then = _GRAPH.get((state, which))
        bench.fate = "uncertain" if state == "active" or then == "active" else "unheard"
        bench.ask_plain(2, variant)
        if then is None:
            bench.refuse_transition(which, "", state)
            continue
        bench.transition(which, then)
        state = then
        if which == graph.CLEANUP:
            bench.close_epoch()
        elif which == graph.CONFIGURE:
            bench.link.next_report(state)
    bench.open()


@event("configure fails")
def _configure_fails(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.deactivate()
    bench.clean_up()
    weights = bench.link.get_value("model")
    bench.set_parameter("model", "/nowhere/model.safetensors", accepted=True)
    if bench.link.change_state(graph.CONFIGURE):
        bench.ledger.violate("configure succeeded without a model")
    bench.set_parameter("model", weights, accepted=True)
    bench.configure()
    bench.activate()


@event("disabled and enabled")
def _disabled(bench: Bench, variant: int) -> None:
    bench.settle()
    bench.fate = "uncertain"
    bench.link.enable(False)
    bench.fate = "unheard"
    bench.ask_plain(SOME, variant)
    bench.link.enable(True)
    bench.open()
