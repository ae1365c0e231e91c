# SPDX-License-Identifier: Apache-2.0
"""The outlier branch: it reads any network of the contract and changes nothing of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models.layout_facts import build_empty, build_seeded
from models.seeded_weights import seeded_image
from models.test_contract import CASES, case
from tiny import ARGUMENTS, tiny_metadata
from tiny_backends import CPU, METADATA, frames, plain, select
from tiny_foreign import Foreign, around
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.export import files
from anomaly_seg_ros.export.comparison import TOLERANCE
from anomaly_seg_ros.export.deployment import Deployment
from anomaly_seg_ros.inference.options import ONNXRUNTIME, OPENVINO, TORCH, TORCH_COMPILE
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models import efficientnet_lite
from anomaly_seg_ros.models.efficientnet_lite import EfficientNetLite
from anomaly_seg_ros.models.for_inference import fold_batchnorm
from anomaly_seg_ros.models.input_scaling import SCALINGS, UNSCALED, InputScaling
from anomaly_seg_ros.models.outlier_branch import OutlierBranch, branch_options, build_outlier_head
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.system.stopwatch import Stopwatch

SMALL = {"width": 8, "blocks": 1}
WITH_CONTEXT = {**SMALL, "context": "lite0"}
# Compilers, and networks of hundreds of megabytes.
SLOW = pytest.mark.slow
# One of each architecture; those of hundreds of megabytes take seconds.
ARCHITECTURES = [
    *("lite0", "erfnet", "efficientvit_b0", "ladder", "wrapped"),
    *(pytest.param(name, marks=SLOW) for name in ("resnet101 deep", "wide_resnet38")),
]


@pytest.fixture
def tiny_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context trunk of a tenth of the width, which every backend compiles in a moment."""
    monkeypatch.setitem(efficientnet_lite.VARIANTS, "lite0", (0.1, 0.3))


def settled(network: nn.Module) -> nn.Module:
    """Random BatchNorm statistics and classifiers that tell pixels apart, in eval mode."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def tiny(outlier_head: dict[str, Any] | bool, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {**ARGUMENTS, "outlier_head": outlier_head}
    return settled(build_network("deeplab_v3plus_lite", arguments))


def without_branch(network: SegmentationNetwork, empty: nn.Module) -> nn.Module:
    """A network that never had a branch, with the same tensors."""
    state = network.state_dict()
    empty.load_state_dict({key: state[key] for key in empty.state_dict()}, assign=True)
    return empty


def check_bit_for_bit(network: SegmentationNetwork, empty: nn.Module) -> None:
    """Same pre-logits and logits; nothing is kept; features are read as their layers gave them."""
    expected = without_branch(network, empty)
    given: list[tuple[Tensor, Tensor]] = []
    for path in network.feature_layers:
        network.get_submodule(path).register_forward_hook(
            lambda module, inputs, output: given.append((output, output.clone()))
        )
    images = seeded_image(64, 96)
    with torch.inference_mode():
        output, plain_output = network(images), expected(images)
    assert output.ood_logits.shape == (1, 2, *output.logits.shape[-2:])
    assert output.ood_logits.std() > 0
    assert plain_output.ood_logits is None
    assert torch.equal(output.logits, plain_output.logits)
    assert torch.equal(output.pre_logits, plain_output.pre_logits)
    # No layer behind changes a feature in place before the branch reads it.
    assert len(given) == len(network.feature_layers)
    assert all(torch.equal(now, then) for now, then in given)
    assert all(tap._kept is None for tap in network.outlier_head._taps)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_closed_set_stays_bit_for_bit(name: str) -> None:
    network = build_seeded(**case(name, outlier_head=SMALL))
    check_bit_for_bit(network, build_empty(**case(name)))


class Reused(Foreign):
    """Its activation runs behind every stage, and its second stage is a block of two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "stem": nn.Conv2d(3, 8, 3, 4, 1),
                "block": nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, 2, 1)),
                "activation": nn.Hardswish(),
            }
        )
        self.backbone.forward = self.features

    def features(self, images: Tensor) -> Tensor:
        stem, block, activation = self.backbone.values()
        return activation(block(activation(stem(images))))


