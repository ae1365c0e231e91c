# SPDX-License-Identifier: Apache-2.0
"""Folded networks compute the same; rounded kernels are representable, close, and keep sums."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from models.layout_facts import build_seeded
from tiny import tiny_network
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.for_inference import (
    FoldedOutlierHead,
    fold_batchnorm,
    round_kernels,
    rounded_kernel,
)
from anomaly_seg_ros.models.outlier_head import OutlierHead

HALVES = [torch.bfloat16, torch.float16]


def random_head(channels: int) -> OutlierHead:
    torch.manual_seed(0)
    head = OutlierHead(channels).eval()
    with torch.no_grad():
        head.norm.running_mean.uniform_(-1, 1)
        head.norm.running_var.uniform_(0.3, 2)
        head.norm.weight.uniform_(-1, 1)
        head.norm.weight[:3] = 0
        head.norm.bias.uniform_(-1, 1)
    return head


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (50, 70)])
def test_the_softmax_is_the_same(size: tuple[int, int], layout: torch.memory_format) -> None:
    head = random_head(40)
    x = torch.randn(2, 40, *size).contiguous(memory_format=layout)
    folded = FoldedOutlierHead(head)
    with torch.inference_mode():
        logits = folded(x)
        expected = head.double()(x.double()).log_softmax(1)
        compiled = x.permute(0, 2, 3, 1).clamp(folded.low, folded.high) @ folded.weight
    assert logits.shape == (2, 2, *size)
    torch.testing.assert_close(logits.double().log_softmax(1), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(compiled + folded.bias, logits[:, 1], atol=2e-5, rtol=0)


def test_folding_a_network_replaces_its_head() -> None:
    images = torch.randn(1, 3, 64, 96)
    network = tiny_network(outlier_head=True)
    network.outlier_head.norm = random_head(16).norm
    with torch.inference_mode():
        before = network(images).ood_logits.log_softmax(1)
        folded = fold_batchnorm(network)
        after = folded(images).ood_logits.log_softmax(1)
    assert isinstance(folded.outlier_head, FoldedOutlierHead)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "architecture", ["deeplab_v3plus_lite", "ladder_densenet121", "efficientvit_seg"]
)
def test_folding_batchnorm_keeps_the_function(architecture: str) -> None:
    network = build_seeded(architecture, num_classes=12, outlier_head=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        before = network(images)
        folded = fold_batchnorm(copy.deepcopy(network))
        after = folded(images)
    # The folded head keeps the difference of its two logits, which is all that scores read.
    expected, actual = (
        (x.pre_logits, x.logits, x.ood_logits.diff(dim=1)) for x in (before, after)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    if architecture != "ladder_densenet121":  # whose norms stand before their convolutions
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def kernel(taps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(32, 16, taps, taps, generator=generator) * 0.1 + 0.01


def relative_error_of_sums(rounded: Tensor, weight: Tensor) -> Tensor:
    exact = weight.double().sum((2, 3))
    return ((rounded.double().sum((2, 3)) - exact) / exact).abs()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_values_are_representable_and_close(dtype: torch.dtype, taps: int) -> None:
    weight = kernel(taps)
    rounded = rounded_kernel(weight, dtype)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded.to(dtype).float(), rounded)
    # A tap takes over at most the error of the larger one before it, half a step of that.
    step = 2 * torch.finfo(dtype).eps * weight.abs().amax((2, 3), keepdim=True)
    assert ((rounded - weight).abs() <= step).all()


@pytest.mark.parametrize("taps", [3, 5])
def test_sums_are_kept_where_plain_rounding_loses_them(taps: int) -> None:
    """To the grid of the smallest tap, which is the last to take over an error."""
    weight = kernel(taps)
    weight[..., 0, 0] *= 1e-3
    kept = relative_error_of_sums(rounded_kernel(weight, torch.bfloat16), weight)
    lost = relative_error_of_sums(weight.bfloat16(), weight)
    assert kept.max() < 1e-4
    assert lost.max() > 1e-3
    assert kept.mean() < lost.mean() / 50


@pytest.mark.parametrize("dtype", HALVES)
def test_single_taps_and_zeros_are_rounded_plainly(dtype: torch.dtype) -> None:
    weight = kernel(1, seed=1)
    weight[0] = 0
    assert torch.equal(rounded_kernel(weight, dtype), weight.to(dtype).float())
    assert torch.equal(rounded_kernel(torch.zeros(2, 3, 3, 3), dtype), torch.zeros(2, 3, 3, 3))


def test_rounding_twice_changes_nothing() -> None:
    once = rounded_kernel(kernel(3), torch.bfloat16)
    assert torch.equal(rounded_kernel(once, torch.bfloat16), once)


def test_only_convolution_kernels_change() -> None:
    network = tiny_network()
    before = copy.deepcopy(network)
    assert round_kernels(network, torch.bfloat16) is network
    kernels = 0
    for (name, module), old in zip(network.named_modules(), before.modules(), strict=True):
        for key, value in module.named_parameters(recurse=False):
            is_kernel = isinstance(module, nn.Conv2d) and key == "weight"
            kernels += is_kernel
            same = torch.equal(value, getattr(old, key))
            assert same != is_kernel, (name, key)
            assert value.requires_grad == getattr(old, key).requires_grad
    assert kernels > 10


@pytest.mark.data
def test_labels_of_a_real_frame_agree_better_than_by_plain_rounding(shared_data: Path) -> None:
    """Kernels in bfloat16, everything else in float32: only they count."""
    frame = open_dataset("cityscapes", shared_data / "cityscapes", split="train")[0].read_image()

    def labels(rounding: str) -> Tensor:
        network, metadata = load_model("deeplab_lite0_open_set")
        segmenter = Segmenter(
            network, metadata, device="cpu", precision="fp32", inference_size=(512, 1024)
        )
        folded = segmenter._runner._network.network
        if rounding == "diffused":
            round_kernels(folded, torch.bfloat16)
        elif rounding == "plain":
            for module in folded.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.data = module.weight.bfloat16().float()
        found = segmenter.predict(frame, (), confidence=False).labels
        return torch.from_numpy(found)

    exact, diffused, plain = labels("none"), labels("diffused"), labels("plain")
    agreement, before = ((x == exact).float().mean() for x in (diffused, plain))
    assert agreement >= 0.995
    assert agreement > before
