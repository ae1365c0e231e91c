# SPDX-License-Identifier: Apache-2.0
"""``backend: auto`` goes on with the next candidate, wherever and however one fails."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_backends import CPU, METADATA, Strided, select

from anomaly_seg_ros.errors import AnomalySegError, ExportError
from anomaly_seg_ros.inference.backends import onnxruntime_backend, openvino_backend, selection
from anomaly_seg_ros.inference.backends.compiled import CompiledBackend
from anomaly_seg_ros.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from anomaly_seg_ros.inference.backends.openvino_backend import OpenVinoBackend
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.inference.options import AUTO
from anomaly_seg_ros.inference.segmenter import Segmenter

BOTH = (OpenVinoBackend, OnnxRuntimeBackend)


class RuntimeOwnError(Exception):
    """What a runtime with its own exception types raises."""


# An error, and what must be readable of it.
ERRORS = [
    (ImportError("libtbb.so.12: cannot open shared object file"), "libtbb.so.12"),
    (
        ModuleNotFoundError("No module named 'packaging'", name="packaging"),
        "`pip install packaging`",
    ),
    (ModuleNotFoundError("No module named 'ml_dtypes'"), "`pip install ml_dtypes`"),
    (AttributeError("module 'openvino' has no attribute 'Core'"), "AttributeError: module"),
    (OSError("libopenvino.so: cannot open shared object file"), "libopenvino.so"),
    (RuntimeError("unsupported operator\nand a page of graph"), "unsupported operator"),
    (RuntimeOwnError("opset 99"), "RuntimeOwnError: opset 99"),
    (KeyError("axis"), "KeyError: 'axis'"),
    (TypeError("unexpected keyword"), "TypeError: unexpected"),
    (MemoryError(), "MemoryError"),
    (RecursionError("maximum recursion depth exceeded"), "maximum recursion"),
    (NotImplementedError(), "NotImplementedError"),
]


def raising(error: BaseException) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class BrokenImport:
    """Lets the import of a backend's module fail, as a damaged installation does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name.endswith((".openvino_backend", ".onnxruntime_backend")):
            raise self.error


def fail_import(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    for module in (openvino_backend, onnxruntime_backend):
        patch.delitem(sys.modules, module.__name__)
        patch.delattr(f"anomaly_seg_ros.inference.backends.{module.__name__.rsplit('.', 1)[1]}")
    patch.setattr(sys, "meta_path", [BrokenImport(error), *sys.meta_path])


def fail_construction(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    for backend in BOTH:
        patch.setattr(backend, "__init__", raising(error))


def fail_query(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """While the machine is asked what it can."""
    patch.setattr(openvino_backend, "multiplies_bf16", raising(error))
    patch.setattr(OnnxRuntimeBackend, "__init__", raising(error))


def fail_conversion(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    for backend in BOTH:
        patch.setattr(backend, "_convert", raising(error))


def fail_first_run(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    for backend in BOTH:
        patch.setattr(backend, "_convert", lambda *_: raising(error))


POINTS = (fail_import, fail_construction, fail_query, fail_conversion, fail_first_run)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("error", "words"), ERRORS, ids=lambda v: type(v).__name__)
def test_any_error_at_any_point_passes_a_candidate_over(
    point: Callable, error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point(monkeypatch, error)
    segmenter = Segmenter(Strided(), METADATA, device="cpu", inference_size=(64, 96), backend=AUTO)
    assert segmenter.backend == "torch"
    first, second, last = segmenter.notes
    for name, note in (("openvino", first), ("onnxruntime", second)):
        assert note.startswith(f"backend '{name}' is not used: ")
        assert words in note
        assert "\n" not in note
    assert last == "backend 'torch' (fp32) takes its place"
    segmenter.predict(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure(
    point: Callable, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    point(monkeypatch, stop())
    with pytest.raises(stop):
        select(AUTO)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_cannot_be_true_pass_a_candidate_over(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = np.full((1, 19, 16, 24), value, np.float32)
    for backend in BOTH:
        monkeypatch.setattr(backend, "_convert", lambda *_: lambda _pixels: [broken])
    chosen = select(AUTO, "fp32")
    assert chosen.backend.name == "torch"
    assert "backend 'openvino': its logits are not finite" in chosen.notes[0]


def test_outputs_of_another_shape_pass_a_candidate_over(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.zeros((19, 16, 24), np.float32)
    for backend in BOTH:
        monkeypatch.setattr(backend, "_convert", lambda *_: lambda _pixels: [flat])
    chosen = select(AUTO, "fp32")
    assert chosen.backend.name == "torch"
    assert "logits of shape (19, 16, 24)" in chosen.notes[0]


def test_only_when_none_works_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_conversion(monkeypatch, RuntimeOwnError("no kernel\nmore"))
    monkeypatch.setattr(TorchBackend, "__call__", raising(RuntimeError("no algorithm\nmore")))
    with pytest.raises(ExportError) as caught:
        select(AUTO, "fp32")
    assert str(caught.value) == (
        "backend 'auto': none runs this network (openvino: RuntimeOwnError: no kernel; "
        "onnxruntime: RuntimeOwnError: no kernel; torch: RuntimeError: no algorithm)"
    )


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("point", [fail_import, fail_construction, fail_conversion])
def test_a_named_backend_says_which_package_is_missing(
    name: str, point: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of openvino 2026.4.1: its convert_model imports what it does not require."""
    point(monkeypatch, ModuleNotFoundError("No module named 'packaging'", name="packaging"))
    with pytest.raises(AnomalySegError) as caught:  # noqa: PT012 - one of the two raises
        backend = select(name, "fp32").backend
        backend(np.zeros((1, 64, 96, 3), np.uint8), selection.Stopwatch(CPU))
    message = str(caught.value)
    assert message.startswith(f"backend '{name}'")
    assert "the Python package 'packaging' is missing: `pip install packaging`" in message
    assert "\n" not in message


def test_torch_that_lacks_memory_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node goes on in tiles: the trial of torch is small, and not the whole frame."""
    fail_conversion(monkeypatch, RuntimeOwnError("no kernel"))
    shapes = []
    run = TorchBackend.__call__

    def large_frames_fail(
        self: TorchBackend, frames: np.ndarray, watch: selection.Stopwatch
    ) -> object:
        shapes.append(frames.shape)
        if frames.shape[1] > 128:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, frames, watch)

    monkeypatch.setattr(TorchBackend, "__call__", large_frames_fail)
    chosen = select(AUTO, "fp32", size=(512, 1024))
    assert chosen.backend.name == "torch"
    assert shapes == [(1, 64, 64, 3)]
    assert not isinstance(chosen.backend, CompiledBackend)
