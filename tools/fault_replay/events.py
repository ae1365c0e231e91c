"""Every fault that is more than one frame, by the name that it has in a plan.

How they are made stands in the modules ``*_events``; each function takes the bench and the
action's variant, and leaves an active node whose answers are heard.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.fault_replay.bench import Bench

Event = Callable[[Bench, int], None]
EVENTS: dict[str, Event] = {}
SOME = 10  # frames around an event


def event(name: str) -> Callable[[Event], Event]:
    """Enters a function into :data:`EVENTS`."""

    def register(make: Event) -> Event:
        EVENTS[name] = make
        return make

    return register
