# SPDX-License-Identifier: Apache-2.0
"""The stream: the same samples however they are shared out; limits that are found beforehand."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from anomaly_seg_ros.errors import ImageError, ParameterError, TrainingError
from training.data import stream as stream_module
from training.data.mixing.mixed_views import MixedBatch
from training.data.stream import SampleStream, available_memory


class Numbered(Dataset):
    """Sample i holds the number i."""

    def __getitem__(self, index: int) -> MixedBatch:
        plane = torch.full((2, 2), index)
        return MixedBatch(plane.expand(3, 2, 2).byte(), plane, plane.byte())


class Described(Numbered):
    def describe(self, index: int) -> str:
        return f"frame {index}"


class Deadly(Numbered):
    """Kills the process that loads sample 3."""

    def __getitem__(self, index: int) -> MixedBatch:
        if index == 3 and torch.utils.data.get_worker_info() is not None:
            import os

            os._exit(1)
        return super().__getitem__(index)


class Damaged(Numbered):
    """Sample 3 cannot be read."""

    def __getitem__(self, index: int) -> MixedBatch:
        if index == 3:
            raise ImageError("photos/a: b.jpg: truncated JPEG (no end marker)")
        return super().__getitem__(index)


def ranks(rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    return SimpleNamespace(rank=rank, world_size=world_size)


def numbers(batches) -> list[list[int]]:
    return [batch.labels[:, 0, 0].tolist() for batch in batches]


def test_batches_do_not_depend_on_how_they_are_shared_out() -> None:
    whole = numbers(SampleStream(Numbered(), 4, 3, ranks()).batches(0))
    assert whole == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    accumulated = numbers(SampleStream(Numbered(), 4, 3, ranks(), accumulate=2).batches(0))
    assert accumulated == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    shares = [numbers(SampleStream(Numbered(), 4, 3, ranks(r, 2)).batches(0)) for r in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_a_resumed_stream_goes_on(capfd) -> None:
    stream = SampleStream(Numbered(), 4, 3, ranks())
    assert numbers(stream.batches(2)) == [[8, 9, 10, 11]]
    assert numbers(stream.batches(3)) == []


@pytest.mark.slow
def test_workers_change_nothing() -> None:
    alone = numbers(SampleStream(Numbered(), 2, 4, ranks()).batches(0))
    assert numbers(SampleStream(Numbered(), 2, 4, ranks(), workers=2).batches(0)) == alone


def test_workers_share_the_data_set_whatever_python_prefers() -> None:
    shared = Numbered()
    shared.not_to_be_pickled = lambda: None
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)  # the default of Python 3.14
    try:
        batches = numbers(SampleStream(shared, 2, 1, ranks(), workers=1).batches(0))
    finally:
        multiprocessing.set_start_method(usual, force=True)
    assert batches == [[0, 1]]


def test_a_batch_is_described_by_its_samples() -> None:
    assert SampleStream(Numbered(), 4, 3, ranks(1, 2)).describe(2) == "samples 10 to 11"
    described = SampleStream(Described(), 4, 3, ranks(1, 2)).describe(2)
    assert described == "samples 10 (frame 10), 11 (frame 11)"


@pytest.mark.parametrize(("size", "accumulate"), [(3, 1), (4, 4), (0, 1)])
def test_a_batch_that_does_not_split_is_refused(size: int, accumulate: int) -> None:
    with pytest.raises(ParameterError, match=f"batch_size {size} does not split"):
        SampleStream(Numbered(), size, 3, ranks(0, 2), accumulate=accumulate)


def test_a_loader_that_needs_too_much_memory_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(stream_module, "available_memory", lambda: 100)
    with pytest.raises(ParameterError, match="memory has 0 MB free; use fewer workers"):
        next(SampleStream(Numbered(), 4, 3, ranks()).batches(0))


def test_available_memory_is_that_of_the_kernel() -> None:
    with open("/proc/meminfo") as file:  # noqa: PTH123
        total = int(file.readline().split()[1]) * 1024
    assert 0 < available_memory() <= total


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(TrainingError, match="loader process died"):
        list(SampleStream(Deadly(), 2, 4, ranks(), workers=1).batches(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_without_a_traceback(workers: int) -> None:
    stream = SampleStream(Damaged(), 2, 3, ranks(), workers=workers)
    with pytest.raises(ImageError) as caught:
        numbers(stream.batches(0))
    assert str(caught.value) == "photos/a: b.jpg: truncated JPEG (no end marker)"
