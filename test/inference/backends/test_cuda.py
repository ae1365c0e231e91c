# SPDX-License-Identifier: Apache-2.0
"""The CUDA path on a real GPU; `make gpu-run` runs these tests there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_backends import EXACT, METADATA, Strided, frames

from anomaly_seg_ros import scores
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import DeviceMemoryError, ParameterError
from anomaly_seg_ros.inference.backends.torch_compile_backend import check_compiler
from anomaly_seg_ros.inference.options import AUTO, TORCH, TORCH_COMPILE
from anomaly_seg_ros.inference.prediction import Prediction, UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.memory import peak_memory, reset_peak

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RULE = UnknownRule("energy", 0.5, mask=True, open_set_labels=True)
STAGES = ["resize", "upload", "network", "score", "download"]


def segmenter(precision: str = "fp16", mode: str = "resized", **options: object) -> Segmenter:
    return Segmenter(
        Strided(), METADATA, device="cuda", precision=precision,
        inference_mode=mode, tile_size=(64, 64), tile_overlap=32, **options,
    )  # fmt: skip


def everything(shared: Segmenter, image: np.ndarray) -> Prediction:
    return shared.predict(image, shared.available_scores, unknown=RULE)


def assert_same(one: Prediction, other: Prediction) -> None:
    for name in ("labels", "confidence", "unit_score", "mask", "open_set_labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.scores.keys() == other.scores.keys()
    for name, values in one.scores.items():
        np.testing.assert_array_equal(values, other.scores[name], err_msg=name)


def test_auto_is_torch_in_fp16() -> None:
    shared = segmenter(AUTO, backend=AUTO)
    assert (shared.backend, shared.precision, shared.notes) == (TORCH, "fp16", ())


@pytest.mark.parametrize("mode", ["resized", "full", "tiled"])
def test_the_cpu_agrees_in_fp32(mode: str) -> None:
    # TF32 in cuDNN's convolutions, torch's default, keeps ten bits.
    image = frames(1, 128, 192)[0]
    on_gpu = everything(segmenter("fp32", mode), image)
    cpu = Segmenter(
        Strided(), METADATA, EXACT,
        inference_mode=mode, tile_size=(64, 64), tile_overlap=32,
    )  # fmt: skip
    on_cpu = everything(cpu, image)
    assert (on_gpu.labels == on_cpu.labels).mean() > 0.99
    for name, values in on_cpu.scores.items():
        assert np.abs(values - on_gpu.scores[name]).max() < 0.02 * np.ptp(values) + 1e-3, name
    assert np.abs(on_gpu.confidence.astype(int) - on_cpu.confidence).max() <= 4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("mode", ["resized", "full", "tiled"])
def test_a_replayed_graph_gives_the_bits_of_single_operators(precision: str, mode: str) -> None:
    eager, graphed = (segmenter(precision, mode, cuda_graphs=g) for g in (False, True))
    for seed, size in enumerate([(64, 96), (128, 192), (64, 96), (72, 104), (128, 192)]):
        image = frames(1, *size, seed=seed)[0]
        assert_same(everything(eager, image), everything(graphed, image))
    assert graphed.notes == ()


def test_batches_of_several_sizes() -> None:
    graphed = segmenter(mode="full", cuda_graphs=True)
    sizes = [(64, 96), (128, 64), (64, 96), (40, 40)]
    images = [frames(1, *size, seed=seed)[0] for seed, size in enumerate(sizes)]
    together = graphed.predict_batch(images, ("energy",), unknown=RULE)
    for image, prediction in zip(images, together, strict=True):
        alone = graphed.predict(image, ("energy",), unknown=RULE)
        np.testing.assert_allclose(prediction.scores["energy"], alone.scores["energy"], atol=0.05)
        assert (prediction.labels == alone.labels).mean() > 0.98


def test_pinned_memory_is_not_overwritten_while_it_is_copied() -> None:
    """Tiles are uploaded one after another without waiting; each must reach its own place."""
    image = frames(1, 1024, 2048)[0]
    options = {"mode": "tiled", "cuda_graphs": True}
    graphed, cpu = segmenter("fp32", **options), Segmenter(
        Strided(), METADATA, EXACT,
        inference_mode="tiled", tile_size=(64, 64), tile_overlap=32,
    )  # fmt: skip
    expected = cpu.predict(image, ("energy",)).scores["energy"]
    for _ in range(3):
        found = graphed.predict(image, ("energy",)).scores["energy"]
        assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("graphs", [False, True])
def test_results_are_not_overwritten_by_later_frames(graphs: bool) -> None:
    shared = segmenter(cuda_graphs=graphs)
    images = [frames(1, 64, 96, seed=seed)[0] for seed in range(8)]
    kept = [everything(shared, image) for image in images]
    for image, prediction in zip(images, kept, strict=True):
        assert_same(prediction, everything(shared, image))


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_does_not_grow(graphs: bool) -> None:
    shared = segmenter(mode="full", cuda_graphs=graphs)
    images = [frames(1, *size)[0] for size in [(256, 512), (512, 256)]]

    def after(count: int) -> tuple[int, int]:
        for index in range(count):
            everything(shared, images[index % 2])
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    assert after(10) == after(200)


def test_peak_memory_is_that_of_the_run() -> None:
    device = torch.device("cuda", 0)
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    del block
    reset_peak(device)
    segmenter(mode="full").predict(frames(1, 64, 96)[0])
    assert peak_memory(device).mib < 200


@pytest.mark.parametrize("graphs", [False, True])
def test_stages_are_measured_on_the_device(graphs: bool) -> None:
    shared = segmenter(cuda_graphs=graphs)
    everything(shared, frames(1, 512, 1024)[0])  # without what the first frame takes once
    prediction = everything(shared, frames(1, 512, 1024)[0])
    assert list(prediction.stages_ms) == STAGES
    assert min(prediction.stages_ms.values()) >= 0
    assert 0 < sum(prediction.stages_ms.values()) <= prediction.inference_ms


@pytest.mark.parametrize("score", scores.SCORES)
def test_unit_scores_are_what_the_cpu_makes_of_the_raw_ones(score: str) -> None:
    """To the bit: subscribers threshold the published map and must find the same mask."""
    shared = segmenter()
    image = frames(1, 200, 301)[0]
    found = shared.predict(image, (score,), unknown=UnknownRule(score, 0.5))
    unit = shared.metadata.calibration_of(score).to_unit(found.scores[score])
    np.testing.assert_array_equal(found.unit_score, unit)
    np.testing.assert_array_equal(found.mask, np.where(unit >= np.float32(0.5), 255, 0))


@pytest.mark.data
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_real_frames(precision: str, graphs: bool, shared_data: Path) -> None:
    exact = Segmenter.load("default", device="cuda", precision="fp32", inference_size=(512, 1024))
    rough = Segmenter.load(
        "default",
        device="cuda",
        precision=precision,
        inference_size=(512, 1024),
        cuda_graphs=graphs,
    )
    samples = open_dataset("cityscapes", shared_data / "cityscapes", split="train")
    for index in range(3):
        frame = samples[index].read_image()
        a, b = (s.predict(frame, s.available_scores) for s in (exact, rough))
        assert (a.labels == b.labels).mean() >= 0.995
        for name, values in a.scores.items():
            assert np.isfinite(b.scores[name]).all(), name
            difference = np.abs(values - b.scores[name])
            tolerance = {"fp16": 0.01, "bf16": 0.05}[precision]  # of eleven and of eight bits
            assert np.median(difference) < tolerance * values.std(), name


def test_too_large_frames_are_a_clear_error_and_the_next_one_passes() -> None:
    shared = segmenter(mode="full", cuda_graphs=True)
    small = frames(1, 64, 96)[0]
    expected = everything(shared, small)
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        with pytest.raises(DeviceMemoryError, match="out of memory on cuda:0"):
            shared.predict(np.zeros((8192, 8192, 3), np.uint8))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "operator by operator" in shared.notes[0]
    assert_same(everything(shared, small), expected)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("graphs", [False, True])
def test_torch_compile(graphs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        check_compiler(torch.device("cuda"))
    except ParameterError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    image = frames(1, 128, 192)[0]
    eager = segmenter("fp16").predict(image, ("energy",))
    compiled = segmenter("fp16", backend=TORCH_COMPILE, cuda_graphs=graphs)
    assert compiled.backend == TORCH_COMPILE
    first, second = (compiled.predict(image, ("energy",)) for _ in range(2))
    assert compiled.notes == ()
    np.testing.assert_array_equal(first.scores["energy"], second.scores["energy"])
    assert (first.labels == eager.labels).mean() > 0.99
    difference = np.abs(first.scores["energy"] - eager.scores["energy"])
    assert difference.mean() < 0.01 * eager.scores["energy"].std()


def test_the_second_gpu() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    image = frames(1, 64, 96)[0]
    first, second = (
        Segmenter(Strided(), METADATA, device=device, precision="fp16", cuda_graphs=True)
        for device in ("cuda:0", "cuda:1")
    )
    assert_same(everything(first, image), everything(second, image))
    assert list(everything(second, image).stages_ms) == STAGES
