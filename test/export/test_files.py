# SPDX-License-Identifier: Apache-2.0
"""Exported files give the network's outputs at any size, describe themselves, or are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_metadata, tiny_network
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ExportError, OutputError, ParameterError
from anomaly_seg_ros.export import files
from anomaly_seg_ros.export.comparison import TOLERANCE, compare, random_image, traced_size
from anomaly_seg_ros.export.deployment import Deployment
from anomaly_seg_ros.models.registry import build_network
from benchmarks.variants import settle

SLOW = (pytest.mark.slow, pytest.mark.timeout(600))
# Neither the traced nor the checked sizes; the second is a batch.
_SHAPES = ((1, 3, 64, 352), (3, 3, 192, 64))


class OneConvolution(SegmentationNetwork):
    """A network small enough that exporting it takes a second."""

    num_classes = 19
    size_multiple = 4
    output_stride = 4
    pre_logits_channels = 3
    outlier_head = None

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, 19, 4, stride=4)

    def classify(self, pre_logits: Tensor) -> Tensor:
        return self.classifier(pre_logits)

    def forward(self, images: Tensor) -> NetworkOutput:
        return NetworkOutput(images, self.classify(images))


class SizeBakedIn(OneConvolution):
    """Its forward pass asks for the size in Python: the traced answer is wrong at other sizes."""

    def forward(self, images: Tensor) -> NetworkOutput:
        logits = self.classify(images)
        return NetworkOutput(images, logits if images.shape[-1] < 272 else -logits)


def open_set_deployment(architecture: str) -> Deployment:
    """With outlier head and hybrid score; the default network narrow, ERFNet as it is."""
    torch.manual_seed(0)
    if architecture == "default":
        network = tiny_network(outlier_head=True)
    else:
        network = settle(build_network(architecture, {"outlier_head": True}).eval())
    return Deployment(network, tiny_metadata(True), "dense_hybrid")


@pytest.fixture
def small() -> Deployment:
    torch.manual_seed(0)
    return Deployment(OneConvolution(), tiny_metadata(), "energy")


def assert_equal_at_other_shapes(run: files.Runner, deployment: Deployment) -> None:
    for seed, shape in enumerate(_SHAPES):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            expected, actual = deployment(image), run(image)
        for name in deployment.output_names:
            torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["erfnet", pytest.param("default", marks=SLOW)])
def test_program_gives_the_network_s_outputs(architecture: str, tmp_path: Path) -> None:
    deployment = open_set_deployment(architecture)
    path = tmp_path / "model.pt2"
    comparison = files.export_program(deployment, path)
    assert comparison.worst <= TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    assert_equal_at_other_shapes(files.program_runner(path), deployment)
    texts = dict.fromkeys(deployment.description(), "")
    torch.export.load(path, extra_files=texts)
    assert texts == deployment.description()


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=SLOW) for name in ("erfnet", "default")]
)
def test_onnx_gives_the_network_s_outputs(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    deployment = open_set_deployment(architecture)
    path = tmp_path / "model.onnx"
    comparison = files.export_onnx(deployment, path)
    assert comparison.worst <= TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert_equal_at_other_shapes(files.onnx_runner(path), deployment)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == deployment.description()
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1]) == ("image", "tensor(uint8)", 3)
    assert all(isinstance(image.shape[axis], str) for axis in (0, 2, 3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["wide_resnet38", "resnet101", "ladder_densenet121"])
def test_large_networks_can_be_traced(architecture: str) -> None:
    """At full width; the files are checked by `make check-export`."""
    network = settle(build_network(architecture, {"outlier_head": True}).eval())
    deployment = Deployment(network, tiny_metadata(True), "dense_hybrid")
    program = files.capture(deployment).module()
    compare(program, deployment, [(64, 96)]).require(TOLERANCE, architecture)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
def test_one_compilation_serves_all_sizes() -> None:
    deployment = open_set_deployment("erfnet")
    torch.compiler.reset()
    compiled = torch.compile(deployment, dynamic=True)
    with torch.no_grad():
        # Below 20480 numbers torch 2.15 chooses another convolution, and guards that choice.
        compiled(random_image(traced_size(deployment.network.size_multiple)))
    with torch.compiler.set_stance("fail_on_recompile"):
        compare(compiled, deployment).require(TOLERANCE, "compiled")


@pytest.mark.slow
def test_onnx_writes_the_opset_that_was_asked_for(small: Deployment, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for opset in (18, 20):
        path = tmp_path / f"{opset}.onnx"
        files.export_onnx(small, path, opset)
        versions = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
        assert versions[""] == opset
    assert json.loads(small.description()["score"]) == "energy"
    with pytest.raises(ParameterError, match="17"):
        files.export_onnx(small, tmp_path / "17.onnx", 17)


def test_missing_packages_are_named(
    small: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnxscript.*pip install -r requirements/export\.txt"):
        files.export_onnx(small, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_left(small: Deployment, tmp_path: Path) -> None:
    """An older good file stays."""
    path = tmp_path / "model.pt2"
    path.write_text("older")
    with pytest.raises(ExportError, match="differs"):
        files.export_program(small, path, tolerance=-1.0)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_a_network_with_a_fixed_size_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(SizeBakedIn(), tiny_metadata(), "energy")
    with pytest.raises(ExportError, match="fails on a 160 x 288 image"):
        files.export_program(deployment, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(small: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "no" / "model.pt2"
    with pytest.raises(OutputError, match="no such folder"):
        files.export_program(small, path)
