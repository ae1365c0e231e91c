# SPDX-License-Identifier: Apache-2.0
"""The books: frames published, answers heard, and whether the node's own counts agree. No ROS.

The fate of a frame: with reliable QoS, queues deeper than the number of frames on their way and
both sides connected, every frame reaches the node (``certain``). Around a connect or disconnect
the middleware may lose frames without telling anyone (``uncertain``): the node may or may not
receive them. Without a listener a frame must have no effect (``unheard``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

OUTCOMES = ("processed", "dropped", "throttled", "unwatched", "bad", "failed")
_MOST_VIOLATIONS = 50  # kept in words; all are counted


class Header(NamedTuple):
    """What identifies a frame: the stamp as the message has it, and the frame id."""

    sec: int
    nanosec: int
    frame_id: str


class Content(NamedTuple):
    """What a good frame shows: its size, and a name for its pixels."""

    height: int
    width: int
    pixels: str


@dataclass
class Epoch:
    """Counts from one ``configure`` to the next, as the node keeps its own.

    Attributes:
        certain, uncertain: Frames published, by fate.
        bad: Frames of both fates that hold no usable image.
        received: Uncertain frames known from the last check to have been received.
    """

    certain: int = 0
    uncertain: int = 0
    bad: int = 0
    received: int = 0


@dataclass
class Ledger:
    """The books of one run.

    Attributes:
        sent: Frames published: ``good`` and ``bad``, and the same frames by fate.
        answers: Answers by topic.
        node: The node's own counts, summed over all closed epochs.
        violations: The first violated guarantees, in words.
        violation_count: The number of all violations.
        checks: How often the sums were compared.
        situation: The current action; each violation begins with it.
        compares_labels: Whether the same pixels must get the same labels at the moment.
    """

    sent: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    node: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    checks: int = 0
    situation: str = ""
    compares_labels: bool = True

    def __post_init__(self) -> None:
        self.epoch = Epoch()
        self._questions: Counter[Header] = Counter()
        self._contents: dict[Header, set[Content]] = {}
        self._bad: set[Header] = set()
        self._unheard: set[Header] = set()
        self._heard: dict[str, Counter[Header]] = {}
        self._labels: dict[str, int] = {}

    def violate(self, what: str) -> None:
        """Records a violated guarantee."""
        self.violation_count += 1
        if len(self.violations) < _MOST_VIOLATIONS:
            self.violations.append(f"{self.situation}: {what}" if self.situation else what)

    def ask(self, header: Header, content: Content | None, fate: str) -> None:
        """Enters a frame before it is published.

        Args:
            header: Its header.
            content: What it shows; None for a bad frame.
            fate: ``certain``, ``uncertain`` or ``unheard``.
        """
        self.sent[fate] += 1
        self.sent["bad" if content is None else "good"] += 1
        if fate == "unheard":
            self._unheard.add(header)
            return
        if fate == "certain":
            self.epoch.certain += 1
        else:
            self.epoch.uncertain += 1
        if content is None:
            self.epoch.bad += 1
            self._bad.add(header)
        else:
            self._questions[header] += 1
            self._contents.setdefault(header, set()).add(content)

    def withdraw(self, header: Header) -> None:
        """Takes a frame back that the node has given up: an answer would come too late now."""
        self._questions[header] -= 1

    def answer(
        self,
        topic: str,
        listener: str,
        header: Header,
        size: tuple[int, int] | None = None,
        labels: int | None = None,
    ) -> None:
        """Checks an answer.

        Args:
            topic: The output's name.
            listener: Who heard it; nobody may hear an answer twice.
            header: The answer's header.
            size: (height, width) if the output is an image.
            labels: Checksum of the pixels if the output is the labels: the same pixels must
                always get the same labels.
        """
        self.answers[topic] += 1
        asked = self._questions.get(header, 0)
        if not asked:
            kind = "an answer without a question"
            if header in self._bad:
                kind = "a bad frame was answered"
            elif header in self._unheard:
                kind = "a frame without listener was answered"
            self.violate(f"{topic}: {kind}: {header}")
            return
        heard = self._heard.setdefault(listener, Counter())
        heard[header] += 1
        if heard[header] > asked:
            self.violate(f"{topic}: answered {heard[header]} times: {header}")
        contents = self._contents[header]
        if size is not None and size not in {(c.height, c.width) for c in contents}:
            self.violate(f"{topic}: {header} has size {size}, asked were {sorted(contents)}")
        if labels is not None and self.compares_labels and len(contents) == 1:
            (content,) = contents
            expected = self._labels.setdefault(content.pixels, labels)
            if labels != expected:
                self.violate(f"{topic}: {header}: other labels for the same pixels {content}")

    def forget(self, listener: str) -> None:
        """Forgets a listener that has left; another may have its name later."""
        self._heard.pop(listener, None)

    def is_settled(self, totals: Mapping[str, int]) -> bool:
        """Whether the node has received all that it must, and dealt with all of it."""
        received = totals.get("received", 0)
        due = self.epoch.certain + self.epoch.received
        return received >= due and received == _outcomes(totals)

    def check_sums(self, totals: Mapping[str, int]) -> None:
        """Compares the node's counts since ``configure`` with what was sent in this epoch."""
        self.checks += 1
        received, sent = totals.get("received", 0), self.epoch
        low, high = sent.certain + sent.received, sent.certain + sent.uncertain
        if not low <= received <= high:
            self.violate(f"received {received} frames, sent were {low} to {high}")
        sent.received = max(sent.received, received - sent.certain)
        if received != _outcomes(totals):
            self.violate(f"sums do not close: {dict(totals)}")
        if totals.get("bad", 0) > sent.bad:
            self.violate(f"{totals['bad']} frames counted as bad, {sent.bad} were")

    def close_epoch(self, totals: Mapping[str, int]) -> None:
        """Adds up the node's counts, which its next ``configure`` sets to zero."""
        self.check_sums(totals)
        self.node.update({name: totals.get(name, 0) for name in ("received", *OUTCOMES)})
        self.epoch = Epoch()


def _outcomes(totals: Mapping[str, int]) -> int:
    return sum(totals.get(name, 0) for name in OUTCOMES)
