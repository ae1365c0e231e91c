"""Files of flow weights, and the picture of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_flow import flow

from anomaly_seg_ros.errors import CheckpointError, OutputError
from training.flow.checkpoints import load_flow, save_flow
from training.flow.pictures import sample_sheet, to_picture


def test_round_trip(tmp_path: Path) -> None:
    model = flow()
    model.initialised.fill_(True)
    path = tmp_path / "flow.safetensors"
    save_flow(path, model, {"steps": 3})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"dense_flow": "tiny", "provenance": '{"steps": 3}'}
    loaded = load_flow(path, checkpointing=True)
    assert loaded.name == "tiny"
    assert loaded.initialised
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    with torch.no_grad():
        samples = [
            m.sample(1, (16, 16), g) for m, g in zip((model, loaded), generators, strict=True)
        ]
    assert torch.equal(*samples)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    with pytest.raises(CheckpointError, match=r"flow\.safetensors"):
        load_flow(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="known size"):
        load_flow(path)
    save_file({"x": torch.zeros(1)}, path, {"dense_flow": "tiny"})
    with pytest.raises(CheckpointError, match="does not fit DenseFlow"):
        load_flow(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="a text that begins 'nothing'"):
        load_flow(path)
    with pytest.raises(OutputError, match=r"flow\.safetensors"):
        save_flow(path / "in_a_file.safetensors", flow(), {})


def test_picture_of_samples() -> None:
    model = flow()
    sheet = sample_sheet(model, [(16, 16), (16, 32)], columns=3, cell_width=32)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] > 3 * 32
    assert np.array_equal(sheet, sample_sheet(model, [(16, 16), (16, 32)], 3, 32))
    assert sheet.std() > 5
    levels = torch.tensor([0.4, 0.6, 255.0]).view(3, 1, 1)
    assert to_picture(levels).tolist() == [[[0, 1, 255]]]
