# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights in the trunks: features equal torchvision's, and nothing is loaded by half."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.models.registry import build_network
from training.pretrained import is_trunk_file, load_imagenet, load_trunk, weights_of

models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")


def published(builder: str) -> nn.Module:
    """torchvision's network with random weights and statistics, in eval mode."""
    torch.manual_seed(1)
    network = models.get_model(builder, weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


def started(
    architecture: str, arguments: dict[str, Any], state: dict[str, Tensor], path: Path
) -> SegmentationNetwork:
    torch.save(state, path)
    assert is_trunk_file(path, architecture, arguments)
    network = build_network(architecture, arguments).eval()
    weights = weights_of(architecture, arguments)
    loaded = load_trunk(network, path, weights)
    trunk = {k for k in network.state_dict() if k.startswith(network.trunk)}
    assert set(loaded.kept) == trunk
    assert len(loaded.kept) + len(loaded.left_out) == len(state)
    return network


@torch.inference_mode()
def test_densenet_features_are_torchvisions(tmp_path: Path) -> None:
    theirs = published("densenet121")
    path = tmp_path / "densenet121.pth"
    network = started("ladder_densenet121", {"num_classes": 12}, theirs.state_dict(), path)
    images = torch.rand(1, 3, 64, 96)
    stem = network.backbone.features[:3](images)
    assert torch.equal(stem, theirs.features[:3](images))
    # The pooling is the ladder's own; it holds no weights.
    theirs.features.pool0 = nn.MaxPool2d(2)
    for number in (1, 2, 3):
        pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        getattr(theirs.features, f"transition{number}").pool = pool
    # All but norm5, which belongs to ImageNet's classifier.
    expected = theirs.features[:-1](images)
    torch.testing.assert_close(network.backbone(images)[-1], expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_resnet_features_are_torchvisions(tmp_path: Path) -> None:
    theirs = published("resnet101")
    path = tmp_path / "resnet101.pth"
    arguments = {"num_classes": 12, "stem": "plain"}
    network = started("resnet101", arguments, theirs.state_dict(), path)
    images = torch.rand(1, 3, 64, 96)
    # Ours dilates where theirs strides.
    for stage, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        stage[0].downsample[0].stride = (1, 1)
        for block in stage:
            block.conv2.stride = (1, 1)
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    fine = theirs.layer1(x)
    deep = theirs.layer4(theirs.layer3(theirs.layer2(fine)))
    actual = network.features(images)
    torch.testing.assert_close(actual[0], fine, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual[1], deep, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("factory", "builder"),
    [
        ("torchvision:fcn_resnet50", "resnet50"),
        ("torchvision:lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
    ],
)
def test_wrapped_networks_take_torchvisions_trunks(
    tmp_path: Path, factory: str, builder: str
) -> None:
    theirs = published(builder)
    arguments = {"num_classes": 5, "factory": factory}
    network = started("wrapped", arguments, theirs.state_dict(), tmp_path / "trunk.pth")
    # Downloading would find the same network's.
    weights = models.get_weight(weights_of("wrapped", arguments).published)
    assert weights in models.get_model_weights(builder)
    trunk = theirs.features if builder.startswith("mobilenet") else theirs
    for key, value in network.network.backbone.state_dict().items():
        assert torch.equal(value, trunk.state_dict()[key]), key


@pytest.mark.slow
def test_wide_resnet_as_it_was_published(tmp_path: Path) -> None:
    """NVIDIA's classification network: our trunk's names, under "state_dict" and "module."."""
    torch.manual_seed(2)
    source = build_network("wide_resnet38", {"num_classes": 19})
    trunk = {k: v for k, v in source.state_dict().items() if k.startswith("mod")}
    own = {"bn_out.0.weight": torch.ones(4096), "classifier.fc.weight": torch.zeros(1000, 4096)}
    state = {f"module.{key}": value for key, value in {**trunk, **own}.items()}
    path = tmp_path / "wider_resnet38.pth.tar"
    torch.save({"state_dict": state}, path)
    network = build_network("wide_resnet38", {"num_classes": 12})
    loaded = load_trunk(network, path, weights_of("wide_resnet38", {}))
    assert set(loaded.left_out) == set(own)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in trunk.items())


class TestBadTrunks:
    def test_the_deep_stem_has_no_imagenet_weights(self, tmp_path: Path) -> None:
        network = build_network("resnet101", {"num_classes": 3})
        with pytest.raises(ParameterError, match=r"one 7x7 convolution, not 'deep'; set stem"):
            load_imagenet(network, "resnet101", {})

    def test_a_smaller_trunk_is_not_loaded_by_half(self, tmp_path: Path) -> None:
        torch.save(models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pth")
        network = build_network("resnet101", {"num_classes": 3, "stem": "plain"})
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(
            CheckpointError, match=r"resnet50.pth does not fit .* missing \(layer3"
        ):
            load_trunk(network, tmp_path / "resnet50.pth", weights_of("resnet101", {}))
        assert all(torch.equal(value, before[k]) for k, value in network.state_dict().items())

    def test_a_key_that_is_missing_is_named_with_its_file(self, tmp_path: Path) -> None:
        state = models.densenet121(weights=None).state_dict()
        del state["features.transition2.conv.weight"]
        torch.save(state, tmp_path / "densenet.pth")
        network = build_network("ladder_densenet121", {"num_classes": 3})
        weights = weights_of("ladder_densenet121", {})
        with pytest.raises(CheckpointError, match=r"densenet.pth: .*features\.transition2\.conv"):
            load_trunk(network, tmp_path / "densenet.pth", weights)

    @pytest.mark.parametrize("architecture", ["wide_resnet38", "erfnet"])
    def test_what_cannot_be_downloaded(self, architecture: str) -> None:
        with torch.device("meta"):
            network = build_network(architecture, {})
        with pytest.raises(CheckpointError, match=f"no weights of {architecture} can") as caught:
            load_imagenet(network, architecture, {})
        assert ("wider_resnet38.pth.tar" in str(caught.value)) == (architecture != "erfnet")

    def test_a_builder_that_torchvision_does_not_have(self) -> None:
        with pytest.raises(CheckpointError, match=r"network.arguments: torchvision:fcn_resnet5:"):
            weights_of("wrapped", {"factory": "torchvision:fcn_resnet5"})


class TestDownload:
    FILE = "densenet121-a639ec97.pth"

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        return tmp_path / "hub" / "checkpoints"

    def test_what_torch_has_already_is_used(self, cache: Path) -> None:
        theirs = published("densenet121").state_dict()
        cache.mkdir(parents=True)
        torch.save(theirs, cache / self.FILE)
        network = build_network("ladder_densenet121", {"num_classes": 12})
        load_imagenet(network, "ladder_densenet121", {})
        key = "features.denseblock4.denselayer16.conv2.weight"
        assert torch.equal(network.backbone.state_dict()[key], theirs[key])

    def test_without_a_network_the_url_and_the_path_are_named(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def offline(*arguments: Any) -> None:
            asked.append(arguments)
            raise URLError("no route to host")

        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        network = build_network("ladder_densenet121", {"num_classes": 12})
        with pytest.raises(CheckpointError) as caught:
            load_imagenet(network, "ladder_densenet121", {})
        url = f"https://download.pytorch.org/models/{self.FILE}"
        message = str(caught.value)
        assert f"{url} cannot be downloaded" in message
        assert "no route to host" in message
        assert f"put the file at {cache / self.FILE}, or" in message
        # torch compares the content with the hash in the name.
        assert asked == [(url, str(cache / self.FILE), "a639ec97")]
