# SPDX-License-Identifier: Apache-2.0
"""torch.compile: its outputs, its folder of compiled code, and what it needs on a machine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_backends import CPU, EXACT, METADATA, Strided, frames, plain, select

from anomaly_seg_ros.errors import ExportError, ParameterError
from anomaly_seg_ros.inference.backends import torch_compile_backend
from anomaly_seg_ros.inference.backends.torch_compile_backend import check_compiler, keep_compiled
from anomaly_seg_ros.inference.options import TORCH_COMPILE
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.stopwatch import Stopwatch

REPOSITORY = Path(__file__).resolve().parents[3]
CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def needs_a_compiler() -> None:
    try:
        check_compiler(CPU)
    except ParameterError as error:
        pytest.skip(str(error))


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder on the path of programs, empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def install(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.usefixtures("needs_a_compiler")
def test_outputs_are_those_of_the_plain_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    segmenter = Segmenter(Strided(), METADATA, EXACT, backend=TORCH_COMPILE)
    assert (segmenter.backend, segmenter.precision) == (TORCH_COMPILE, "fp32")
    assert segmenter.notes == ()
    for size in [(64, 96), (32, 64), (64, 96)]:
        batch = frames(1, *size, seed=size[0])
        output, expected = segmenter.run_network(batch), plain(Strided(), METADATA, batch)
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(output.ood_logits, expected.ood_logits, rtol=0, atol=1e-3)
    batch = frames(3, 64, 96)
    torch.testing.assert_close(
        segmenter.run_network(batch).logits, plain(Strided(), METADATA, batch).logits,
        rtol=0, atol=1e-3,
    )  # fmt: skip
    assert {shape[0] for shape in segmenter._runner._shapes} == {1}
    assert list(tmp_path.rglob("*.cpp"))  # it compiled


@pytest.mark.slow
@pytest.mark.usefixtures("needs_a_compiler")
def test_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    backend = select(TORCH_COMPILE, "bf16").backend
    batch = frames(1, 64, 96)
    logits = backend(batch, Stopwatch(CPU)).logits
    expected = plain(Strided(), METADATA, batch).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.97
    assert (logits.float() - expected).abs().mean() < 0.02 * expected.std()


# Prints how often compiled code was found in the folder, and the sum of the logits.
PROCESS = """
import json, sys
sys.path[:0] = [{root!r}, {root!r} + "/test"]
import torch
from torch._dynamo.utils import counters
from tiny_backends import EXACT, METADATA, Strided, frames
from anomaly_seg_ros.inference.segmenter import Segmenter
torch.set_num_threads(1)
segmenter = Segmenter(Strided(), METADATA, EXACT, backend="torch_compile")
logits = segmenter.run_network(frames(1, 64, 96)).logits
found = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
print(json.dumps([found, logits.double().sum().item()]))
"""


def run_process(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != CACHE} | variables
    return subprocess.run(
        [sys.executable, "-c", PROCESS.format(root=str(REPOSITORY))],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("needs_a_compiler")
def test_the_next_process_finds_what_was_compiled(tmp_path: Path) -> None:
    first, second = (run_process(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert list((tmp_path / "anomaly_seg_ros" / "inductor").iterdir())
    (none, one), (some, other) = (json.loads(p.stdout.splitlines()[-1]) for p in (first, second))
    assert none == 0
    assert some > 0
    assert one == other  # the same bytes, compiled or found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("needs_a_compiler")
def test_a_compiler_that_fails_is_an_export_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho internal compiler error >&2\nexit 1\n")
    broken.chmod(0o755)
    failed = run_process(XDG_CACHE_HOME=str(tmp_path), CXX=str(broken))
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()
    assert any(
        ExportError.__name__ in line and "the network cannot be converted at 64 x 96" in line
        for line in last
    ), failed.stderr[-2000:]


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device error while the compiled network runs is not the compiler's."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.setattr(torch_compile_backend, "check_compiler", lambda device: None)

    def compile_(network: object, **_: object) -> object:
        def run(_: torch.Tensor) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    segmenter = Segmenter(Strided(), METADATA, EXACT, backend=TORCH_COMPILE)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        segmenter.predict(np.zeros((64, 96, 3), np.uint8))


def test_without_a_compiler(tools: Path) -> None:
    with pytest.raises(ParameterError, match=r"C\+\+ compiler.*apt install g\+\+, or set CXX"):
        select(TORCH_COMPILE, "fp32")


@pytest.mark.skipif(
    not (Path(sysconfig.get_path("include")) / "Python.h").is_file(), reason="no Python.h"
)
def test_compilers_by_variable(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    install(tools, "clang++")
    with pytest.raises(ParameterError, match=r"'g\+\+' is not there"):
        check_compiler(CPU)
    monkeypatch.setenv("CXX", "clang++ -march=native")
    check_compiler(CPU)
    monkeypatch.setenv("CXX", "icpx")
    install(tools, "g++")
    with pytest.raises(ParameterError, match="'icpx' is not there"):  # torch would take it, too
        check_compiler(CPU)
    monkeypatch.delenv("CXX")
    check_compiler(CPU)


def test_without_the_headers_of_python(
    tools: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(tools, "g++")
    install(tools, "clang++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(ParameterError, match=r"include/Python\.h is not there.*python3-dev"):
        check_compiler(CPU)


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="needs Triton on a GPU: pip install triton"):
        check_compiler(torch.device("cuda", 0))


def test_triton_needs_a_c_compiler(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ParameterError, match="a C compiler, and 'gcc' is not there"):
        check_compiler(torch.device("cuda", 0))


def test_the_users_folder_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "mine"))
    assert keep_compiled() is None
    assert os.environ[CACHE] == str(tmp_path / "mine")


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
@pytest.mark.parametrize("before", ["", f"{tempfile.gettempdir()}/torchinductor_robot"])
def test_the_folder_is_private(
    variable: str, before: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where torch has written its own default, open to all, into the variable."""
    monkeypatch.setenv(CACHE, before)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert keep_compiled() is None
    inside = (
        ".cache/anomaly_seg_ros/inductor" if variable == "HOME" else "anomaly_seg_ros/inductor"
    )
    folder = Path(os.environ[CACHE])
    assert folder == tmp_path / inside
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_announced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE, "")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "compiles anew at every start" in keep_compiled()
    assert os.environ[CACHE] == ""
