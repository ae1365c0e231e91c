"""What the log and /diagnostics say of the backend, and of those that were passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anomaly_seg_ros.errors import ExportError
from anomaly_seg_ros.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from anomaly_seg_ros.inference.backends.openvino_backend import OpenVinoBackend
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.ros import diagnostics
from anomaly_seg_ros.ros.model import load_model
from anomaly_seg_ros.ros.parameters import WatchdogLimits
from anomaly_seg_ros.ros.reports import Report
from anomaly_seg_ros.system.resources import config_path


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
