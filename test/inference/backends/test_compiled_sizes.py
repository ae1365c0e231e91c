"""Programs are made once a size, and only a few are kept."""

from __future__ import annotations

import gc
import weakref

import pytest

from anomaly_seg_ros.inference.backends.compiled import CompiledSizes


class Program:
    """Something large."""


@pytest.fixture
def made() -> list[tuple[int, ...]]:
    return []


def sizes(made: list[tuple[int, ...]]) -> CompiledSizes[Program]:
    return CompiledSizes(lambda shape: made.append(shape) or Program())


def test_once_a_size(made: list[tuple[int, ...]]) -> None:
    programs = sizes(made)
    assert programs[1, 2] is programs[1, 2]
    assert programs[2, 1] is not programs[1, 2]
    assert made == [(1, 2), (2, 1)]


def test_the_one_not_used_for_longest_goes(made: list[tuple[int, ...]]) -> None:
    programs = sizes(made)
    for number in (0, 1, 2, 3, 0, 4, 0, 1):
        assert isinstance(programs[number,], Program)
    assert made == [(0,), (1,), (2,), (3,), (4,), (1,)]


def test_how_many_are_kept(made: list[tuple[int, ...]]) -> None:
    programs = CompiledSizes(lambda shape: made.append(shape) or Program(), kept=2)
    for number in (0, 1, 0, 2, 0, 1):
        assert isinstance(programs[number,], Program)
    assert made == [(0,), (1,), (2,), (1,)]


@pytest.mark.slow
def test_memory_is_free_before_the_next_is_made() -> None:
    alive: list[weakref.ref[Program]] = []
    most = 0

    def make(_: tuple[int, ...]) -> Program:
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        program = Program()
        alive.append(weakref.ref(program))
        return program

    programs = CompiledSizes(make)
    for number in range(20):
        programs[number,]
    assert most == 3


def test_a_size_that_fails_is_tried_again() -> None:
    attempts = []

    def make(shape: tuple[int, ...]) -> Program:
        attempts.append(shape)
        if len(attempts) == 1:
            raise MemoryError
        return Program()

    programs = CompiledSizes(make)
    with pytest.raises(MemoryError):
        programs[1,]
    assert isinstance(programs[1,], Program)
