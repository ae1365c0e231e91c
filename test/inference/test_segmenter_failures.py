# SPDX-License-Identifier: Apache-2.0
"""The Segmenter when memory does not suffice or the network gives no numbers."""

from __future__ import annotations

import pytest
import torch
from tiny import in_mode
from tiny_backends import EXACT, METADATA, Strided, frames

from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError
from anomaly_seg_ros.inference.prediction import UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter

IMAGE = frames(1, 64, 96)[0]
OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": MemoryError(),
    "backend": DeviceMemoryError("backend 'openvino': the network failed at 64 x 96: bad_alloc"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        (
            "resized",
            "resized to at most 64 x 96: take inference mode 'tiled' or a smaller inference size",
        ),
        ("full", "full resolution: take inference mode 'tiled'"),
        ("tiled", "tiles of 64 x 64 with overlap 16: take smaller tiles"),
    ],
)
def test_out_of_memory_says_what_needs_less(
    kind: str, mode: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = in_mode(mode, tile_size=(64, 64), tile_overlap=16)

    def fail(*_: object) -> None:
        raise OUT_OF_MEMORY[kind]

    with monkeypatch.context() as patch:
        patch.setattr(segmenter, "_run", fail)
        with pytest.raises(DeviceError, match=f"out of memory on cpu.*70 x 90.*{advice}"):
            segmenter.predict(frames(1, 70, 90)[0])
    assert segmenter.predict(frames(1, 70, 90)[0]).labels.shape == (70, 90)


def test_a_real_allocation_failure_is_recognised() -> None:
    """What this torch says today when memory cannot be had."""
    segmenter = in_mode("resized")
    segmenter._run = lambda *_: torch.empty(2**60)
    with pytest.raises(DeviceError, match="out of memory on cpu"):
        segmenter.predict(IMAGE)


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = in_mode("full")

    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(segmenter, "_run", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        segmenter.predict(IMAGE)


def test_out_of_memory_frees_what_is_kept_for_other_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that smaller tiles find room; other errors leave it as it is."""
    segmenter = in_mode("resized")
    forgotten: list[bool] = []
    monkeypatch.setattr(segmenter._runner, "forget", lambda: forgotten.append(True))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(segmenter, "_run", fail)
    error: Exception = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="multiplied"):
        segmenter.predict(IMAGE)
    assert forgotten == []
    error = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(DeviceMemoryError):
        segmenter.predict(IMAGE)
    assert forgotten == [True]


@pytest.mark.parametrize("part", ["classifier", "outlier_head"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", ["resized", "tiled"])
def test_logits_that_are_not_finite_are_refused(part: str, value: float, mode: str) -> None:
    """A score that is NaN reaches no threshold: its pixel would be called known."""
    segmenter = biased(part, value, inference_mode=mode)
    rule = UnknownRule("energy", 0.5)
    words = "model 'tiny': its logits are not finite on cpu in fp32 .backend 'torch'.; look at its"
    with pytest.raises(DeviceError, match=words):
        segmenter.predict(IMAGE, (), unknown=rule)
    segmenter.precision = "fp16"
    with pytest.raises(DeviceError, match="take precision 'bf16' or 'fp32'"):
        segmenter.predict(IMAGE, (), unknown=rule)


def biased(part: str, value: float, **options: object) -> Segmenter:
    """A network one of whose outputs has this bias."""
    network = Strided()
    with torch.no_grad():
        getattr(network, part).bias[1 if part == "outlier_head" else 3] = value
    return Segmenter(network, METADATA, EXACT, **options)
