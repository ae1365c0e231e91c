# SPDX-License-Identifier: Apache-2.0
"""Foreign networks under the contract: what is found, what is computed, what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_foreign import (
    CLASSES,
    Calibrated,
    Foreign,
    LateAuxiliary,
    TwoClassifiers,
    around,
    own_output,
)
from torch import nn
from torch.export import Dim, export

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.checkpoints.wrapping import wrap
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models import wrapped as wrapped_module
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.models.wrapped import WrappedNetwork

RESNET50 = {"backbone.layer1": 256, "backbone.layer4": 2048}  # dilated from layer3 on
RESNET18 = {f"encoder.layer{stage}": 32 * 2**stage for stage in (1, 2, 3, 4)}
MOBILENET = {"backbone.3": 24, "backbone.6": 40, "backbone.16": 960}
# Factory, arguments, output stride, channels of the pre-logits, align_corners of its upsampling,
# and the blocks at which its trunk's strides end, with their channels.
PUBLIC = [
    ("torchvision:deeplabv3_resnet50", {"aux_loss": True}, 8, 256, False, RESNET50),
    ("torchvision:fcn_resnet50", {}, 8, 512, False, RESNET50),
    ("torchvision:lraspp_mobilenet_v3_large", {}, 8, 168, False, MOBILENET),
    ("smp:FPN", {"encoder_name": "resnet18"}, 4, 128, True, RESNET18),
    ("smp:Unet", {"encoder_name": "resnet18"}, 1, 16, False, RESNET18),
]
PUBLIC_IDS = [factory for factory, *_ in PUBLIC]


def test_layout_is_found_from_the_pre_logit_layer() -> None:
    network = around(LateAuxiliary(), pre_logits="head.1")
    assert network.trainable_parts["last_layer"] == ("network.head.3",)
    assert network.trainable_parts["classification_head"] == ("network.head",)
    assert network.trainable_parts["upper"] == ("network.backbone.1", "network.head")
    # Without the auxiliary head, which is not used.
    assert network.trainable_parts["all"] == ("network.backbone", "network.head")
    assert network.trunk == ("network.backbone",)
    assert (network.output_stride, network.pre_logits_channels) == (4, 12)


def test_logits_are_those_of_the_network_before_its_upsampling() -> None:
    network = around(Foreign(), pre_logits="head.1")
    images = torch.randn(2, 3, 24, 40)
    with torch.inference_mode():
        output = network(images)
        features = network.network.backbone(images)
        expected = network.network.head[:2](features)
        own = own_output(network, images)
        classified = network.classify(output.pre_logits)
    torch.testing.assert_close(output.pre_logits, expected)
    assert output.logits.shape == (2, CLASSES, 6, 10)
    torch.testing.assert_close(classified, output.logits)
    upsampled = F.interpolate(output.logits, size=(24, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled, own)


def test_nothing_behind_the_classifier_runs() -> None:
    network = around(LateAuxiliary(), pre_logits="head.1")
    ran = []
    network.network.auxiliary.register_forward_hook(lambda *_: ran.append("auxiliary"))
    network.network.backbone.register_forward_hook(lambda *_: ran.append("backbone"))
    network(torch.randn(1, 3, 16, 16))
    assert ran == ["backbone"]


def test_a_network_can_be_wrapped_again() -> None:
    own = LateAuxiliary()
    images = torch.randn(1, 3, 16, 16)
    first = around(own, pre_logits="head.1")
    second = around(own, classifier="head.3")
    torch.testing.assert_close(first(images).logits, second(images).logits)
    with pytest.raises(RuntimeError):
        first(torch.randn(1, 7, 16, 16))
    assert own(images)["aux"].shape == (1, CLASSES, 4, 4)


def test_several_classifiers_are_added() -> None:
    network = around(TwoClassifiers(), classifier=["auxiliary", "head.3"], outlier_head=True)
    assert network.arguments["classifier"] == ["head.3", "auxiliary"]  # in the order they run
    images = torch.randn(1, 3, 16, 24)
    with torch.inference_mode():
        output = network(images)
        own = own_output(network, images)
    assert output.pre_logits.shape[1] == network.pre_logits_channels == 12 + 8
    assert output.ood_logits.shape == (1, 2, 4, 6)
    upsampled = F.interpolate(output.logits, size=(16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled, own)


def test_abstention_is_computed_and_not_returned() -> None:
    network = around(Foreign(CLASSES + 1), pre_logits="head.1", abstention=True)
    output = network(torch.randn(1, 3, 16, 16))
    every = network.all_outputs(output.pre_logits)
    assert (output.logits.shape[1], every.shape[1]) == (CLASSES, CLASSES + 1)
    torch.testing.assert_close(every[:, :CLASSES], output.logits)


def test_a_copy_has_its_own_taps() -> None:
    """Training keeps an average of the weights in a deep copy."""
    network = around(Foreign(), pre_logits="head.1")
    images = torch.randn(1, 3, 16, 16)
    before = network(images).logits
    twin = copy.deepcopy(network)
    nn.init.zeros_(twin.network.backbone[0][0].weight)
    nn.init.zeros_(twin.network.backbone[0][0].bias)
    assert not torch.equal(twin(images).logits, before)
    torch.testing.assert_close(network(images).logits, before)


def test_a_gradient_reaches_what_is_used() -> None:
    network = around(LateAuxiliary(), pre_logits="head.1").train()
    network(torch.randn(2, 3, 16, 16)).logits.logsumexp(1).mean().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    assert without == {"network.auxiliary.weight", "network.auxiliary.bias"}


def test_probing_leaves_the_network_as_it_was() -> None:
    network = Foreign().train()
    network.head.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    WrappedNetwork.around(network, num_classes=CLASSES, size_multiple=4, pre_logits="head.1")
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_round_trip_through_a_file(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LateAuxiliary(19, width=6, corners=True)
    network, metadata = wrap(
        own,
        name="mine",
        factory=registered,
        factory_arguments={"width": 6, "corners": True},
        pre_logits="head.1",
        size_multiple=4,
        inference_size=(32, 48),
        trainable_parts={"classification_head": ["head.0", "head.3"]},
    )
    path = tmp_path / "mine.safetensors"
    save_model(path, network, metadata)
    # What was found stands in the file.
    monkeypatch.setattr(wrapped_module, "probe", None)
    loaded, described = load_model(path)
    assert described.arguments == json.loads(json.dumps(metadata.arguments)) == loaded.arguments
    assert loaded.align_corners is True
    assert loaded.trainable_parts == network.trainable_parts
    assert loaded.trainable_parts["classification_head"] == ("network.head.0", "network.head.3")
    images = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        logits = loaded(images).logits
        expected = own.eval()(images)["out"]
    upsampled = F.interpolate(logits, size=(32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsampled, expected)

    prediction = Segmenter.load(path, device="cpu").predict(np.zeros((40, 60, 3), np.uint8))
    assert prediction.labels.shape == (40, 60)


def test_weights_are_loaded_strictly(registered: str) -> None:
    arguments = {"pre_logits": "head.1", "size_multiple": 4, "inference_size": (32, 32)}
    state = LateAuxiliary(19).state_dict()
    network, _ = wrap(registered, weights=state, **arguments)
    assert torch.equal(network.network.head[3].weight, state["head.3.weight"])
    del state["auxiliary.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(auxiliary\.weight\)"):
        wrap(registered, weights=state, **arguments)


def test_a_network_without_a_factory_cannot_be_loaded(tmp_path: Path) -> None:
    network, metadata = wrap(
        Foreign(19), pre_logits="head.1", size_multiple=4, inference_size=(32, 32)
    )
    path = tmp_path / "orphan.safetensors"
    save_model(path, network, metadata)
    with pytest.raises(CheckpointError, match="without a factory"):
        load_model(path)


@pytest.mark.parametrize(
    "factory",
    [
        "os:system",
        "subprocess",
        "models.test_wrapped:Foreign",
        "torchvision:resnet50.x",
        "smp:base",
    ],
)
def test_a_file_cannot_name_code(factory: str) -> None:
    if factory.startswith("torchvision:"):
        pytest.importorskip("torchvision", reason="torchvision is not installed")
    if factory.startswith("smp:"):
        pytest.importorskip(
            "segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed"
        )
    with pytest.raises(CheckpointError, match=f"unknown network factory '{factory}'"):
        build_network("wrapped", {"factory": factory, "pre_logits": "x"})


@pytest.mark.parametrize(
    ("factory", "arguments", "named"),
    [
        ("torchvision:fcn_resnet50", {"weights": "DEFAULT"}, "weights"),
        ("torchvision:fcn_resnet50", {"pretrained": True}, "pretrained"),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}, "weights_backbone"),
        ("smp:FPN", {"encoder_weights": "imagenet"}, "encoder_weights"),
        ("smp:FPN", {"encoder_name": "tu-hf-hub:someone/something"}, "encoder_name"),
        (
            "smp:FPN",
            {"encoder_name": "tu-resnet18", "checkpoint_path": "x.pth"},
            "checkpoint_path",
        ),
    ],
)
def test_a_file_cannot_ask_for_downloads(factory: str, arguments: dict, named: str) -> None:
    package = {"torchvision": "torchvision", "smp": "segmentation_models_pytorch"}
    package = package[factory.partition(":")[0]]
    pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(CheckpointError, match=named):
        build_network("wrapped", {"factory": factory, "factory_arguments": arguments})


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (Foreign(), {}, "pre_logits"),
        (Foreign(), {"pre_logits": "head.9"}, r"'head\.9' does not run.*head\.3"),
        (Foreign(), {"pre_logits": "head.3"}, "no layer with 5 output channels.*'head.3'"),
        (Foreign(), {"pre_logits": "head.0", "classifier": "head.0"}, r"'head\.0' gives"),
        (Foreign(), {"classifier": "head"}, r"'head' has no parameters .* of head\.0, head\.3"),
        # Runs next and has K channels, but reads something else, and makes no logits.
        (LateAuxiliary(), {"pre_logits": "head.2", "classifier": "auxiliary"}, "auxiliary reads"),
        (LateAuxiliary(), {"classifier": "auxiliary"}, "no interpolation"),
        (Calibrated(), {"pre_logits": "head.1"}, "no interpolation of what head.3"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), {"classifier": "1"}, r"'1' gives"),
    ],
)
def test_layers_that_do_not_fit_are_named(
    network: nn.Module, arguments: dict, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        around(network, **arguments)


def test_a_network_that_ends_in_a_softmax_is_taken_when_told() -> None:
    network = around(Calibrated(), pre_logits="head.1", returns_logits=False)
    assert network.trainable_parts["last_layer"] == ("network.head.3",)


def test_layers_that_a_file_names_must_exist(registered: str) -> None:
    _, metadata = wrap(registered, pre_logits="head.1", size_multiple=4, inference_size=(32, 32))
    arguments = {**metadata.arguments, "classifier": ["head.7"]}
    metadata = replace(metadata, arguments=arguments)
    with pytest.raises(CheckpointError, match=r"no layer 'head\.7'"):
        build_network(metadata.architecture, metadata.arguments)
    with pytest.raises(CheckpointError, match=r"expected an nn\.Module"):
        build_network("wrapped", {**arguments, "module": "os"})


def test_inference_size_must_fit(registered: str) -> None:
    with pytest.raises(ParameterError, match="size_multiple 4"):
        wrap(registered, pre_logits="head.1", size_multiple=4, inference_size=(30, 32))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["export", "compile"])
def test_dynamic_sizes_after_tracing(how: str) -> None:
    network = around(LateAuxiliary(), pre_logits="head.1", outlier_head=True)
    if how == "export":
        h, w = Dim("h", min=2, max=64), Dim("w", min=2, max=64)
        sizes = ({2: 4 * h, 3: 4 * w},)
        traced = export(network, (torch.randn(1, 3, 16, 24),), dynamic_shapes=sizes).module()
    else:
        traced = torch.compile(network, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in ((16, 24), (24, 16), (32, 40)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected, actual = network(images), traced(images)
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "arguments", "stride", "channels", "corners", "features"), PUBLIC, ids=PUBLIC_IDS
)
def test_public_networks(
    factory: str,
    arguments: dict,
    stride: int,
    channels: int,
    corners: bool,
    features: dict[str, int],
    tmp_path: Path,
) -> None:
    package = "torchvision" if factory.startswith("torchvision") else "segmentation_models_pytorch"
    pytest.importorskip(package, reason=f"{package} is not installed")
    torch.manual_seed(0)
    network, metadata = wrap(
        factory,
        factory_arguments=arguments,
        inference_size=(64, 96),
        outlier_head={"width": 8, "blocks": 1},
    )
    assert metadata.arguments["feature_layers"] == features
    images = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        output = network(images)
        own = own_output(network, images)
    assert (network.output_stride, network.pre_logits_channels) == (stride, channels)
    assert network.align_corners is corners
    assert output.logits.shape == (1, 19, 128 // stride, 160 // stride)
    assert output.pre_logits.shape[1] == channels
    assert output.ood_logits.shape == (1, 2, *output.logits.shape[-2:])
    upsampled = F.interpolate(
        output.logits, size=(128, 160), mode="bilinear", align_corners=corners
    )
    torch.testing.assert_close(upsampled, own, rtol=0, atol=1e-5)

    path = tmp_path / "public.safetensors"
    save_model(path, network, metadata)
    loaded, _ = load_model(path)
    assert loaded.align_corners is corners
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images).logits, output.logits, rtol=0, atol=0)
