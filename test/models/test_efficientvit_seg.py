# SPDX-License-Identifier: Apache-2.0
"""EfficientViT: published sizes, linear attention against its definition, half precision."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from models.layout_facts import build_empty, build_seeded
from models.seeded_weights import seeded_image
from tiny_backends import CPU, METADATA, frames, plain, select
from tiny_releases import hollow, prefixed
from torch.utils.flop_counter import FlopCounterMode

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import recognise
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.inference.options import ONNXRUNTIME, OPENVINO, TORCH
from anomaly_seg_ros.models.efficientvit_seg import linear_attention
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.system.stopwatch import Stopwatch

# Millions of parameters and giga multiply-adds at 1024x2048, as the release states them; SHA-256
# of its keys and shapes, in order, as JSON.
PUBLISHED = {
    "b0": (0.7, 4.4, "4b2f4bb69adc878bd0fddfc4a459a9a0ec4a47975d3e58687c105b9707df5912"),
    "b1": (4.8, 25, "8b702bfe05f8674a3a6a89346cf86105afb40ee2dbe04b1b18e5622eda0f08b2"),
    "b2": (15, 74, "ca526289b242c5014c566a9e02c36772b5b8fa12f47e5bff2d0381fdec9dbdd5"),
    "b3": (40, 179, "7262c3a6d33db5b37f4245ed6ee9c64bad5d7775d86535a3c41d2faa817636a5"),
}
every_variant = pytest.mark.parametrize("variant", PUBLISHED)


@every_variant
def test_size_cost_and_layout_are_the_published_ones(variant: str) -> None:
    millions, macs, layout = PUBLISHED[variant]
    network = build_empty("efficientvit_seg", variant=variant)
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 1024, 2048, device="meta"))
    assert parameters == pytest.approx(millions, rel=0.03)
    # Half of the FLOPs; the release's count is rounded, and may leave out the attention's sums.
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, rel=0.03)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert hashlib.sha256(json.dumps(shapes).encode()).hexdigest() == layout


@every_variant
@pytest.mark.parametrize("prefix", ["", "module."])
def test_shapes_tell_the_variants_apart(variant: str, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"state_dict": prefixed(prefix, hollow("efficientvit_seg", variant=variant))}, path)
    found = recognise(read_checkpoint(path))
    assert not found.misfit, str(found.misfit)
    assert found.metadata.arguments["variant"] == variant
    assert found.release.startswith(f"EfficientViT-{variant.upper()}")


def test_a_stranger_among_the_tensors_is_named(tmp_path: Path) -> None:
    tensors = hollow("efficientvit_seg")
    del tensors["head.input_ops.2.norm.bias"]
    torch.save({"state_dict": {**tensors, "head.extra": torch.ones(3)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt does not fit EfficientViTSeg: 1 missing"):
        load_model(tmp_path / "odd.pt")


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"'l1'.*b0, b1, b2, b3"):
        build_network("efficientvit_seg", {"variant": "l1"})


def test_linear_attention_is_the_normalised_sum_over_all_pairs() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, 8, 90)
    queries[:, :, 0].abs_()  # similar to some key at least
    similarity = torch.einsum("nhdp,nhdq->nhpq", queries.relu().double(), keys.relu().double())
    weights = similarity / similarity.sum(-1, keepdim=True)
    expected = torch.einsum("nhpq,nhdq->nhdp", weights, values.double())
    attended = linear_attention(queries, keys, values)
    torch.testing.assert_close(attended.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_query_that_is_similar_to_no_key_attends_to_nothing() -> None:
    queries, keys, values = torch.ones(3, 1, 1, 4, 6)
    queries[..., 2] = -1
    attended = linear_attention(queries, keys, values)
    assert torch.equal(attended[..., 2], torch.zeros(1, 1, 4))
    torch.testing.assert_close(attended[..., :2], values[..., :2])


@pytest.mark.parametrize(("dtype", "agreement"), [(torch.float16, 0.995), (torch.bfloat16, 0.97)])
@pytest.mark.parametrize("cast", ["autocast", "weights"])
def test_half_precision_agrees(dtype: torch.dtype, agreement: float, cast: str) -> None:
    """Over as many pixels as make the attention's sums overflow or lose float16's digits."""
    network, image = build_seeded("efficientvit_seg"), seeded_image(256, 512)
    with torch.inference_mode():
        expected = network(image).logits
        if cast == "autocast":
            with torch.autocast("cpu", dtype):
                logits = network(image).logits
        else:
            logits = network.to(dtype)(image.to(dtype)).logits
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > agreement


@pytest.mark.parametrize("backend", [TORCH, OPENVINO, ONNXRUNTIME])
def test_every_backend_divides_by_more_than_zero(backend: str) -> None:
    """A compiler that drops the bound of the sum as nearly 0 turns the whole picture into NaN."""
    network = build_seeded("efficientvit_seg", outlier_head=True)
    with torch.no_grad():
        network.get_submodule("backbone.stages.2.op_list.1.context_module.main.qkv").conv.weight[
            :16
        ] = 0  # the queries of the first head
    batch = frames(1, 64, 96)
    expected = plain(network, METADATA, batch)
    output = select(backend, "fp32", network).backend(batch, Stopwatch(CPU))
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
