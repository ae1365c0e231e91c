# SPDX-License-Identifier: Apache-2.0
"""Every public layout is recognised by keys and shapes; nothing is dropped without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_releases import hollow, prefixed

from anomaly_seg_ros.checkpoints.reading import Checkpoint, read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import nearest, recognise
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import numbered_taxonomy

LOSS_WEIGHT = {"module.criterion.nll_loss.weight": torch.ones(19)}
IMAGENET = (0.485, 0.456, 0.406)


def wide(**arguments: object) -> dict[str, torch.Tensor]:
    return hollow("wide_resnet38", **arguments)


# Content of the file, then what it is: architecture, release, arguments, default score.
RELEASES = {
    "nvidia": (
        lambda: {"state_dict": {**prefixed("module.", wide()), **LOSS_WEIGHT}, "epoch": 174},
        ("wide_resnet38", "NVIDIA DeepLabV3+", {"num_classes": 19}, "energy"),
    ),
    "densehybrid": (
        lambda: wide(outlier_head=True),
        ("wide_resnet38", "DenseHybrid", {"outlier_head": True}, "dense_hybrid"),
    ),
    "pebal": (
        lambda: {"model": prefixed("branch1.", wide(abstention=True)), "iteration": 5},
        ("wide_resnet38", "PEBAL", {"num_classes": 19, "abstention": True}, "energy"),
    ),
    "sml": (
        lambda: {"state_dict": prefixed("module.", hollow("resnet101", stem="deep"))},
        ("resnet101", "SML / RobustNet, deep stem", {"stem": "deep"}, "energy"),
    ),
    "resnet101 deep without dsn": (
        lambda: hollow("resnet101", stem="deep", auxiliary=False, outlier_head=True),
        (
            "resnet101",
            "SML / RobustNet, deep stem",
            {"stem": "deep", "auxiliary": False, "outlier_head": True},
            "dense_hybrid",
        ),
    ),
    "resnet101 plain": (
        lambda: hollow("resnet101", stem="plain", auxiliary=False),
        ("resnet101", "NVIDIA DeepLabV3+, plain stem", {"stem": "plain"}, "energy"),
    ),
    "ldn": (
        lambda: hollow("ladder_densenet121", num_classes=12, outlier_head=True),
        ("ladder_densenet121", "DenseHybrid", {"num_classes": 12}, "dense_hybrid"),
    ),
    "ldn closed set": (
        lambda: {"model": hollow("ladder_densenet121", num_classes=12), "current_epoch": 119},
        ("ladder_densenet121", "DenseHybrid, closed-set", {"outlier_head": False}, "energy"),
    ),
    "erfnet": (
        lambda: {"state_dict": prefixed("module.", hollow("erfnet"))},
        ("erfnet", "ERFNet, trained by somebody else", {"num_outputs": 20}, "energy"),
    ),
    "efficientvit": (
        lambda: {"state_dict": hollow("efficientvit_seg", variant="b2")},
        (
            "efficientvit_seg",
            "EfficientViT-B2 (Cai et al.)",
            {"variant": "b2", "outlier_head": False, "abstention": False},
            "energy",
        ),
    ),
    "our training": (
        lambda: {"model": hollow("deeplab_v3plus_lite", backbone="lite2"), "step": 7},
        ("deeplab_v3plus_lite", "a training of this project", {"backbone": "lite2"}, "energy"),
    ),
}


@pytest.mark.parametrize("name", RELEASES)
def test_releases_are_recognised(name: str, save: Callable) -> None:
    make, (architecture, release, arguments, score) = RELEASES[name]
    found = recognise(read_checkpoint(save(make())))
    assert not found.misfit, str(found.misfit)
    assert found.metadata.architecture == architecture
    assert found.release == release
    assert arguments.items() <= found.metadata.arguments.items()
    assert found.metadata.default_score == score
    assert len(found.metadata.classes) == found.metadata.arguments["num_classes"]


@pytest.mark.parametrize(
    ("name", "mean", "size", "first"),
    [
        ("nvidia", IMAGENET, (1024, 2048), "road"),
        ("sml", IMAGENET, (1024, 2048), "road"),
        ("ldn", (0, 0, 0), (736, 1280), "unlabeled"),
        ("erfnet", (0, 0, 0), (512, 1024), "road"),
        ("efficientvit", IMAGENET, (1024, 2048), "road"),
    ],
)
def test_metadata_of_releases(
    name: str, mean: tuple, size: tuple[int, int], first: str, save: Callable
) -> None:
    metadata = recognise(read_checkpoint(save(RELEASES[name][0]()))).metadata
    assert metadata.mean == mean
    assert metadata.inference_size == size
    assert metadata.classes[0] == first
    assert not metadata.calibration


@pytest.mark.parametrize(
    ("mean_iu", "remarked"), [(0.9064, True), (90.64, True), (0.814, False), (None, False)]
)
def test_a_miou_on_training_images_is_remarked(
    mean_iu: float | None, remarked: bool, save: Callable
) -> None:
    path = save({"state_dict": prefixed("module.", wide()), "mean_iu": mean_iu})
    remarks = recognise(read_checkpoint(path)).remarks
    assert len(remarks) == remarked
    assert all("90.6 % includes validation images" in remark for remark in remarks)


def test_leftovers_are_dropped_aloud(save: Callable) -> None:
    found = recognise(read_checkpoint(save(RELEASES["nvidia"][0]())))
    assert found.changes == (
        "dropped, no part of the network (of the training loss): criterion.nll_loss.weight",
    )
    assert "criterion.nll_loss.weight" not in found.tensors


@pytest.mark.parametrize("key", [None, "average"])
def test_averaged_weights_are_those_of_the_network(key: str | None, save: Callable) -> None:
    arguments = {"num_classes": 19, "backbone": "lite2"}
    torch.manual_seed(3)
    network = build_network("deeplab_v3plus_lite", arguments)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    average.update_parameters(network)
    saved = average.state_dict()
    other = {name: value + 1 for name, value in network.state_dict().items()}
    path = save(saved if key is None else {"model": other, "average": saved, "step": 7})
    found = recognise(read_checkpoint(path, key))
    assert not found.misfit, str(found.misfit)
    assert (
        "dropped, no part of the network (counter of an averaged model): n_averaged"
    ) in found.changes
    wanted = network.state_dict()
    assert found.tensors.keys() == wanted.keys()
    assert all(torch.equal(found.tensors[name], wanted[name]) for name in wanted)


def test_absent_batch_counters_become_zero_aloud(save: Callable) -> None:
    tensors = hollow("erfnet")
    old = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    found = recognise(read_checkpoint(save(old)))
    assert not found.misfit
    assert found.tensors.keys() == tensors.keys()
    counters = [v for k, v in found.tensors.items() if k.endswith("num_batches_tracked")]
    assert all(counter.dtype == torch.int64 and counter.item() == 0 for counter in counters)
    assert found.changes[0].startswith(f"{len(counters)} num_batches_tracked are not in the file")


def test_a_counter_without_its_norm_stays_missing(save: Callable) -> None:
    tensors = hollow("erfnet")
    for part in ("num_batches_tracked", "running_mean"):
        del tensors[f"encoder.initial_block.bn.{part}"]
    found = recognise(read_checkpoint(save(tensors)))
    assert found.misfit.missing == (
        "encoder.initial_block.bn.num_batches_tracked",
        "encoder.initial_block.bn.running_mean",
    )


def test_every_difference_is_listed(save: Callable) -> None:
    tensors = wide()
    gone = [key for key in tensors if key.startswith("mod4.")]
    for key in gone:
        del tensors[key]
    tensors["bot_fine.weight"] = torch.zeros(48, 64, 1, 1)
    tensors["surplus"] = torch.zeros(1)
    misfit = recognise(read_checkpoint(save(tensors))).misfit
    assert misfit.missing == tuple(sorted(gone))
    assert misfit.unexpected == ("surplus",)
    assert misfit.misshaped == ("bot_fine.weight (48, 64, 1, 1) instead of (48, 128, 1, 1)",)
    assert f"{len(gone)} missing" in str(misfit)


def test_integers_are_no_weights(save: Callable) -> None:
    """Raw int8 weights, whose scales lie elsewhere, would be copied as they are."""
    tensors = hollow("erfnet")
    key = "decoder.output_conv.bias"
    tensors[key] = tensors[key].to(torch.int8)
    misfit = recognise(read_checkpoint(save(tensors))).misfit
    assert misfit.misshaped == (f"{key} int8 instead of float32",)


@pytest.mark.parametrize(
    ("outputs", "classes", "abstention", "remark"),
    [
        (19, 19, False, ""),
        (20, 19, True, "20 outputs are read as 19 classes"),
        (12, 12, False, ""),
        (13, 12, True, "13 outputs are read as 12 classes"),
        (7, 7, False, "nothing says what its 7 classes are"),
    ],
)
def test_number_of_classes(
    outputs: int, classes: int, abstention: bool, remark: str, save: Callable
) -> None:
    found = recognise(read_checkpoint(save(wide(num_classes=outputs))))
    assert not found.misfit
    assert found.metadata.arguments["num_classes"] == len(found.metadata.classes) == classes
    assert found.metadata.arguments["abstention"] == abstention
    assert bool(found.remarks) == bool(remark)
    assert remark in " ".join(found.remarks)


def test_stated_classes_settle_it(save: Callable) -> None:
    checkpoint = read_checkpoint(save(wide(num_classes=20)))
    found = recognise(checkpoint, taxonomy=numbered_taxonomy(20))
    assert found.metadata.arguments["num_classes"] == 20
    assert not found.metadata.arguments["abstention"]
    assert not found.misfit
    with pytest.raises(CheckpointError, match="20 outputs, which cannot be the 5 classes"):
        recognise(checkpoint, taxonomy=numbered_taxonomy(5))


def test_unknown_layouts_name_the_nearest(save: Callable) -> None:
    tensors = {f"{key}_": value for key, value in wide().items()}
    checkpoint = read_checkpoint(save({**tensors, "mod1.conv1.weight": torch.zeros(64, 3, 3, 3)}))
    with pytest.raises(CheckpointError, match="unknown layout: 269 tensors") as error:
        recognise(checkpoint)
    assert "Nearest is wide_resnet38: 267 missing" in str(error.value)
    assert nearest(checkpoint).metadata.architecture == "wide_resnet38"


def test_another_layout_can_be_compared(save: Callable) -> None:
    checkpoint = read_checkpoint(save(hollow("erfnet")))
    assert recognise(checkpoint, "wide_resnet38").misfit
    with pytest.raises(CheckpointError, match="unknown layout 'unet'"):
        recognise(checkpoint, "unet")


def test_mixed_layouts(tmp_path: Path) -> None:
    both = {**hollow("erfnet"), **wide()}
    with pytest.raises(CheckpointError, match="ambiguous"):
        recognise(Checkpoint(tmp_path / "both.pth", "torch zip", both))


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "name", "bias"),
    [
        ("erfnet_cityscapes.pth", "erfnet_cityscapes", "decoder.output_conv.bias"),
        (
            *("efficientvit_b0_cityscapes.pt", "efficientvit_b0"),
            "head.output_ops.0.op_list.1.conv.bias",
        ),
    ],
)
def test_only_the_public_weights_are_calibrated(
    file: str, name: str, bias: str, public_weights: Path, save: Callable
) -> None:
    public = read_checkpoint(public_weights / file)
    found = recognise(public)
    assert not found.misfit
    assert found.metadata.name == name
    assert found.metadata.calibration
    assert not found.changes
    retrained = dict(public.tensors)
    retrained[bias] = retrained[bias] + 1e-6
    assert not recognise(read_checkpoint(save(retrained))).metadata.calibration
