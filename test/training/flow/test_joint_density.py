# SPDX-License-Identifier: Apache-2.0
"""The point-wise flow beside the segmenter: what reaches whom, what falls, and how it resumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_density
import torch
from tiny_training import OpenSetNetwork, mixed_batches
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError, TrainingError
from training.data.mixing.mixed_views import MixedBatch
from training.engine.config import CONFIGS, load_config
from training.engine.distributed import Distributed
from training.engine.loop import LoopOptions, Trainer
from training.engine.players import joined
from training.flow.joint_density import DensityOptions, JointDensity, build_joint_density
from training.flow.pointwise_flow import PointwiseFlow, load_pointwise_flow, save_pointwise_flow
from training.losses import build_loss
from training.losses.base import Objective

CHANNELS = 8  # of OpenSetNetwork's pre-logits


def scaling(images: Tensor) -> Tensor:
    return images.float() / 255


def player(seed: int = 0, lr: float = 3e-3, **options: object) -> JointDensity:
    torch.manual_seed(seed)
    flow = PointwiseFlow(CHANNELS, steps=2, width=16)
    return JointDensity(flow, lr, lambda step: 1.0, 0.9, DensityOptions(**options))


def batch(step: int = 3) -> MixedBatch:
    return next(mixed_batches(step, step + 1))


def heard(density: JointDensity, network: nn.Module, mixed: MixedBatch, name: str) -> Tensor:
    images, labels, ood_mask = mixed
    loss = density.listening(build_loss(name))
    return loss(network(scaling(images)), labels, ood_mask).total


@pytest.mark.parametrize("reaches", ["none", "outliers", "both"])
def test_everyone_learns_what_one_plain_graph_says(reaches: str) -> None:
    """Against ``-E_in[ln p] + beta E_out[max(ln p - floor, 0)]``, by plain autograd."""
    density, network = player(outlier_weight=0.5, reaches_network=reaches), OpenSetNetwork()
    mixed = batch()
    heard(density, network, mixed, "cross_entropy").backward()
    found = {k: p.grad for k, p in network.named_parameters() if p.grad is not None}

    plain, flow = OpenSetNetwork(), density.flow
    output = plain(scaling(mixed.images))
    log_p = flow.log_density(output.pre_logits)
    inlier = log_p[(mixed.labels != 255) & (mixed.ood_mask == 0)].mean()
    excess = log_p[mixed.ood_mask == 1] - (inlier.detach() - 2.0 * CHANNELS)
    assert 0 < (excess > 0).sum() < len(excess) or (excess > 0).all()
    parts = [0.5 * torch.relu(excess).mean(), -inlier]
    expected = torch.autograd.grad(sum(parts), list(flow.parameters()), retain_graph=True)
    for (name, parameter), gradient in zip(flow.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)

    closed = build_loss("cross_entropy")(output, mixed.labels, mixed.ood_mask).total
    reaching = {"none": [], "outliers": parts[:1], "both": parts}[reaches]
    plain.zero_grad()
    (closed + sum(reaching)).backward()
    for name, parameter in plain.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_scale_of_half_precision_stays_out_of_the_flow() -> None:
    density, network = player(), OpenSetNetwork()
    total = heard(density, network, batch(), "cross_entropy")
    before = [p.grad.clone() for p in density.flow.parameters()]
    (65536 * total).backward()
    for parameter, gradient in zip(density.flow.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


class Mixture:
    """Pre-logits of two clusters of inliers and one of outliers, which lies between them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        side = torch.randint(0, 2, (32, 32), generator=generator)
        self.ood_mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
        self.ood_mask[0, 8:20, 8:24] = 1
        centre = torch.where(self.ood_mask[0] == 1, 0.0, 0.5 * side - 0.25)
        noise = 0.3 * torch.randn(1, CHANNELS, 32, 32, generator=generator)
        self.pre_logits = noise + centre
        self.labels = torch.where(self.ood_mask == 1, 255, side[None])
        self.output = NetworkOutput(self.pre_logits, self.pre_logits[:, :4])


def trained(weight: float) -> tuple[float, float]:
    """Mean log-density of inliers and of outliers after 200 steps; the pre-logits stay."""
    case = Mixture()
    density = player(lr=1e-2, outlier_weight=weight)
    loss = density.listening(build_loss("cross_entropy"))
    for step in range(200):
        torch.manual_seed(step)
        loss(case.output, case.labels, case.ood_mask)
        density.after_step(nn.Identity(), ())
    with torch.no_grad():
        log_p = density.flow.log_density(case.pre_logits)
    return float(log_p[case.ood_mask == 0].mean()), float(log_p[case.ood_mask == 1].mean())


def test_the_density_of_negatives_falls_and_that_of_inliers_stays() -> None:
    inlier, outlier = trained(0.0)
    pushed_inlier, pushed_outlier = trained(0.03)  # the paper's
    assert pushed_outlier < outlier - 2.0
    assert pushed_inlier > inlier - 0.2
    # Still above a Gaussian of the inliers' own mean and covariance.
    case = Mixture()
    pixels = case.pre_logits[0].flatten(1).T[case.ood_mask.flatten() == 0].double()
    entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * torch.cov(pixels.T))
    assert pushed_inlier > 0.5 - float(entropy)


