"""What users read when a runtime gives up."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_backends import METADATA, Strided

from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError, ExportError
from anomaly_seg_ros.inference.backends.compiled import while_converting, while_running
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


def test_a_converter_that_refuses() -> None:
    words = "^backend 'openvino': the network cannot be converted at 512 x 1024: Operation Grid"
    with (
        pytest.raises(ExportError, match=words),
        while_converting("openvino", SHAPE, (RuntimeError,)),
    ):
        raise RuntimeError(OPENVINO_WORDS)


def test_a_runtime_that_fails() -> None:
    words = "^backend 'openvino': the network failed at 512 x 1024: Operation Grid"
    with (
        pytest.raises(DeviceError, match=words) as caught,
        while_running("openvino", SHAPE, (RuntimeError,)),
    ):
        raise RuntimeError(OPENVINO_WORDS)
    assert not isinstance(caught.value, DeviceMemoryError)


@pytest.mark.parametrize("manager", [while_converting, while_running])
@pytest.mark.parametrize(
    "error", [RuntimeError(ORT_MEMORY), RuntimeError("std::bad_alloc"), MemoryError()]
)
def test_out_of_memory_is_told_apart(manager: object, error: Exception) -> None:
    """The node goes on with smaller tiles after this one, and only after this one."""
    with pytest.raises(DeviceMemoryError), manager("onnxruntime", SHAPE, (RuntimeError,)):
        raise error


@pytest.mark.parametrize("manager", [while_converting, while_running])
def test_other_errors_pass(manager: object) -> None:
    with pytest.raises(KeyError), manager("openvino", SHAPE, (RuntimeError,)):
        raise KeyError("a bug")


def test_errors_without_words_show_their_type() -> None:
    with pytest.raises(ExportError, match="AssertionError"):  # noqa: SIM117
        with while_converting("openvino", SHAPE, (AssertionError,)):
            raise AssertionError


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_the_real_runtime_raises_is_ours(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of one size, fed with another."""
    segmenter = Segmenter(Strided(), METADATA, device="cpu", precision="fp32", backend=backend)
    runner = segmenter._runner
    programs = runner._programs
    monkeypatch.setitem(programs._programs, (1, 32, 32, 3), programs[1, 64, 96, 3])
    with pytest.raises(DeviceError, match=f"backend '{backend}': the network failed at 32 x 32"):
        segmenter.run_network(np.zeros((1, 32, 32, 3), np.uint8))
