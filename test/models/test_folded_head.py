"""The outlier head of inference against the one of training."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_network

from anomaly_seg_ros.models.for_inference import FoldedOutlierHead, fold_batchnorm
from anomaly_seg_ros.models.outlier_head import OutlierHead


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
