"""Any model file becomes trainable: its scaling, its head, its parameter groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.inference.backends.contract import ScaledNetwork
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.networks import as_described, load_for_training, parameter_groups

CITYSCAPES = load_taxonomy()


def test_scaling_is_that_of_the_segmenter() -> None:
    metadata = tiny_metadata(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    network = tiny_network().eval()
    expected = ScaledNetwork(network, metadata)(images.permute(0, 2, 3, 1))[0]
    torch.testing.assert_close(network(metadata.input_scaling(images)).logits, expected)


def test_an_outlier_head_is_added_and_the_rest_kept(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    network, metadata = load_for_training(model, CITYSCAPES, outlier_head=True)
    assert network.training
    assert metadata.arguments["outlier_head"] is True
    # What was calibrated before holds no longer.
    assert metadata.calibration == {}
    assert metadata.statistics is None
    start = tiny_network().state_dict()
    for key, value in network.state_dict().items():
        if not key.startswith("outlier_head."):
            assert torch.equal(value, start[key]), key


def test_a_head_in_the_file_is_kept(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors", outlier_head=True))
    network, _ = load_for_training(model, CITYSCAPES, outlier_head=True)
    expected = tiny_network(outlier_head=True).outlier_head.conv.weight
    assert torch.equal(network.outlier_head.conv.weight, expected)


def test_abstention_comes_and_goes(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    network, metadata = load_for_training(model, CITYSCAPES, abstention=True)
    images = torch.randn(1, 3, 64, 64)
    assert network.eval()(images).logits.shape[1] == 20
    plain = as_described(network, metadata)
    assert not plain.training
    with torch.inference_mode():
        torch.testing.assert_close(plain(images).logits, tiny_network()(images).logits)


def test_abstention_and_a_public_void_output() -> None:
    """The public ERFNet has a 20th output; abstention takes its place and leaves it again."""
    metadata = tiny_metadata(architecture="erfnet", arguments={"num_classes": 19})
    torch.manual_seed(0)
    erfnet = build_network("erfnet", metadata.arguments).eval()
    from training.losses.abstention import add_abstention

    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        before = erfnet(images).logits
        after = as_described(add_abstention(erfnet), metadata)(images).logits
    torch.testing.assert_close(after, before)


class TestBadModels:
    def test_another_order_of_classes(self, tmp_path: Path) -> None:
        model = str(save_tiny_model(tmp_path / "m.safetensors"))
        names = (*CITYSCAPES.classes[1:], CITYSCAPES.classes[0])
        other = Taxonomy("rotated", names, CITYSCAPES.palette)
        with pytest.raises(ParameterError, match=r"class 0 is 'road', but 'sidewalk'.*rotated"):
            load_for_training(model, other)

    def test_another_number_of_classes(self, tmp_path: Path) -> None:
        model = str(save_tiny_model(tmp_path / "m.safetensors"))
        other = Taxonomy("short", CITYSCAPES.classes[:5], CITYSCAPES.palette[:5])
        with pytest.raises(ParameterError, match="has 19 classes, the labels have 5"):
            load_for_training(model, other)

    def test_a_class_table_that_does_not_fit_the_outputs(self, tmp_path: Path) -> None:
        metadata = tiny_metadata(
            classes=CITYSCAPES.classes[:18], palette=CITYSCAPES.palette[:18], statistics=None
        )
        save_model(tmp_path / "m.safetensors", tiny_network(), metadata)
        with pytest.raises(CheckpointError, match="network has 19 classes, its metadata 18"):
            load_for_training(str(tmp_path / "m.safetensors"), CITYSCAPES)

    def test_weights_of_another_architecture(self, tmp_path: Path) -> None:
        metadata = tiny_metadata(architecture="erfnet", arguments={"num_classes": 19})
        save_model(tmp_path / "m.safetensors", tiny_network(), metadata)
        with pytest.raises(
            CheckpointError, match=r"m\.safetensors does not fit ERFNet: .*missing"
        ):
            load_for_training(str(tmp_path / "m.safetensors"), CITYSCAPES)


def test_every_trained_parameter_is_in_one_group() -> None:
    network = build_network("deeplab_v3plus_lite", {**ARGUMENTS, "outlier_head": True})
    network.aspp.requires_grad_(False)
    groups = parameter_groups(network, 1.0, 2.0, 3.0, 0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(next(network.backbone.parameters()))] == 2.0
    assert rates[id(network.classifier.weight)] == 1.0
    assert rates[id(network.outlier_head.conv.weight)] == 3.0
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
