# SPDX-License-Identifier: Apache-2.0
"""Weights are found wherever training scripts put them; what is done to them is accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anomaly_seg_ros.checkpoints.reading import find_state_dict, read_checkpoint
from anomaly_seg_ros.errors import CheckpointError

WEIGHTS = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(6)}
OTHER = {key: value + 10 for key, value in WEIGHTS.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
FLOW = {f"step{i}.scale": torch.zeros(1) for i in range(50)}


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


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (WEIGHTS, ()),
        ({**WEIGHTS, "epoch": 3}, ()),
        ({"state_dict": WEIGHTS, "optimizer": OPTIMIZER}, ("state_dict",)),
        ({"model": WEIGHTS, "optimizer": OPTIMIZER, "epoch": 1}, ("model",)),
        ({"model_state_dict": WEIGHTS, "loss": torch.tensor(0.1)}, ("model_state_dict",)),
        ({"net": WEIGHTS}, ("net",)),
        ({"model": {"state_dict": WEIGHTS}}, ("model", "state_dict")),
        ({"ema": {"module": WEIGHTS}}, ("ema", "module")),
        ({"whatever": WEIGHTS}, ("whatever",)),
        ({"state_dict": WEIGHTS, "ema": OTHER}, ("state_dict",)),
        ({"ema": OTHER, "model": WEIGHTS}, ("model",)),
        # A flow that is trained beside the network, and has more tensors.
        ({"model": WEIGHTS, "second_player": {"flow": FLOW}}, ("model",)),
        ({"state_dict": WEIGHTS, "statistics": {"mean": torch.zeros(19)}}, ("state_dict",)),
    ],
)
def test_weights_are_found(content: dict, place: tuple[str, ...]) -> None:
    found = find_state_dict(content)
    assert found.place == place
    assert found.tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.tensors[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize(
    "content",
    [None, 3, [torch.zeros(1)], {}, {"epoch": 3}, {0: torch.zeros(1)}, {"optimizer": OPTIMIZER}],
)
def test_no_weights(content: object) -> None:
    assert find_state_dict(content) is None


def test_other_weights_are_not_silent_and_can_be_chosen() -> None:
    content = {"model": WEIGHTS, "average": OTHER}
    assert find_state_dict(content).others == [(("average",), 6)]
    assert torch.equal(
        find_state_dict(content, "average").tensors["layer1.weight"], OTHER["layer1.weight"]
    )
    assert find_state_dict(content, "ema") is None


def test_record() -> None:
    found = find_state_dict(
        {
            "state_dict": WEIGHTS,
            "optimizer": OPTIMIZER,
            "epoch": 174,
            "best_record": {"mean_iu": 0.9, "epoch": 170},
            "command": "x" * 1000,
            "done": True,
        }
    )
    command = found.record.pop("command")
    assert command == "x" * 200 + "..."
    assert found.record == {
        "epoch": 174,
        "best_record.mean_iu": 0.9,
        "best_record.epoch": 170,
        "done": True,
    }
    assert found.has_optimizer


def test_entries_that_are_no_tensors_are_listed() -> None:
    packed = (torch.zeros(1), None)
    found = find_state_dict({"state_dict": {**WEIGHTS, "fc._packed_params": packed}})
    assert found.not_tensors == ["fc._packed_params"]
