# SPDX-License-Identifier: Apache-2.0
"""The plan of a replay: from a seed to a sequence of good frames and faults."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass

from anomaly_seg_ros.errors import ParameterError
from tools.fault_replay.frames import BAD_FORMS, GOOD_FORMS

# Kind of single frame -> its share of all frames; the rest is plain.
FRAME_SHARES: dict[str, float] = {
    **{name: 0.03 for name in GOOD_FORMS if name != "plain"},
    **dict.fromkeys(BAD_FORMS, 0.01),
    "duplicated": 0.01,
    "reordered": 0.01,
    "stamp repeated": 0.005,
    "stamp going back": 0.005,
    "stamp far in the future": 0.005,
    "stamp zero": 0.005,
    "stamp negative": 0.005,
    "stamp with 4 s of nanoseconds": 0.005,
}
# Event, of several frames or none -> average number of frames between two of them.
EVENT_INTERVALS: dict[str, int] = {
    "burst": 100,
    "stall": 1000,
    "garbage bytes": 500,
    "garbage camera_info": 500,
    "camera_info": 500,
    "bad frame alone": 5000,
    "valid parameter": 200,
    "refused parameter": 200,
    "unknown parameter": 500,
    "rate limited": 10000,
    "subscriber comes or goes": 150,
    "nobody subscribes": 5000,
    "publisher re-created": 6000,
    "incompatible publisher": 5000,
    "incompatible subscriber": 3000,
    "input QoS changed": 10000,
    "compressed input": 10000,
    "impossible transition": 500,
    "deactivated and activated": 4000,
    "deactivated under load": 4000,
    "cleaned up and configured": 8000,
    "transitions at random": 10000,
    "configure fails": 10000,
    "disabled and enabled": 5000,
    "out of memory": 6000,
    "inference slow": 3000,
    "inference stuck": 40000,
    "device lost": 10000,
    "publishing peer killed": 5000,
    "subscribing peer killed": 5000,
}
# Part of the plan where an event may occur, if not everywhere: a killed subscriber counts as
# subscribed for 20 s more, in which the node cannot notice that nobody subscribes.
_SPANS = {"nobody subscribes": (0.0, 0.7), "subscribing peer killed": (0.7, 1.0)}
_BURST = (5, 64)  # fewest and most frames of a burst
_SINGLE_SHARE = 0.66  # the other frames come in bursts
# A checkpoint waits until the node has dealt with every frame, and compares the sums.
CHECKPOINT = "checkpoint"
_CHECKPOINT_INTERVAL = 1000


@dataclass(frozen=True)
class Action:
    """One step of a plan.

    Attributes:
        name: A key of ``FRAME_SHARES`` or ``EVENT_INTERVALS``, ``plain`` or ``checkpoint``.
        variant: Number below 2**32 that chooses the details.
    """

    name: str
    variant: int


def make_plan(seed: int, frames: int, minimum: int = 3) -> list[Action]:
    """A plan of about this many frames or more.

    Args:
        seed: The same seed gives the same plan.
        frames: Frames in bursts and one by one; events publish some of their own on top.
        minimum: Least number of each kind of fault, however short the plan.

    Raises:
        ParameterError: Too few frames for ``minimum`` of each kind.
    """
    least = 2 * minimum * len(FRAME_SHARES)
    if frames < least:
        raise ParameterError(
            f"{frames} frames are too few for {minimum} faults of each kind; {least} would do"
        )
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    singles = round(_SINGLE_SHARE * frames)
    names = [
        name
        for name, share in FRAME_SHARES.items()
        for _ in range(max(minimum, round(share * singles)))
    ]
    names += ["plain"] * (singles - len(names))
    rng.shuffle(names)
    before: dict[int, list[str]] = {}
    for name, interval in EVENT_INTERVALS.items():
        first, last = (round(share * len(names)) for share in _SPANS.get(name, (0.0, 1.0)))
        for _ in range(max(minimum, round(frames / interval))):
            before.setdefault(rng.randrange(first, last), []).append(name)
    for position in range(_CHECKPOINT_INTERVAL, len(names), _CHECKPOINT_INTERVAL):
        before.setdefault(position, []).append(CHECKPOINT)
    plan = []
    for position, name in enumerate(names):
        actions = (*before.get(position, ()), name)
        plan.extend(Action(action, rng.getrandbits(32)) for action in actions)
    plan.append(Action(CHECKPOINT, 0))
    return plan


def burst_size(variant: int) -> int:
    """Number of frames in the burst of this variant."""
    least, most = _BURST
    return least + variant % (most - least + 1)


def plan_hash(plan: Iterable[Action]) -> str:
    """SHA-256 of a plan, in hexadecimal."""
    digest = hashlib.sha256()
    for action in plan:
        digest.update(f"{action.name}:{action.variant}\n".encode())
    return digest.hexdigest()
