# SPDX-License-Identifier: Apache-2.0
"""The flow over single pixels' pre-logits: exact density, inverse, scores, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import multivariate_normal

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import CheckpointError, ImageError, OutputError
from training.flow.pointwise_flow import (
    PointwiseFlow,
    flow_density,
    flow_hybrid,
    load_pointwise_flow,
    save_pointwise_flow,
)


def flow(channels: int = 5, seed: int = 0) -> PointwiseFlow:
    """With weights away from the start, where couplings are identities."""
    torch.manual_seed(seed)
    model = PointwiseFlow(channels, steps=3, width=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("channels", [2, 5, 16])
def test_inverse_and_log_determinant(channels: int) -> None:
    model = flow(channels).double()
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    latents, log_det = model.encode(x)
    assert float((model.decode(latents) - x).detach().abs().max()) < 1e-10
    assert log_det.shape == (2, 3, 4)
    for n, i, j in [(0, 0, 0), (1, 2, 3)]:
        jacobian = torch.autograd.functional.jacobian(
            lambda v: model.encode(v[None, :, None, None])[0].flatten(), x[n, :, i, j]
        )
        expected = np.linalg.slogdet(jacobian.numpy())[1]
        assert float(log_det[n, i, j].detach()) == pytest.approx(expected, abs=1e-10)


def test_density_is_the_normal_one_of_the_latents() -> None:
    model = flow(3).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    latents, log_det = (t.detach() for t in model.encode(x))
    expected = multivariate_normal(np.zeros(3)).logpdf(latents[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(
        model.log_density(x)[0].detach().numpy(), expected + log_det[0].numpy(), rtol=1e-12
    )


def test_density_integrates_to_one() -> None:
    """Over a fine grid in two dimensions."""
    model = flow(2).double()
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]
    with torch.no_grad():
        mass = model.log_density(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-4)


def test_a_pixel_counts_alone() -> None:
    model = flow()
    x = torch.randn(2, 5, 4, 6)
    whole = model(x)
    torch.testing.assert_close(model(x[1:, :, 2:3, 4:5])[0, 0, 0], whole[1, 2, 4])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), whole)


def test_initialisation_fits_mean_and_deviation() -> None:
    torch.manual_seed(0)
    x = 40 + torch.tensor([0.5, 8.0, 2.0]).view(1, 3, 1, 1) * torch.randn(4, 3, 40, 40)
    model = PointwiseFlow(3)
    density = model.initialise(x)
    expected = -0.5 * 3 * np.log(2 * np.pi * np.e) - np.log(0.5 * 8 * 2)
    assert density == pytest.approx(expected, abs=0.02)


def test_scores_on_the_grid_of_the_logits() -> None:
    model = flow()
    pre_logits = torch.randn(1, 5, 4, 6)
    logits, ood_logits = torch.randn(1, 19, 4, 6), torch.randn(1, 2, 4, 6)
    with torch.no_grad():
        same = flow_density(NetworkOutput(pre_logits, logits), model)
        torch.testing.assert_close(same, -model(pre_logits))
        larger = NetworkOutput(pre_logits, logits.repeat(1, 1, 2, 2))
        assert flow_density(larger, model).shape == (1, 8, 12)
        hybrid = flow_hybrid(NetworkOutput(pre_logits, logits, ood_logits), model)
    p_out = ood_logits[:, 1].exp() / ood_logits.exp().sum(1)
    torch.testing.assert_close(hybrid, torch.log(p_out) - model(pre_logits).detach())
    with pytest.raises(CheckpointError, match="outlier head"):
        flow_hybrid(NetworkOutput(pre_logits, logits), model)
    with pytest.raises(ImageError, match=r"\(N, 5, h, w\)"):
        model(torch.randn(1, 4, 2, 2))


def test_files(tmp_path: Path) -> None:
    model = flow()
    path = tmp_path / "flow.safetensors"
    save_pointwise_flow(path, model, {"model": "tiny"})
    loaded = load_pointwise_flow(path)
    x = torch.randn(1, 5, 2, 2)
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    assert not list(tmp_path.glob("*.partial"))

    with pytest.raises(OutputError, match="missing"):
        save_pointwise_flow(tmp_path / "missing" / "f.safetensors", model, {})
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_pointwise_flow(tmp_path / "none.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"flow\.safetensors"):
        load_pointwise_flow(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no such flow"):
        load_pointwise_flow(path)
    save_file({"x": torch.zeros(1)}, path, {"pointwise_flow": '{"arguments": {"channel": 1}}'})
    with pytest.raises(CheckpointError, match="unreadable metadata"):
        load_pointwise_flow(path)
    description = '{"arguments": {"channels": 4, "steps": 1, "width": 2}}'
    save_file({"x": torch.zeros(1)}, path, {"pointwise_flow": description})
    with pytest.raises(CheckpointError, match="missing"):
        load_pointwise_flow(path)