def trainer(folder: Path, **changes: object) -> Trainer:
    torch.manual_seed(0)
    network, device = OpenSetNetwork(), torch.device("cpu")
    density = player(**changes)
    fields = {"steps": 4, "warmup": 1, "validate_every": 2, "checkpoint_every": 2, "log_every": 1}
    made: list[Trainer] = []

    def validate(average: nn.Module) -> dict[str, float]:
        density.keep(made[0].step, made[0].best.get("step"))
        return {"figure": -float(made[0].step)}

    made.append(
        Trainer(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), 0.05),
            loss_fn=Objective(density.listening(build_loss("outlier_head")), scaling),
            options=LoopOptions(**fields, precision="fp32", best_figure="figure"),
            run_dir=folder,
            device=device,
            distributed=Distributed(device),
            validate=validate,
            config={},
            second_player=density,
        )
    )
    return made[0]


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(mixed_batches(0, 4))

    class KilledError(Exception):
        pass

    def killed() -> Iterator[MixedBatch]:
        yield from mixed_batches(0, 3)
        raise KilledError

    with pytest.raises(KilledError):
        trainer(tmp_path / "killed").run(killed())
    resumed = trainer(tmp_path / "killed")
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run(mixed_batches(2, 4))
    for mine, other in (
        (whole.model, resumed.model),
        (whole.second_player.flow, resumed.second_player.flow),
    ):
        theirs = other.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in mine.state_dict().items())

    # The best validation was the first, so its flow is the one to write, resumed or not.
    written = []
    for run in (whole, resumed):
        assert run.best["step"] == 2
        path = tmp_path / f"{len(written)}.safetensors"
        assert run.second_player.write(path, "tiny", run.best["step"])
        written.append(load_pointwise_flow(path).state_dict())
    assert all(torch.equal(v, written[1][k]) for k, v in written[0].items())
    last = whole.second_player.flow.state_dict()
    assert not all(torch.equal(v, last[k]) for k, v in written[0].items())
    assert not whole.second_player.write(tmp_path / "none", "tiny", 0)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Although they have different numbers of inlier and of outlier pixels."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", tiny_density.__file__, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    two = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for key, value in tiny_density.train_share(0, 1).items():
        assert torch.equal(two[0][key], two[1][key]), key
        torch.testing.assert_close(two[0][key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_without_a_pixel_of_either_kind() -> None:
    density, network = player(), OpenSetNetwork()
    for value in (1, 255):
        mixed = batch()
        mixed = mixed._replace(ood_mask=torch.full_like(mixed.ood_mask, value))
        heard(density, network, mixed, "outlier_head").backward()
        density.after_step(network, mixed)
    assert all(torch.isfinite(p).all() for p in density.flow.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    density, network = player(), OpenSetNetwork()
    heard(density, network, batch(), "outlier_head")
    before = {k: v.clone() for k, v in density.flow.state_dict().items()}
    next(density.flow.parameters()).grad.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"step 0: density_inlier .* was not changed"):
        density.after_step(network, batch())
    assert all(torch.equal(v, before[k]) for k, v in density.flow.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reaches_network": "inliers"}, "reaches_network 'inliers', expected one of none, outl"),
        ({"pixels": 0}, "pixels 0"),
        ({"clip_norm": 0.0}, "clip_norm 0.0"),
        ({"outlier_weight": -0.1}, "outlier_weight -0.1"),
        ({"outlier_floor": -1.0}, "outlier_floor -1.0"),
    ],
)
def test_bad_options_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        DensityOptions(**changes)


def test_as_configured(tmp_path: Path) -> None:
    network, device = OpenSetNetwork(), torch.device("cpu")
    network.pre_logits_channels = CHANNELS

    def build(*settings: str) -> JointDensity | None:
        config = load_config(CONFIGS / "fine_tune.yaml", None, list(settings))
        return build_joint_density(config, network, device)

    assert build() is None
    on = "pointwise_flow.train=true"
    built = build(on, "pointwise_flow.options={pixels: 7}")
    assert built.options.pixels == 7
    assert built.flow.arguments["channels"] == CHANNELS
    path = tmp_path / "flow.safetensors"
    start = player().flow
    save_pointwise_flow(path, start, {})
    loaded = build(on, f"pointwise_flow.weights={path}").flow
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in start.state_dict().items())
    network.pre_logits_channels = 9
    with pytest.raises(ParameterError, match=r"a flow of 8 channels, but the network's .* have 9"):
        build(on, f"pointwise_flow.weights={path}")


def test_two_players_take_their_turns() -> None:
    one, two = player(0), player(1)
    assert joined([]) is None
    assert joined([one]) is one
    both = joined([one, two])
    network, mixed = OpenSetNetwork(), batch()
    assert all(torch.equal(a, b) for a, b in zip(both.prepare(mixed), mixed, strict=True))
    for each in (one, two):
        heard(each, network, mixed, "outlier_head")
    both.after_step(network, mixed)
    again = joined([player(2), player(3)])
    again.load_state_dict(both.state_dict())
    for mine, theirs in zip(both.players, again.players, strict=True):
        state = theirs.flow.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in mine.flow.state_dict().items())
