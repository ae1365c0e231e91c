# SPDX-License-Identifier: Apache-2.0
"""The device of a training process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomaly_seg_ros.errors import DeviceError
from training import fine_tune
from training.engine.distributed import training_device


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert training_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert fine_tune.main(["--run-dir", str(tmp_path / "run"), "--device", name]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"fine_tune: error: device '{name}': ")


class TestUnderTorchrun:
    @pytest.fixture(autouse=True)
    def current(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
        """What became the current device, on a made-up machine of two GPUs."""
        chosen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    @pytest.mark.parametrize("name", ["auto", "cuda"])
    def test_each_rank_has_its_gpu(
        self, monkeypatch: pytest.MonkeyPatch, current: list[torch.device], name: str
    ) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert training_device(name) == torch.device("cuda", 1)
        assert current == [torch.device("cuda", 1)]

    def test_more_ranks_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(DeviceError, match="this machine has 2 CUDA devices"):
            training_device("cuda")

    def test_the_cpu_is_shared(
        self, monkeypatch: pytest.MonkeyPatch, current: list[torch.device]
    ) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert training_device("cpu") == torch.device("cpu")
        assert not current
