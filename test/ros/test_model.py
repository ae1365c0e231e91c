# SPDX-License-Identifier: Apache-2.0
"""Loading the node's model, and going on in smaller portions when memory does not suffice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detector_harness import street

from anomaly_seg_ros.errors import DeviceMemoryError, ExportError
from anomaly_seg_ros.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from anomaly_seg_ros.inference.backends.openvino_backend import OpenVinoBackend
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.inference.options import FULL, RESIZED, TILED, SegmenterOptions
from anomaly_seg_ros.inference.prediction import OutputRequest
from anomaly_seg_ros.inference.preprocessing import Framing
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros import diagnostics
from anomaly_seg_ros.ros.model import (
    SMALLEST_TILE,
    MemoryFallback,
    load_model,
    smaller_tiles,
)
from anomaly_seg_ros.ros.parameters import FAIL, TILE, WatchdogLimits
from anomaly_seg_ros.ros.reports import Report
from anomaly_seg_ros.system.resources import config_path

IMAGE = street(256, 384)
EVERYTHING = OutputRequest(("max_logit",))


def framing(mode: str, size=None, tile=None, overlap: int = 128) -> Framing:
    options = SegmenterOptions(
        inference_mode=mode, inference_size=size, tile_size=tile, tile_overlap=overlap
    )
    return Framing.choose(options, (512, 1024), 8)


class Memory:
    """A device on which so many pixels fit at once."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.passes: list[tuple[int, int, int]] = []

    def __call__(self, frames: torch.Tensor) -> None:
        count, _, height, width = frames.shape
        if count * height * width > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.passes.append((count, height, width))


@pytest.fixture
def told():
    return []


@pytest.fixture
def segmenter(tiny_model):
    return Segmenter.load(tiny_model, inference_mode=FULL)


@pytest.mark.parametrize(
    ("now", "frame", "tile"),
    [
        (framing(RESIZED), (1080, 1920), (512, 512)),
        (framing(RESIZED, (768, 768)), (1080, 1920), (384, 768)),
        (framing(FULL), (1080, 1920), (1080, 960)),
        (framing(FULL), (1081, 1919), (1088, 960)),
        (framing(TILED, tile=(768, 768)), (1080, 1920), (384, 768)),
        (framing(TILED, tile=(768, 768)), (600, 1920), (600, 384)),
        (framing(TILED, (512, 1024), (768, 768)), (1080, 1920), (512, 384)),
    ],
)
def test_what_went_through_at_once_is_halved_along_its_longer_side(now, frame, tile):
    smaller = smaller_tiles(now, frame)
    assert smaller.mode == TILED
    assert smaller.tile == tile
    assert smaller.size == now.size
    # What Framing.choose would accept.
    assert 0 <= smaller.overlap <= min(tile) - 8
    framing(TILED, smaller.size, smaller.tile, smaller.overlap)


def test_halving_ends():
    now, tiles = framing(FULL), []
    while (now := smaller_tiles(now, (1080, 1920))) is not None:
        tiles.append(now.tile)
        assert min(now.tile) >= SMALLEST_TILE
    areas = [height * width for height, width in tiles]
    assert areas == sorted(areas, reverse=True)
    assert tiles[-1] == (136, 240)


def test_a_frame_that_does_not_fit_is_answered_in_tiles(segmenter, tiny_model, told, on_forward):
    memory = Memory(150 * 256)
    on_forward(memory)
    fallback = MemoryFallback(segmenter, told.append)
    (prediction,) = fallback.predict([IMAGE], OutputRequest(("energy",)), TILE)
    assert len(told) == 2
    assert "tiles of 256 x 192" in told[0]
    assert "tiles of 128 x 192" in told[1]
    assert all(size == (1, 128, 192) for size in memory.passes)
    alone = Segmenter.load(
        tiny_model, inference_mode=TILED, tile_size=(128, 192),
        tile_overlap=segmenter.framing.overlap,
    )  # fmt: skip
    expected = alone.predict(IMAGE, scores=("energy",))
    np.testing.assert_array_equal(prediction.labels, expected.labels)
    np.testing.assert_array_equal(prediction.scores["energy"], expected.scores["energy"])
    fallback.predict([IMAGE], EVERYTHING, TILE)
    assert len(told) == 2  # nothing is tried again


