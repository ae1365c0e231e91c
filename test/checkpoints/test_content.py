"""The weights are found wherever training scripts put them, and the rest is accounted for."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.checkpoints.content import find_state_dict, strip_prefixes

WEIGHTS = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(6)}
OTHER = {key: value + 10 for key, value in WEIGHTS.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
FLOW = {f"step{i}.scale": torch.zeros(1) for i in range(50)}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (WEIGHTS, ()),
        ({**WEIGHTS, "epoch": 3}, ()),
        ({"state_dict": WEIGHTS, "optimizer": OPTIMIZER}, ("state_dict",)),
        ({"model": WEIGHTS, "optimizer": OPTIMIZER, "epoch": 1}, ("model",)),
        ({"model_state_dict": WEIGHTS, "loss": torch.tensor(0.1)}, ("model_state_dict",)),
        ({"net": WEIGHTS}, ("net",)),
        ({"model": {"state_dict": WEIGHTS}}, ("model", "state_dict")),
        ({"ema": {"module": WEIGHTS}}, ("ema", "module")),
        ({"whatever": WEIGHTS}, ("whatever",)),
        ({"state_dict": WEIGHTS, "ema": OTHER}, ("state_dict",)),
        ({"ema": OTHER, "model": WEIGHTS}, ("model",)),
        # A flow that is trained beside the network, and has more tensors.
        ({"model": WEIGHTS, "second_player": {"flow": FLOW}}, ("model",)),
        ({"state_dict": WEIGHTS, "statistics": {"mean": torch.zeros(19)}}, ("state_dict",)),
    ],
)
def test_weights_are_found(content: dict, place: tuple[str, ...]) -> None:
    found = find_state_dict(content)
    assert found.place == place
    assert found.tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.tensors[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize(
    "content",
    [None, 3, [torch.zeros(1)], {}, {"epoch": 3}, {0: torch.zeros(1)}, {"optimizer": OPTIMIZER}],
)
def test_no_weights(content: object) -> None:
    assert find_state_dict(content) is None


def test_other_weights_are_not_silent_and_can_be_chosen() -> None:
    content = {"model": WEIGHTS, "average": OTHER}
    assert find_state_dict(content).others == [(("average",), 6)]
    assert torch.equal(
        find_state_dict(content, "average").tensors["layer1.weight"], OTHER["layer1.weight"]
    )
    assert find_state_dict(content, "ema") is None


def test_record() -> None:
    found = find_state_dict(
        {
            "state_dict": WEIGHTS,
            "optimizer": OPTIMIZER,
            "epoch": 174,
            "best_record": {"mean_iu": 0.9, "epoch": 170},
            "command": "x" * 1000,
            "done": True,
        }
    )
    command = found.record.pop("command")
    assert command == "x" * 200 + "..."
    assert found.record == {
        "epoch": 174,
        "best_record.mean_iu": 0.9,
        "best_record.epoch": 170,
        "done": True,
    }
    assert found.has_optimizer


def test_entries_that_are_no_tensors_are_listed() -> None:
    packed = (torch.zeros(1), None)
    found = find_state_dict({"state_dict": {**WEIGHTS, "fc._packed_params": packed}})
    assert found.not_tensors == ["fc._packed_params"]


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
    wrapped = {prefixes + key: value for key, value in WEIGHTS.items()}
    bare, found = strip_prefixes({**wrapped, "criterion.weight": torch.zeros(19)})
    assert found == stripped
    kept = prefixes if not stripped else ""
    assert bare.keys() == {*(kept + key for key in WEIGHTS), "criterion.weight"}


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
