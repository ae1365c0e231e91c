# SPDX-License-Identifier: Apache-2.0
"""A network is found under any prefix; what does not share it is named, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_releases import hollow, prefixed

from anomaly_seg_ros.checkpoints.keys import preferred, strip_prefixes
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import Recognised, recognise
from anomaly_seg_ros.errors import CheckpointError

ERFNET = hollow("erfnet")
CLASSIFIER = "decoder.output_conv.bias"  # 20 values
LAYERS = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(6)}
Save = Callable[..., object]


def found_in(save: Save, content: object, prefix: str | None = None) -> Recognised:
    return recognise(read_checkpoint(save(content), prefix=prefix))


@pytest.mark.parametrize(
    "prefix",
    [
        *("ema.", "student.", "segmentor.", "_forward_module.", "model.", "whatever_1."),
        *("module.segmentor.", "_forward_module.module.", "_orig_mod.student.net.", "a.b.c.d."),
    ],
)
@pytest.mark.parametrize("stray", [{}, {"global_step": torch.tensor(7)}])
def test_any_prefix(prefix: str, stray: dict, save: Save) -> None:
    found = found_in(save, {"state_dict": {**prefixed(prefix, ERFNET), **stray}})
    assert not found.misfit, str(found.misfit)
    assert found.tensors.keys() == ERFNET.keys()
    assert all(torch.equal(found.tensors[key], value) for key, value in ERFNET.items())
    told = [change for change in found.changes if "global_step" in change]
    assert len(told) == len(stray)


def test_the_node_takes_such_a_file_and_says_what_it_left_out(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    stray = {"queue": torch.zeros(3, 4), "criterion.weight": torch.ones(19)}
    network, _ = load_model(save({**prefixed("model.", ERFNET), **stray}))
    assert torch.equal(network.state_dict()[CLASSIFIER], ERFNET[CLASSIFIER])
    assert "left out, not under the network's prefix 'model.' (1 tensors): queue" in caplog.text
    assert "(of the training loss): criterion.weight" in caplog.text


@pytest.mark.parametrize("key", [CLASSIFIER, f"head.{CLASSIFIER}", f"ema.{CLASSIFIER}"])
def test_a_stray_parameter_of_the_network_is_not_lost(key: str, save: Save) -> None:
    """Nobody can say which of the two values is meant."""
    tensors = {**prefixed("model.", ERFNET), key: ERFNET[CLASSIFIER] + 1}
    found = found_in(save, tensors)
    assert found.misfit.unexpected == (
        f"{key} (outside of 'model.'; --prefix model. leaves it out)",
    )
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load_model(save(tensors))
    # Unless the user says so.
    alone = found_in(save, tensors, "model.")
    assert not alone.misfit
    assert alone.changes[0] == f"left out, not under 'model.' (1 tensors): {key}"
    # The same value twice is no loss.
    assert not found_in(save, {**prefixed("model.", ERFNET), key: ERFNET[CLASSIFIER]}).misfit


def test_a_parameter_that_is_outside_only_is_missing_inside(save: Save) -> None:
    tensors = prefixed("model.", ERFNET)
    tensors[CLASSIFIER] = tensors.pop(f"model.{CLASSIFIER}")
    misfit = found_in(save, tensors).misfit
    assert misfit.missing == (CLASSIFIER,)
    assert misfit.unexpected[0].startswith(f"{CLASSIFIER} (outside of 'model.'")


@pytest.mark.parametrize(
    ("prefixes", "chosen"),
    [
        (["teacher.", "student."], "student."),
        (["model.", "ema_model."], "model."),
        (["ema.", ""], ""),
        (["b.", "a."], "b."),
        (["model_ema.module.", "net."], "net."),
        (["teacher.", "ema."], "teacher."),
        (["net.", ""], ""),
    ],
)
def test_the_network_before_its_copies_then_the_first(prefixes: list, chosen: str) -> None:
    assert preferred(prefixes) == chosen


@pytest.mark.parametrize("order", [["student.", "teacher."], ["teacher.", "student."]])
def test_of_several_sets_one_is_chosen_aloud(order: list, save: Save) -> None:
    sets = {"student.": ERFNET, "teacher.": {k: v + 1 for k, v in ERFNET.items()}}
    content = {}
    for prefix in order:
        content |= prefixed(f"module.{prefix}", sets[prefix])
    found = found_in(save, content)
    assert not found.misfit
    assert torch.equal(found.tensors[CLASSIFIER], ERFNET[CLASSIFIER])
    assert found.changes == (
        "'student.' is read, and not 'teacher.' (345 tensors): --prefix chooses another",
    )
    for prefix in ("teacher.", "teacher", "module.teacher."):
        other = found_in(save, content, prefix)
        assert not other.misfit
        assert torch.equal(other.tensors[CLASSIFIER], ERFNET[CLASSIFIER] + 1)


def test_a_student_of_another_architecture(save: Save) -> None:
    content = prefixed("teacher.", hollow("wide_resnet38")) | prefixed("student.", ERFNET)
    assert found_in(save, content).metadata.architecture == "erfnet"
    assert found_in(save, content, "teacher.").metadata.architecture == "wide_resnet38"


def test_a_copy_beside_bare_keys(save: Save) -> None:
    found = found_in(save, {**ERFNET, **prefixed("ema.", ERFNET)})
    assert not found.misfit
    assert "'' is read, and not 'ema.'" in found.changes[0]


def test_what_shares_the_prefix_must_fit(save: Save) -> None:
    tensors = prefixed("segmentor.", ERFNET) | {"segmentor.surplus": torch.ones(2)}
    assert found_in(save, {**tensors, "x": torch.ones(1)}).misfit.unexpected == ("surplus",)


def test_wrappers_of_parts_of_a_network(save: Save) -> None:
    """torch.compile and FSDP put their names before the keys of what they wrap."""
    inner = {k.replace("decoder.", "decoder._orig_mod."): v for k, v in ERFNET.items()}
    found = found_in(save, inner)
    assert found.tensors.keys() == ERFNET.keys()
    assert "a wrapper's: _orig_mod." in found.changes[0]


def test_a_prefix_that_no_key_has(save: Save) -> None:
    path = save(prefixed("model.", ERFNET))
    with pytest.raises(
        CheckpointError, match=r"under the prefix 'ema\.'; its keys begin with mod"
    ):
        read_checkpoint(path, prefix="ema")


@pytest.mark.parametrize(
    ("prefixes", "stripped"),
    [
        ("", ()),
        ("module.", ("module.",)),
        ("branch1.", ("branch1.",)),
        ("module.module.", ("module.", "module.")),
        ("_orig_mod.module.model.", ("_orig_mod.", "module.", "model.")),
        ("backbone.", ()),
    ],
)
def test_prefixes(prefixes: str, stripped: tuple[str, ...]) -> None:
    wrapped = {prefixes + key: value for key, value in LAYERS.items()}
    bare, found = strip_prefixes({**wrapped, "criterion.weight": torch.zeros(19)})
    assert found == stripped
    kept = prefixes if not stripped else ""
    assert bare.keys() == {*(kept + key for key in LAYERS), "criterion.weight"}


def test_a_counter_of_an_averaged_model_does_not_hide_the_prefix() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    averaged = torch.optim.swa_utils.AveragedModel(network)
    bare, found = strip_prefixes(dict(averaged.state_dict()))
    assert found == ("module.",)
    assert bare.pop("n_averaged") == 0
    assert bare.keys() == network.state_dict().keys()
    # Only this name: a parameter that merely begins with it may be the network's.
    other = {"module.a": torch.zeros(1), "n_averaged_weight": torch.zeros(1)}
    assert strip_prefixes(other) == (other, ())


def test_a_prefix_of_some_keys_stays() -> None:
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip_prefixes(mixed) == (mixed, ())