@pytest.mark.parametrize(("rule", "pixels"), [(FAIL, 256 * 384 - 1), (TILE, 1000)])
def test_what_cannot_be_made_to_fit_is_a_clear_error(segmenter, told, on_forward, rule, pixels):
    on_forward(Memory(pixels))
    fallback = MemoryFallback(segmenter, told.append)
    with pytest.raises(DeviceMemoryError, match=r"out of memory on cpu.*Tried to allocate") as e:
        fallback.predict([IMAGE], EVERYTHING, rule)
    assert bool(told) == (rule == TILE)
    # Neither holds the tensors of the pass that failed, which would keep memory from being freed.
    assert e.value.__cause__ is None
    assert e.value.__context__ is None
    small = IMAGE[:16, :24]
    assert fallback.predict([small], EVERYTHING, rule)[0].labels.shape == (16, 24)


def test_frames_of_several_cameras_go_on_one_by_one(segmenter, told, on_forward):
    memory = Memory(256 * 384)
    on_forward(memory)
    fallback = MemoryFallback(segmenter, told.append)
    images = [IMAGE, street(256, 384, seed=1)]
    predictions = fallback.predict(images, EVERYTHING, FAIL)
    assert memory.passes == [(1, 256, 384)] * 2
    assert len(told) == 1
    assert "one by one" in told[0]
    for image, prediction in zip(images, predictions, strict=True):
        np.testing.assert_array_equal(prediction.labels, segmenter.predict(image).labels)
    assert fallback.predict(images, EVERYTHING, FAIL)
    assert len(told) == 1


def test_backends_that_compile_for_the_cpu_take_frames_one_by_one(segmenter, told, on_forward):
    memory = Memory(10**9)
    on_forward(memory)
    segmenter.backend = "openvino"
    fallback = MemoryFallback(segmenter, told.append)
    fallback.warm_up(3, FAIL)
    assert [count for count, *_ in memory.passes] == [1]
    fallback.predict([IMAGE, IMAGE], EVERYTHING, FAIL)
    assert [count for count, *_ in memory.passes] == [1, 1, 1]
    assert told == []


def test_warm_up_tries_every_number_of_frames(segmenter, told, on_forward):
    memory = Memory(2 * 64 * 96)  # the model's own size, twice
    on_forward(memory)
    fallback = MemoryFallback(segmenter, told.append)
    assert fallback.warm_up(3, FAIL) > 0
    assert [count for count, *_ in memory.passes] == [1, 2, 1, 1, 1]
    assert len(told) == 1  # three at once did not fit


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)

    warning = info


@pytest.fixture
def values(tiny_model: Path) -> dict[str, object]:
    """All parameters, as they stand in the file, for a small model on the CPU."""
    defaults = yaml.safe_load(config_path("detector.yaml").read_text())["/**"]["ros__parameters"]
    return defaults | {"model": str(tiny_model), "device": "cpu", "backend": "auto"}


def fail(*_: object) -> None:
    raise ModuleNotFoundError("No module named 'packaging'", name="packaging")


def test_diagnostics_say_why_a_backend_was_passed_over(
    values: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (OpenVinoBackend, OnnxRuntimeBackend):
        monkeypatch.setattr(backend, "_convert", fail)
    log = Log()
    model, settings = load_model(values, log)
    assert any("(torch, fp32, " in line for line in log.lines)
    limits = WatchdogLimits(*[1.0] * len(WatchdogLimits.__dataclass_fields__))
    report = Report(
        "/detector", "inactive", True, "", [], limits, segmenter=model.segmenter, settings=settings
    )
    (status,) = [s for s in diagnostics.statuses(report) if s.name == "/detector: model"]
    told = {value.key: value.value for value in status.values}
    assert told["backend"] == "torch"
    for number, name in ((1, "openvino"), (2, "onnxruntime")):
        assert told[f"note {number}"].startswith(f"backend '{name}' is not used: ")
        assert "the Python package 'packaging' is missing" in told[f"note {number}"]
    assert told["note 3"] == "backend 'torch' (fp32) takes its place"


def test_the_one_line_when_none_works_names_all(
    values: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (OpenVinoBackend, OnnxRuntimeBackend):
        monkeypatch.setattr(backend, "_convert", fail)
    monkeypatch.setattr(TorchBackend, "__call__", fail)
    with pytest.raises(ExportError) as caught:
        load_model(values, Log())
    message = str(caught.value)
    assert all(f"{name}: " in message for name in ("openvino", "onnxruntime", "torch"))
    assert "\n" not in message
