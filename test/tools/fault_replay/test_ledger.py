# SPDX-License-Identifier: Apache-2.0
"""The books notice everything that must not happen."""

from __future__ import annotations

import pytest

from tools.fault_replay.ledger import Content, Header, Ledger

SHOWN = Content(32, 48, "0 rgb")


def header(number: int) -> Header:
    return Header(1, number, "camera")


@pytest.fixture
def ledger():
    """Frames 1 (certain), 2 (uncertain) and 3 (unheard) are good, 4 is bad."""
    ledger = Ledger()
    for number, fate in ((1, "certain"), (2, "uncertain"), (3, "unheard")):
        ledger.ask(header(number), SHOWN, fate)
    ledger.ask(header(4), None, "certain")
    return ledger


def test_good_answers_are_no_violation(ledger):
    for number in (1, 2):
        ledger.answer("labels", "a", header(number), (32, 48), labels=7)
    ledger.answer("labels", "b", header(1), (32, 48))
    ledger.answer("overlay", "c", header(1))
    assert ledger.violations == []
    assert ledger.answers == {"labels": 3, "overlay": 1}


@pytest.mark.parametrize(
    ("number", "words"),
    [(3, "without listener"), (4, "bad frame was answered"), (9, "without a question")],
)
def test_wrong_answers(ledger, number, words):
    ledger.answer("labels", "a", header(number))
    (violation,) = ledger.violations
    assert words in violation


def test_a_second_answer(ledger):
    ledger.answer("labels", "a", header(1))
    ledger.answer("labels", "a", header(1))
    (violation,) = ledger.violations
    assert "answered 2 times" in violation


def test_a_frame_that_was_sent_twice_may_be_answered_twice(ledger):
    ledger.ask(header(1), SHOWN, "certain")
    for _ in range(2):
        ledger.answer("labels", "a", header(1))
    assert ledger.violation_count == 0
    ledger.answer("labels", "a", header(1))
    assert ledger.violation_count == 1


def test_who_left_and_came_back_may_hear_an_answer_again(ledger):
    ledger.answer("labels", "a", header(1))
    ledger.forget("a")
    ledger.answer("labels", "a", header(1))
    assert ledger.violation_count == 0


def test_an_answer_after_the_frame_was_given_up(ledger):
    ledger.withdraw(header(1))
    ledger.answer("labels", "a", header(1))
    assert "without a question" in ledger.violations[0]


def test_another_size_and_other_labels(ledger):
    ledger.answer("labels", "a", header(1), (48, 32))
    ledger.answer("labels", "b", header(1), (32, 48), labels=7)
    ledger.answer("labels", "a", header(2), (32, 48), labels=8)
    assert ["has size" in v for v in ledger.violations] == [True, False]
    assert "other labels" in ledger.violations[1]


@pytest.mark.parametrize(
    ("totals", "words"),
    [
        ({"received": 2, "processed": 1, "bad": 1}, None),
        ({"received": 3, "processed": 1, "dropped": 1, "bad": 1}, None),
        ({"received": 1, "processed": 1}, "sent were 2 to 3"),
        ({"received": 4, "processed": 3, "bad": 1}, "sent were 2 to 3"),
        ({"received": 3, "processed": 1, "bad": 1}, "do not close"),
        ({"received": 2, "processed": 2, "bad": 1}, "do not close"),
        ({"received": 2, "bad": 2}, "1 were"),
    ],
)
def test_sums(ledger, totals, words):
    ledger.check_sums(totals)
    if words is None:
        assert ledger.violations == []
        assert ledger.is_settled(totals)
    else:
        (violation,) = ledger.violations
        assert words in violation


def test_an_uncertain_frame_that_came_makes_up_for_no_certain_one(ledger):
    ledger.check_sums({"received": 3, "processed": 2, "bad": 1})
    ledger.ask(header(5), SHOWN, "certain")
    assert not ledger.is_settled({"received": 3, "processed": 2, "bad": 1})
    ledger.check_sums({"received": 3, "processed": 2, "bad": 1})
    assert "sent were 4 to 4" in ledger.violations[0]
    assert ledger.is_settled({"received": 4, "processed": 3, "bad": 1})


def test_a_closed_epoch_is_added_up(ledger):
    ledger.close_epoch({"received": 2, "processed": 1, "bad": 1})
    ledger.ask(header(5), SHOWN, "certain")
    ledger.close_epoch({"received": 1, "failed": 1})
    assert ledger.node["received"] == 3
    assert (ledger.node["processed"], ledger.node["bad"], ledger.node["failed"]) == (1, 1, 1)
    assert ledger.violations == []


def test_all_violations_are_counted_and_the_first_are_kept_with_their_situation():
    ledger = Ledger()
    ledger.situation = "action 3, burst"
    for number in range(200):
        ledger.answer("labels", "a", header(number))
    assert ledger.violation_count == 200
    assert len(ledger.violations) == 50
    assert ledger.violations[0].startswith("action 3, burst: labels: ")
