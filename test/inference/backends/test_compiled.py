# SPDX-License-Identifier: Apache-2.0
"""Programs are made once per size and a few are kept; errors of the runtimes become ours."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from tiny_backends import EXACT, METADATA, Strided

from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError, ExportError
from anomaly_seg_ros.inference.backends.compiled import (
    CompiledSizes,
    while_converting,
    while_running,
)
from anomaly_seg_ros.inference.segmenter import Segmenter

SHAPE = (1, 512, 1024, 3)
OPENVINO_WORDS = (
    "Exception from src/inference/src/cpp/core.cpp:118:\n"
    "Exception from src/inference/src/dev/plugin.cpp:54:\n"
    "Check 'unsupported.empty()' failed at src/core/model.cpp:77:\n"
    "Operation GridSample-17 is not supported\n\n"
)
ORT_MEMORY = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Cast node. "
    "Status Message: bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 9"
)


class Program:
    """Something large."""


def test_once_a_size() -> None:
    made: list[tuple[int, ...]] = []
    programs = CompiledSizes(lambda shape: made.append(shape) or Program())
    assert programs[1, 2] is programs[1, 2]
    assert programs[2, 1] is not programs[1, 2]
    assert made == [(1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({}, (0, 1, 2, 3, 0, 4, 0, 1), [0, 1, 2, 3, 4, 1]),
        ({"kept": 2}, (0, 1, 0, 2, 0, 1), [0, 1, 2, 1]),
    ],
)
def test_the_one_not_used_for_longest_goes(
    options: dict[str, int], asked: tuple[int, ...], expected: list[int]
) -> None:
    made: list[int] = []
    programs = CompiledSizes(lambda shape: made.append(*shape) or Program(), **options)
    for number in asked:
        assert isinstance(programs[number,], Program)
    assert made == expected


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


@pytest.mark.parametrize(
    ("manager", "kind", "words"),
    [
        (while_converting, ExportError, "the network cannot be converted"),
        (while_running, DeviceError, "the network failed"),
    ],
)
def test_errors_of_runtimes_become_ours(manager: object, kind: type, words: str) -> None:
    expected = f"^backend 'openvino': {words} at 512 x 1024: Operation GridSample"
    with (
        pytest.raises(kind, match=expected) as caught,
        manager("openvino", SHAPE, (RuntimeError,)),
    ):
        raise RuntimeError(OPENVINO_WORDS)
    assert not isinstance(caught.value, DeviceMemoryError)


@pytest.mark.parametrize("manager", [while_converting, while_running])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # The node goes on with smaller tiles after these, and only after these.
        (RuntimeError(ORT_MEMORY), DeviceMemoryError),
        (RuntimeError("std::bad_alloc"), DeviceMemoryError),
        (MemoryError(), DeviceMemoryError),
        (KeyError("a bug"), KeyError),
    ],
)
def test_out_of_memory_is_told_apart_and_bugs_pass(
    manager: object, error: Exception, expected: type
) -> None:
    with pytest.raises(expected), manager("onnxruntime", SHAPE, (RuntimeError,)):
        raise error


def test_errors_without_words_show_their_type() -> None:
    with pytest.raises(ExportError, match="AssertionError"):  # noqa: SIM117
        with while_converting("openvino", SHAPE, (AssertionError,)):
            raise AssertionError


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_the_real_runtime_raises_is_ours(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of one size, fed with another."""
    segmenter = Segmenter(Strided(), METADATA, EXACT, backend=backend)
    programs = segmenter._runner._programs
    monkeypatch.setitem(programs._programs, (1, 32, 32, 3), programs[1, 64, 96, 3])
    with pytest.raises(DeviceError, match=f"backend '{backend}': the network failed at 32 x 32"):
        segmenter.run_network(np.zeros((1, 32, 32, 3), np.uint8))
