"""Tensors come as float32 with an account of what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anomaly_seg_ros.checkpoints.checkpoint_file import read_checkpoint
from anomaly_seg_ros.errors import CheckpointError


def random_tensor(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_half_precision_widens_exactly(save: Callable) -> None:
    half = random_tensor(4, 5).half()
    read = read_checkpoint(save({"w": half, "n": torch.tensor(3)}))
    assert read.tensors["w"].dtype == torch.float32
    assert np.array_equal(read.tensors["w"].numpy(), half.numpy().astype(np.float32))
    assert read.tensors["n"].dtype == torch.int64
    assert read.dtypes == {"float16": 1, "int64": 1}
    assert read.changes == ("1 float16 tensors became float32, exactly",)


def test_bfloat16_widens_exactly(save: Callable) -> None:
    brain = random_tensor(4, 5).bfloat16()
    read = read_checkpoint(save({"w": brain}))
    # bfloat16 is the upper half of a float32.
    bits = brain.view(torch.int16).numpy().astype(np.uint32) << 16
    assert np.array_equal(read.tensors["w"].numpy().view(np.uint32), bits & 0xFFFF0000)


def test_float64_is_said_to_be_rounded(save: Callable) -> None:
    read = read_checkpoint(save({"w": torch.tensor([1 / 3], dtype=torch.float64)}))
    assert read.tensors["w"].item() == np.float32(1 / 3)
    assert read.changes == ("1 float64 tensors were converted to float32",)


def test_quantized_tensors(save: Callable) -> None:
    weight = random_tensor(3, 4)
    whole = torch.quantize_per_tensor(weight, 0.02, 5, torch.qint8)
    scales, zeros = torch.tensor([0.01, 0.02, 0.03]), torch.tensor([0, 1, -2])
    rows = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    read = read_checkpoint(save({"whole": whole, "rows": rows}))
    integers = whole.int_repr().numpy().astype(np.float32)
    assert np.array_equal(read.tensors["whole"].numpy(), (integers - 5) * np.float32(0.02))
    by_row = rows.int_repr().numpy() - zeros.numpy()[:, None]
    expected = by_row * scales.double().numpy()[:, None]
    np.testing.assert_allclose(read.tensors["rows"].numpy(), expected, rtol=1e-6)
    assert read.changes == ("2 qint8 tensors were dequantized to float32",)


def test_whole_training_checkpoint(save: Callable) -> None:
    path = save(
        {
            "state_dict": {"module.a.weight": torch.ones(2)},
            "optimizer": {"state": {}},
            "epoch": 174,
            "mean_iu": np.float64(0.9064),
        }
    )
    read = read_checkpoint(path)
    assert read.tensors.keys() == {"a.weight"}
    assert (read.place, read.prefixes) == (("state_dict",), ("module.",))
    assert (read.epoch, read.mean_iou) == (174, 0.9064)
    assert read.has_optimizer
    assert not read.changes


def test_foreign_safetensors_lose_their_prefix(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"module.a": torch.ones(2)}, path, {"format": "pt"})
    read = read_checkpoint(path)
    assert read.tensors.keys() == {"a"}
    assert read.container == "safetensors"
    with pytest.raises(CheckpointError, match="no weights at 'ema'"):
        read_checkpoint(path, "ema")


def test_own_safetensors_keep_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file({"model.a": torch.ones(2)}, path, {"anomaly_seg_ros": "{}"})
    assert read_checkpoint(path).tensors.keys() == {"model.a"}


def test_a_second_state_dict_is_announced(save: Callable) -> None:
    path = save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.zeros(1)}})
    read = read_checkpoint(path)
    assert read.changes == ("ema (1 tensors) is not read, model is",)
    assert read_checkpoint(path, "ema").tensors["a"].item() == 0
    with pytest.raises(CheckpointError, match="no weights at 'average'"):
        read_checkpoint(path, "average")


def test_tensors_that_share_memory_are_read(save: Callable) -> None:
    base = torch.arange(6.0)
    read = read_checkpoint(save({"a": base[:3], "b": base[3:], "c": base.view(2, 3).T}))
    assert read.tensors["b"].tolist() == [3, 4, 5]
    assert read.tensors["c"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_file_without_weights(save: Callable) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pth: no weights in it"):
        read_checkpoint(save({"epoch": 3}))
