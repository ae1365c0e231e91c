# SPDX-License-Identifier: Apache-2.0
"""Which backend is taken, what is said about it, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from tiny_backends import CPU, METADATA, Strided, select

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import DeviceError, ExportError, ParameterError
from anomaly_seg_ros.inference.backends import openvino_backend, selection
from anomaly_seg_ros.inference.backends.selection import CPU_ORDER, Selection
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.inference.options import AUTO, ONNXRUNTIME, OPENVINO, TORCH
from anomaly_seg_ros.inference.segmenter import Segmenter


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages that are not found although they may be installed."""
    names: set[str] = set()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name)
    )
    return names


class Named:
    """A backend that runs, or fails."""

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        self.name, self.precision, self.error = name, "fp32", error
        self.shapes: list[tuple[int, ...]] = []
        self.logits = torch.zeros(1, 19, 16, 24)

    def __call__(self, frames: np.ndarray, watch: object) -> NetworkOutput:
        self.shapes.append(frames.shape)
        if self.error is not None:
            raise self.error
        return NetworkOutput(torch.empty(0), self.logits)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> dict[str, Named]:
    """Backends that stand in for the real ones."""
    backends = {name: Named(name) for name in CPU_ORDER}
    monkeypatch.setattr(selection, "_build", lambda name, *_: backends[name])
    return backends


def test_auto_takes_the_first_that_runs_without_a_word(built: dict[str, Named]) -> None:
    chosen = select(AUTO)
    assert chosen == Selection(built[OPENVINO], ())
    assert built[OPENVINO].shapes == [(1, 64, 96, 3)]
    assert not built[ONNXRUNTIME].shapes


@pytest.mark.parametrize(
    "error", [ExportError("an operator is missing"), DeviceError("it failed at 64 x 96")]
)
def test_auto_announces_what_it_falls_back_to(built: dict[str, Named], error: Exception) -> None:
    built[OPENVINO].error = error
    chosen = select(AUTO)
    assert chosen.backend is built[ONNXRUNTIME]
    assert chosen.notes == (
        f"backend 'openvino' is not used: {error}",
        "backend 'onnxruntime' (fp32) takes its place",
    )


def test_auto_ends_with_torch(built: dict[str, Named]) -> None:
    built[OPENVINO].error = built[ONNXRUNTIME].error = ExportError("an operator is missing")
    chosen = select(AUTO)
    assert chosen.backend is built[TORCH]
    assert built[TORCH].shapes == [(1, 64, 64, 3)]  # a small frame: it takes every network
    assert [note.split("'")[1] for note in chosen.notes] == [OPENVINO, ONNXRUNTIME, TORCH]


def test_auto_without_the_packages(missing: set[str]) -> None:
    missing |= {"openvino", "onnx"}
    chosen = select(AUTO)
    assert (chosen.backend.name, chosen.backend.precision) == (TORCH, "fp32")
    assert "pip install openvino" in chosen.notes[0]
    assert "pip install onnx onnxscript onnxruntime" in chosen.notes[1]
    assert chosen.notes[2] == "backend 'torch' (fp32) takes its place"


def test_auto_reaches_the_segmenter(missing: set[str]) -> None:
    missing |= {"openvino", "onnxscript"}
    segmenter = Segmenter(Strided(), METADATA, device="cpu", backend=AUTO)
    assert segmenter.backend == TORCH
    assert "openvino" in segmenter.notes[0]
    assert Segmenter(Strided(), METADATA, device="cpu", backend=TORCH).notes == ()


@pytest.mark.parametrize("name", [OPENVINO, ONNXRUNTIME])
def test_a_named_backend_that_is_missing_is_refused(name: str, missing: set[str]) -> None:
    missing |= {"openvino", "onnxruntime"}
    with pytest.raises(ParameterError, match=f"backend '{name}' is not installed: pip install"):
        select(name)


@pytest.mark.parametrize("name", [OPENVINO, ONNXRUNTIME])
def test_backends_of_the_cpu_are_refused_on_a_gpu(name: str) -> None:
    with pytest.raises(ParameterError, match=f"'{name}' runs on the CPU only, not on cuda:0"):
        select(name, device=torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [
        (OPENVINO, "fp16", "precision 'fp16': backend 'openvino' has fp32 and bf16"),
        (ONNXRUNTIME, "bf16", "precision 'bf16': backend 'onnxruntime' has fp32"),
        (TORCH, "fp16", "precision 'fp16' needs a CUDA device"),
        ("tensorrt", "fp32", "backend 'tensorrt': expected one of auto, torch"),
    ],
)
def test_what_a_backend_lacks_is_refused(name: str, precision: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        select(name, precision)


def test_auto_passes_over_backends_without_the_precision() -> None:
    """ONNX Runtime has no bf16 on the CPU; where OpenVINO is missing, torch has it."""
    with pytest.MonkeyPatch.context() as patch:
        find = importlib.util.find_spec
        patch.setattr(
            importlib.util, "find_spec", lambda n, *_: None if n == "openvino" else find(n)
        )
        chosen = select(AUTO, "bf16")
    assert (chosen.backend.name, chosen.backend.precision) == (TORCH, "bf16")


def test_auto_is_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(selection, "_build", lambda name, *_: built.append(name) or Named(name))
    assert select(AUTO, device=torch.device("cuda:0")).notes == ()
    assert built == [TORCH]


@pytest.mark.parametrize("offered", [True, False])
def test_openvino_takes_bf16_where_the_cpu_multiplies_it(
    offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "multiplies_bf16", lambda: offered)
    assert select(OPENVINO).backend.precision == ("bf16" if offered else "fp32")
    assert select(OPENVINO, "fp32").backend.precision == "fp32"


def test_a_network_that_does_not_stand_bf16_runs_in_it_only_if_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_backend, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(Strided, "bf16", False)
    assert select(OPENVINO).backend.precision == "fp32"
    assert select(OPENVINO, "bf16").backend.precision == "bf16"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_reach_the_runtimes(threads: int) -> None:
    frame = np.zeros((1, 64, 96, 3), np.uint8)
    backend = select(OPENVINO, num_threads=threads).backend
    backend(frame, selection.Stopwatch(CPU))
    compiled = backend._programs[frame.shape].args[0].get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    options = select(ONNXRUNTIME, num_threads=threads).backend._options
    assert options.intra_op_num_threads == threads


def test_torch_is_the_plain_one() -> None:
    assert isinstance(select(TORCH).backend, TorchBackend)
