"""Fires a plan at a running detector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tools.fault_replay.bench import Bench
from tools.fault_replay.events import EVENTS
from tools.fault_replay.frames import BAD_FORMS, GOOD_FORMS
from tools.fault_replay.plan import CHECKPOINT, Action

_LAST_SECOND = 2**31 - 1
_FIRST_SECOND = -(2**31)
_MOST_NANOSECONDS = 2**32 - 1


def fire(bench: Bench, plan: Iterable[Action], progress: Callable[[], None]) -> None:
    """Carries a plan out.

    Args:
        bench: With an active detector.
        plan: In order.
        progress: Called after each action.
    """
    for number, action in enumerate(plan):
        bench.ledger.situation = f"action {number}, {action.name}"
        started = time.monotonic()
        if action.name == CHECKPOINT:
            bench.checkpoint()
        elif action.name in EVENTS:
            EVENTS[action.name](bench, action.variant)
        else:
            _frame(bench, action.name, action.variant)
        bench.injected[action.name] += 1
        bench.spent[action.name] += time.monotonic() - started
        progress()
    bench.ledger.situation = ""


def _frame(bench: Bench, name: str, variant: int) -> None:
    if name in GOOD_FORMS or name in BAD_FORMS:
        bench.ask(bench.sender.choose(name, variant))
        return
    plain = bench.sender.choose("plain", variant)
    if name == "duplicated":
        bench.publish(plain)
        bench.ask(plain, bench.last_stamp)
    elif name == "reordered":
        first, second = bench.sender.next_stamp(), bench.sender.next_stamp()
        bench.publish(plain, second)
        bench.ask(plain, first)
    else:
        bench.ask(plain, _wrong_stamp(bench, name, variant))


def _wrong_stamp(bench: Bench, name: str, variant: int) -> tuple[int, int]:
    """(sec, nanosec) as the message's fields can hold them, whatever they mean."""
    nanosec = variant % 10**9
    stamps = {
        "stamp repeated": bench.last_stamp,
        "stamp going back": (1 + variant % 900, nanosec),
        "stamp far in the future": (_LAST_SECOND - variant % 2, nanosec),
        "stamp zero": (0, 0),
        "stamp negative": (_FIRST_SECOND + variant % 1000, nanosec),
        "stamp with 4 s of nanoseconds": (1, _MOST_NANOSECONDS - variant % 1000),
    }
    return stamps[name]
