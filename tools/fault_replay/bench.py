# SPDX-License-Identifier: Apache-2.0
"""The test bench: what all faults are made with, and the book-keeping between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from anomaly_seg_ros.ros.qos import PublisherEventCallbacks
from tools.fault_replay import link as graph
from tools.fault_replay.detector_process import DetectorProcess
from tools.fault_replay.ledger import Header, Ledger
from tools.fault_replay.link import DEEP, IMAGE_TOPIC, REFERENCE, HungError, Link, Viewers
from tools.fault_replay.messages import MOST_OUTSTANDING, Sender, Template
from tools.fault_replay.peers import Peers
from tools.fault_replay.plan import burst_size

FEW = 10  # frames around an event
# How long the next frame waits for the answer to the last one, and where there may be none.
_ANSWER_S, _NO_ANSWER_S = 0.01, 0.001
_PROBE_S = 0.05
# Diagnostics without a change after which no frame is on its way any more.
_QUIET_REPORTS = 2


class Bench:
    """One detector under test, and everything around it.

    Args:
        detector: The detector's process.
        link: The connection to the detector.
        ledger: The books.
        sender: Makes the frames.

    Attributes:
        fate: What becomes of a frame that is published now, see :meth:`Ledger.ask`.
        is_throttled: Whether the node has been told to leave frames out.
        injected: How often each action of the plan was carried out.
        spent: Seconds that each kind of action took.
        answers: Counts while everybody was connected: ``processed`` by the node, ``published`` by
            its witness, ``heard`` by the reference, for which a newer answer may have overwritten
            one that it had no time to fetch.
    """

    def __init__(
        self, detector: DetectorProcess, link: Link, ledger: Ledger, sender: Sender
    ) -> None:
        self.detector = detector
        self.link = link
        self.ledger = ledger
        self.sender = sender
        self.peers = Peers(ledger)
        self.viewers = Viewers(link.node, ledger, self.peers.before_answer)
        self.fate = "unheard"
        self.is_throttled = False
        self.injected: Counter[str] = Counter()
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.last_stamp = (0, 0)
        self.publisher = self.new_publisher(DEEP)
        self.answers: Counter[str] = Counter()
        self._published = 0  # answers that the witness has heard
        self._unwitnessed = 0  # frames since it was asked
        self._lost = 0  # uncertain frames of this epoch that never reached the node
        # Counts from which on what the node processed must equal what the witness has heard.
        self._since: Counter[str] | None = None

    def new_publisher(self, profile: QoSProfile) -> Publisher:
        """Another publisher of frames."""
        silent = PublisherEventCallbacks(incompatible_qos=lambda event: None)
        return self.link.node.create_publisher(Image, IMAGE_TOPIC, profile, event_callbacks=silent)

    def replace_publisher(self, profile: QoSProfile) -> None:
        """Destroys the publisher of frames and makes another."""
        self.link.node.destroy_publisher(self.publisher)
        self.publisher = self.new_publisher(profile)

    # Frames.

    def publish(
        self, template: Template, stamp: tuple[int, int] | None = None, fate: str | None = None
    ) -> Header:
        """Publishes a frame without waiting for its answer; returns its header."""
        if self.fate == "certain":
            self.link.spin_until(self._has_room, "the node takes frames from its queue")
        header = self.sender.send(self.publisher, template, fate or self.fate, stamp)
        self._unwitnessed += 1
        if self._unwitnessed == MOST_OUTSTANDING:
            self._hear_witness()  # before its queue is full
        self.last_stamp = header.sec, header.nanosec
        return header

    def ask(
        self, template: Template, stamp: tuple[int, int] | None = None, fate: str | None = None
    ) -> None:
        """Publishes a frame and waits a little for its answer."""
        before = self.viewers.answers
        self.publish(template, stamp, fate)
        if template.content is not None and self.viewers.has_reference:
            unanswered = self.fate == "unheard" or self.is_throttled
            patience = _NO_ANSWER_S if unanswered else _ANSWER_S
            self.link.spin_while(lambda: self.viewers.answers == before, patience)
        else:
            self.link.spin(_NO_ANSWER_S)

    def ask_plain(self, count: int, variant: int, fate: str | None = None) -> None:
        """Publishes plain frames and waits a little for each answer."""
        for index in range(count):
            self.ask(self.sender.choose("plain", variant + index), fate=fate)

    def burst(self, variant: int) -> None:
        """Publishes plain frames without a pause."""
        for index in range(burst_size(variant)):
            self.publish(self.sender.choose("plain", variant + index))

    def _has_room(self) -> bool:
        return self._missing() - self._lost < MOST_OUTSTANDING

    def _missing(self) -> int:
        """Frames of this epoch that the node has not counted, lost ones among them."""
        sent = self.ledger.epoch.certain + self.ledger.epoch.uncertain
        return sent - self.link.totals["received"]

    # Between faults.

    def settle(self) -> None:
        """Waits until the node has dealt with every frame, and compares the books."""
        condition = self._is_settled if self.peers.is_publishing else self._quietness()
        self.link.spin_until(condition, "all frames worked off")
        totals = self.link.totals
        if self.peers.is_publishing:
            self.link.spin(0.05)  # its announcements may arrive later than the counts
        self.peers.enter_frames()
        self.ledger.check_sums(totals)
        self._lost = self._missing()  # nothing is on its way
        self._compare_answers()

    def settle_alone(self) -> None:
        """Kills the peers and settles."""
        self.peers.kill_all()
        self.settle()

    def _is_settled(self) -> bool:
        return self.ledger.is_settled(self.link.totals)

    def _quietness(self) -> Callable[[], bool]:
        """A condition: settled, and unchanged over some diagnostics."""
        seen: tuple[Counter[str], int] | None = None
        reports = unchanged = 0

        def is_quiet() -> bool:
            nonlocal seen, reports, unchanged
            if self.link.reports != reports:
                now = self.link.totals, self.viewers.answers
                unchanged = unchanged + 1 if now == seen else 0
                seen, reports = now, self.link.reports
            return unchanged >= _QUIET_REPORTS and self._is_settled()

        return is_quiet

    def _compare_answers(self) -> None:
        self._hear_witness()
        if self.peers.is_publishing or not self.viewers.has_reference or self.fate == "unheard":
            self._since = None
            return
        now = Counter(
            processed=self.link.totals["processed"],
            published=self._published,
            heard=self.viewers.answers,
        )
        if self._since is not None:
            new = {name: count - self._since[name] for name, count in now.items()}
            if new["published"] != new["processed"] or new["heard"] > new["published"]:
                self.ledger.violate(f"answers do not close: {new}")
            self.answers.update(new)
        self._since = now

    def _hear_witness(self) -> None:
        for fields in self.detector.command("witness")["headers"]:
            header = Header(*fields)
            self.peers.before_answer(header)
            self.ledger.answer(REFERENCE, "witness", header)
            self._published += 1
        self._unwitnessed = 0

    def forget_answers(self) -> None:
        """Allows the reference to miss answers until :meth:`open`."""
        self._since = None

    def open(self, probe: Template | None = None) -> None:
        """Sends frames until one is answered: then all sides have found each other.

        Args:
            probe: The frame; a plain one if None.
        """
        if not self.viewers.has_reference:
            self.viewers.add_reference()
        self.forget_answers()
        self.fate = "uncertain"
        before = self.viewers.answers
        probe = self.sender.choose("plain", 0) if probe is None else probe

        def is_answered() -> bool:
            self.publish(probe)
            self.link.spin_while(lambda: self.viewers.answers == before, _PROBE_S)
            return self.viewers.answers > before

        self.link.spin_until(is_answered, "a frame is answered")
        self.settle()
        self.fate = "certain"

    def checkpoint(self) -> None:
        """Kills peers that have been at work, settles, and checks that the node is alive."""
        self.peers.kill_those_at_work()
        if self.fate == "certain":
            self.settle()
        self.detector.check_alive()

    # Parameters and lifecycle.

    def set_parameter(self, name: str, value: object, accepted: bool = True) -> None:
        """Sets a parameter and checks whether it is accepted."""
        done, reason = self.link.set_value(name, value)
        if done != accepted:
            what = "accepted" if done else f"refused ({reason})"
            self.ledger.violate(f"parameter {name} = {value!r} was {what}")

    def refuse_transition(self, which: int, label: str, state: str) -> None:
        """Requests a transition that this state does not have, and checks that nothing happens."""
        if self.link.change_state(which, label):
            self.ledger.violate(f"transition {which} '{label}' of a node that is {state} was made")
        if (now := self.link.get_state()) != state:
            self.ledger.violate(f"transition {which} '{label}' made {now} of {state}")

    def transition(self, which: int, expected: str) -> None:
        """Makes a transition that must succeed."""
        if not self.link.change_state(which):
            raise HungError(f"transition {which} to {expected} was refused")
        if (state := self.link.get_state()) != expected:
            self.ledger.violate(f"after transition {which} the node is {state}, not {expected}")

    def deactivate(self) -> None:
        """Deactivates; frames published afterwards have no listener."""
        self.fate = "uncertain"
        self.transition(graph.DEACTIVATE, "inactive")
        self.fate = "unheard"

    def activate(self, probe: Template | None = None) -> None:
        """Activates and opens, see :meth:`open`."""
        self.fate = "uncertain"
        self.transition(graph.ACTIVATE, "active")
        self.open(probe)

    def configure(self) -> None:
        """Configures an unconfigured node, whose counts begin anew."""
        self.transition(graph.CONFIGURE, "inactive")
        self.link.next_report("inactive")

    def start(self) -> None:
        """Configures and activates."""
        self.configure()
        self.activate()

    def stop(self) -> None:
        """Deactivates and cleans up, which closes the epoch."""
        self.deactivate()
        self.forget_answers()
        self.transition(graph.CLEANUP, "unconfigured")
        self.close_epoch()

    def close_epoch(self) -> None:
        """Enters the counts of a node that has just been cleaned up."""
        self.link.next_report("unconfigured")
        self.end_epoch()

    def end_epoch(self) -> None:
        """Enters the counts where the newest diagnostics are of an unconfigured node already."""
        self.peers.enter_frames()
        self.ledger.close_epoch(self.link.totals)
        self._lost = 0