def test_neither_reused_layers_nor_the_inside_of_a_block_are_features() -> None:
    network = around(Reused(), pre_logits="head.1", size_multiple=8, outlier_head=SMALL)
    expected = {"network.backbone.stem": 8, "network.backbone.block": 8}
    assert network.feature_layers == expected


@pytest.mark.parametrize("name", CASES)
def test_feature_layers_are_declared_from_fine_to_coarse(name: str) -> None:
    """They have the declared channels, on grids that get coarser."""
    network = build_empty(**case(name, outlier_head=SMALL))
    found: list[Tensor] = []
    for path in network.feature_layers:
        network.get_submodule(path).register_forward_hook(
            lambda module, inputs, output: found.append(output)
        )
    network(torch.empty(1, 3, 128, 192, device="meta"))
    channels = [x.shape[1] for x in found]
    assert channels == list(network.feature_layers.values())
    strides = [128 // x.shape[2] for x in found]
    assert strides == sorted(strides)
    assert strides[0] < strides[-1]
    assert [tuple(x.shape[2:]) for x in found] == [(128 // n, 192 // n) for n in strides]
    projections = [layer[0].in_channels for layer in network.outlier_head.inputs]
    assert projections == [*channels, network.pre_logits_channels, network.num_classes]


def test_the_formula() -> None:
    """Projections on the finest grid, their sum, the bottlenecks, the last layer; by hand."""
    network = tiny(SMALL)
    branch = network.outlier_head
    images = seeded_image(64, 96)
    with torch.inference_mode():
        output = network(images)
        reads = [*network.backbone(images), output.pre_logits, output.logits]
        total = 0
        for (conv, norm), x in zip(branch.inputs, reads, strict=True):
            projected = norm(torch.einsum("oi,nihw->nohw", conv.weight[..., 0, 0], x))
            total = total + F.interpolate(projected, (16, 24), mode="bilinear")
        for block in branch.blocks:
            total = total + block.main(total)
        total = total * (total + 3).clamp(0, 6) / 6
        weight, bias = branch.conv.weight[..., 0, 0], branch.conv.bias
        expected = torch.einsum("oi,nihw->nohw", weight, total) + bias[:, None, None]
    torch.testing.assert_close(output.ood_logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_context_trunk_sees_what_imagenet_s_saw(scaling: str, scale: float) -> None:
    """Whatever the network's own scaling is: the trunk's input is (x - 127) / 128."""
    own: InputScaling = SCALINGS[scaling]
    options = {**WITH_CONTEXT, "mean": own.mean, "std": own.std, "context_scale": scale}
    network = tiny(options)
    seen: list[Tensor] = []
    network.outlier_head.context.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        network(own(pixels))
    expected = (pixels.float() - 127) / 128
    if scale < 1:
        expected = F.avg_pool2d(expected, 2)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_the_context_trunk_is_read_at_strides_8_to_32(tiny_context: None) -> None:
    network = tiny(WITH_CONTEXT)
    branch = network.outlier_head
    widths = [layer[0].in_channels for layer in branch.inputs]
    assert widths[-3:] == list(EfficientNetLite("lite0").out_channels[1:])
    images = seeded_image(64, 96)
    with torch.inference_mode():
        before = network(images)
        branch.context.stem[0][0].weight.zero_()
        after = network(images)
    assert not torch.equal(after.ood_logits, before.ood_logits)
    assert torch.equal(after.logits, before.logits)
    assert branch._image._kept is None


def test_no_training_mode_reaches_the_context_trunk(tiny_context: None) -> None:
    network = tiny(WITH_CONTEXT).train()
    assert network.outlier_head.blocks.training
    assert not any(m.training for m in network.outlier_head.context.modules())
    assert not any(p.requires_grad for p in network.outlier_head.context.parameters())
    before = {k: v.clone() for k, v in network.outlier_head.context.state_dict().items()}
    network(torch.randn(2, 3, 64, 64)).ood_logits.sum().backward()
    after = network.outlier_head.context.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_copy_has_its_own_taps(tiny_context: None) -> None:
    """Also after a forward pass that failed, or of the trunk alone, with gradients."""
    network = tiny(WITH_CONTEXT)
    images = seeded_image(64, 96)
    before = network(images).ood_logits
    network.backbone(images)
    twin = copy.deepcopy(network)
    assert all(tap._kept is None for tap in twin.outlier_head._taps)
    for trunk in (twin.backbone, twin.outlier_head.context):
        nn.init.zeros_(trunk.stem[0][0].weight)
    changed = twin(images).ood_logits
    assert not torch.equal(changed, before)
    assert torch.equal(network(images).ood_logits, before)
    assert torch.equal(twin(images).ood_logits, changed)


def test_it_runs_within_its_network_only() -> None:
    network = tiny(SMALL)
    with pytest.raises(RuntimeError, match="within its network's forward pass only"):
        network.outlier_head(torch.zeros(1, 16, 4, 4), torch.zeros(1, 19, 4, 4))


def check_round_trip(
    path: Path, network: nn.Module, arguments: dict[str, Any], **how: Any
) -> None:
    save_model(path, network, tiny_metadata(arguments=arguments, **how))
    loaded, metadata = load_model(path)
    assert metadata.arguments["outlier_head"] == arguments["outlier_head"]
    # The order says which layer is the finest.
    assert list(loaded.feature_layers.items()) == list(network.feature_layers.items())
    assert loaded.state_dict().keys() == network.state_dict().keys()
    images = seeded_image(64, 96)
    with torch.inference_mode():
        output, expected = loaded(images), network.eval()(images)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.ood_logits, expected.ood_logits)


def test_round_trip_through_a_file(tmp_path: Path, tiny_context: None) -> None:
    options = {**WITH_CONTEXT, "mean": list(UNSCALED.mean), "std": list(UNSCALED.std)}
    arguments = {**ARGUMENTS, "outlier_head": options}
    check_round_trip(tmp_path / "m.safetensors", tiny(options), arguments)


def test_round_trip_of_a_wrapped_network(tmp_path: Path) -> None:
    arguments = {k: v for k, v in case("wrapped").items() if k != "architecture"}
    network = settled(build_network("wrapped", {**arguments, "outlier_head": SMALL}))
    assert network.arguments["outlier_head"] == SMALL
    check_round_trip(
        tmp_path / "m.safetensors", network, network.arguments, architecture="wrapped"
    )


def test_batchnorm_folds(tiny_context: None) -> None:
    network = tiny(WITH_CONTEXT)
    images = seeded_image(64, 96)
    with torch.inference_mode():
        expected = network(images)
        folded = fold_batchnorm(network)
        output = folded(images)
    left = [n for n, m in folded.outlier_head.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert not left
    torch.testing.assert_close(output.ood_logits, expected.ood_logits, rtol=1e-4, atol=1e-4)


class Flat(SegmentationNetwork):
    """One sequence, so that a feature layer may be a convolution or its BatchNorm."""

    num_classes = 19
    output_stride = size_multiple = 8
    pre_logits_channels = 8

    def __init__(
        self, outlier_head: dict[str, Any] | bool, read: tuple[int, int] = (2, 5)
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, stride in ((3, 4), (8, 2)):
            convolution = nn.Conv2d(c_in, 8, 3, stride, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(8), nn.Hardswish()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(8, 19, 1)
        with torch.no_grad():
            self.classifier.weight.mul_(8)
        self.feature_layers = {f"features.{index}": 8 for index in read}
        self.outlier_head = build_outlier_head(self, outlier_head)

    def classify(self, pre_logits: Tensor) -> Tensor:
        return self.classifier(pre_logits)

    def forward(self, images: Tensor) -> NetworkOutput:
        return self.outputs(self.features(images))


@pytest.mark.parametrize("read", [(0, 3), (1, 4), (1, 5)])
def test_layers_that_a_branch_reads_are_not_folded(read: tuple[int, int]) -> None:
    network = settled(Flat(SMALL, read))
    images = seeded_image(64, 96)
    with torch.inference_mode():
        expected = network(images)
        folded = fold_batchnorm(network)
        output = folded(images)
    assert isinstance(folded.features[1], nn.BatchNorm2d)
    assert isinstance(folded.features[4], nn.BatchNorm2d) == (read[1] < 5)
    torch.testing.assert_close(output.ood_logits, expected.ood_logits, rtol=1e-4, atol=1e-5)


def flat_with_context() -> Flat:
    torch.manual_seed(0)
    return settled(Flat({**WITH_CONTEXT, "mean": METADATA.mean, "std": METADATA.std}))


@pytest.mark.parametrize(
    "name",
    [
        TORCH,
        *(pytest.param(x, marks=SLOW) for x in (ONNXRUNTIME, OPENVINO)),
        # For a minute, what the test below traces in a moment.
        pytest.param(TORCH_COMPILE, marks=pytest.mark.exhaustive),
    ],
)
def test_every_backend_computes_it(name: str, tiny_context: None) -> None:
    if name in (ONNXRUNTIME, OPENVINO):
        pytest.importorskip(name, reason=f"{name} is not installed")
    reference = flat_with_context()
    network = fold_batchnorm(copy.deepcopy(reference))
    backend = select(name, "fp32", network=network, num_threads=1).backend
    other_size = (64, 96) if name == TORCH_COMPILE else (96, 64)
    for seed, size in enumerate([(64, 96), other_size, (64, 96)]):
        batch, another = frames(1, *size, seed), frames(1, *size, seed + 9)
        output = backend(batch, Stopwatch(CPU))
        expected = plain(reference, METADATA, batch)
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(output.ood_logits, expected.ood_logits, rtol=0, atol=1e-3)
        # The tolerance means something: another frame lies far outside it.
        difference = output.ood_logits - plain(reference, METADATA, another).ood_logits
        assert difference.abs().mean() > 0.01


@pytest.mark.slow
def test_it_compiles_as_one_graph_without_state(tiny_context: None) -> None:
    """Nothing goes from a frame to the next, which a CUDA graph would not see either."""
    network = flat_with_context()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for seed in range(2):
            images = seeded_image(64, 96, key=str(seed))
            output, expected = compiled(images), network(images)
            torch.testing.assert_close(output.ood_logits, expected.ood_logits)
            assert not [tap for tap in network.outlier_head._taps if tap._kept is not None]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    # Its translation is that of the backend above, its free sizes are those of the program.
    "kind",
    ["program", pytest.param("onnx", marks=pytest.mark.exhaustive)],
)
def test_an_export_computes_it_at_any_size(kind: str, tmp_path: Path, tiny_context: None) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    deployment = Deployment(flat_with_context(), METADATA, "dense_hybrid")
    write = files.export_onnx if kind == "onnx" else files.export_program
    assert write(deployment, tmp_path / f"model.{kind}").worst <= TOLERANCE


@torch.no_grad()
def test_predictions_and_scores(tmp_path: Path) -> None:
    """Those of known classes as without a branch; those of the head by their formulas."""
    arguments = {**ARGUMENTS, "outlier_head": SMALL}
    network = tiny(SMALL)
    save_model(tmp_path / "m.safetensors", network, tiny_metadata(arguments=arguments))
    exact = {"device": "cpu", "precision": "fp32", "backend": "torch"}
    segmenter = Segmenter.load(tmp_path / "m.safetensors", **exact)
    heads = ("outlier_head", "dense_hybrid", "k_plus_1")
    assert set(heads) <= set(segmenter.available_scores)
    plain_network = without_branch(
        tiny(SMALL), build_empty("deeplab_v3plus_lite", **ARGUMENTS, outlier_head=False)
    )
    image = frames(1, 64, 96)[0]
    found = segmenter.predict(image, ("energy", "max_logit", *heads))
    without = Segmenter(plain_network, tiny_metadata(), **exact)
    expected = without.predict(image, ("energy", "max_logit"))
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.confidence, expected.confidence)
    for name, score in expected.scores.items():
        assert np.array_equal(found.scores[name], score), name

    output = plain(network, tiny_metadata(), image[None])
    logits, ood_logits = output.logits.double(), output.ood_logits.double()
    evidence = logits.exp().sum(1).log()
    posterior = (ood_logits[:, 1].exp() / ood_logits.exp().sum(1)).log()
    formulas = {
        "outlier_head": posterior,
        "dense_hybrid": posterior - evidence,
        "k_plus_1": ood_logits[:, 1] - ood_logits[:, 0] - evidence,
    }
    for name, formula in formulas.items():
        whole = F.interpolate(formula[None], (64, 96), mode="bilinear")[0, 0]
        np.testing.assert_allclose(found.scores[name], whole, rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 8}, "outlier_branch has no option 'widht'; did you mean width"),
        ({"zzz": 8}, "outlier_branch has no option 'zzz'; it has width, blocks, context"),
        ({3: 8}, "outlier_branch has no option 3; it has width"),
        ({"width": 0}, "outlier_branch.width is 0, expected a whole number from 1 to 4096"),
        ({"width": "48"}, "outlier_branch.width is '48', expected a whole number"),
        ({"width": True}, "outlier_branch.width is True, expected a whole number"),
        ({"blocks": -1}, "outlier_branch.blocks is -1, expected a whole number from 0 to 64"),
        ({"blocks": 10**9}, "outlier_branch.blocks is 1000000000, expected a whole number"),
        ({"blocks": 1.5}, "outlier_branch.blocks is 1.5, expected a whole number"),
        ({"context": "lite1"}, "outlier_branch.context is 'lite1', expected one of '', lite0"),
        ({"context": ["lite0"]}, "outlier_branch.context is ['lite0'], expected one of"),
        (
            {"context_scale": 0},
            "outlier_branch.context_scale is 0, expected a number from 0.1 to 1",
        ),
        (
            {"context_scale": float("nan")},
            "outlier_branch.context_scale is nan, expected a number",
        ),
        ({"mean": [0.5, 0.5]}, "outlier_branch.mean is [0.5, 0.5], expected three numbers"),
        ({"std": [0.5, 0.5, 0]}, "outlier_branch.std is [0.5, 0.5, 0], expected three positive"),
        ({"std": None}, "outlier_branch.std is None, expected three positive numbers"),
        ("yes", "outlier_head is 'yes', expected true, false or options of OutlierBranch"),
        (1, "outlier_head is 1, expected true, false or options of OutlierBranch"),
    ],
)
def test_wrong_options_are_named(options: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_empty("deeplab_v3plus_lite", outlier_head=options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_wrong_options_in_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    arguments = {**ARGUMENTS, "outlier_head": {"blokcs": 1}}
    save_model(path, tiny(SMALL), tiny_metadata(arguments=arguments))
    with pytest.raises(
        CheckpointError, match=r"m\.safetensors.*outlier_branch has no option 'blokcs'"
    ):
        load_model(path)


def test_a_file_wrapped_before_there_were_feature_layers() -> None:
    arguments = {k: v for k, v in case("wrapped").items() if k != "feature_layers"}
    assert not build_empty(**arguments).feature_layers
    message = "outlier_branch: WrappedNetwork declares no feature_layers .* wrap it again"
    with pytest.raises(CheckpointError, match=message):
        build_empty(**arguments, outlier_head=SMALL)


def test_defaults_are_those_of_the_branch() -> None:
    filled = branch_options({})
    assert filled["width"] == 48
    assert branch_options({"width": 8}) == {**filled, "width": 8}
    network = build_empty("erfnet", outlier_head={})
    assert isinstance(network.outlier_head, OutlierBranch)
    assert network.outlier_head.conv.in_channels == 48
