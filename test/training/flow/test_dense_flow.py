# SPDX-License-Identifier: Apache-2.0
"""DenseFlow: exact change of variables, inverse, sampling, initialisation, gradients."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_flow import flow as tiny_flow
from tiny_scenes import real_held_out_frames
from torch import Tensor

from anomaly_seg_ros.errors import CheckpointError, ImageError, OutputError, ParameterError
from training.flow.dense_blocks import SIZES, flow_size
from training.flow.dense_flow import DenseFlow, load_flow, sample_sheet, save_flow, to_picture


def flow(name: str = "tiny", seed: int = 0, spread: float = 0.05, **options: bool) -> DenseFlow:
    """With weights away from the start, where couplings are identities."""
    torch.manual_seed(seed)
    model = DenseFlow.by_name(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape)
    return model


def levels(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(8, 8), (16, 40)])
@pytest.mark.parametrize("name", ["tiny", "small"])
def test_inverse_of_forward_is_the_identity(name: str, size: tuple[int, int]) -> None:
    model = flow(name).double()
    values = torch.rand(2, 3, *size, dtype=torch.float64) - 0.5
    latents, _ = model.encode(values, model.draw_noises(2, size))
    assert [tuple(x.shape[1:]) for x in latents] == model.latent_shapes(size)
    assert float((model.decode(latents) - values).detach().abs().max()) < 1e-9


def test_inverse_holds_at_the_size_of_the_joint_training() -> None:
    """25-6 with weights that are far from the identity."""
    model = flow("25-6", spread=0.01).double()
    values = torch.rand(1, 3, 8, 16, dtype=torch.float64) - 0.5
    latents, log_det = model.encode(values, model.draw_noises(1, (8, 16)))
    assert abs(float(log_det.detach())) > 0.1
    assert float((model.decode(latents) - values).detach().abs().max()) < 1e-9


def test_log_determinant_is_autograds() -> None:
    """The map (image, noise) -> latents is square; its Jacobian's determinant is known."""
    model = flow().double()
    values = torch.rand(1, 3, 8, 8, dtype=torch.float64) - 0.5
    noises = model.draw_noises(1, (8, 8))
    parts = [values, *noises]
    sizes = [p.numel() for p in parts]

    def whole(flat: Tensor) -> Tensor:
        first, *rest = (x.view_as(p) for x, p in zip(flat.split(sizes), parts, strict=True))
        return torch.cat([z.flatten() for z in model.encode(first, rest).latents])

    flat = torch.cat([p.flatten() for p in parts])
    jacobian = torch.autograd.functional.jacobian(whole, flat)
    assert jacobian.shape == (sum(sizes), sum(sizes))
    expected = np.linalg.slogdet(jacobian.numpy())[1]
    log_det = model.encode(values, noises).log_det
    assert float(log_det.detach()) == pytest.approx(expected, abs=1e-8)


def test_log_prob_is_the_density_of_the_latents() -> None:
    """Re-derived with torch.distributions from the same noise."""
    model = flow().double()
    images = levels(2, 3, 16, 8)
    actual = model.log_prob(images, torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(3)
    u = torch.rand(images.shape, generator=generator, dtype=torch.float64)
    noises = model.draw_noises(2, (16, 8), generator)
    latents, log_det = model.encode((images + u) / 256 - 0.5, noises)
    expected = log_det - 3 * 16 * 8 * math.log(256)
    for index, latent in enumerate(latents):
        top = index == len(latents) - 1
        mean, std = (model.base_mean, model.base_log_std.exp()) if top else (0.0, 1.0)
        density = torch.distributions.Normal(mean, std).log_prob(latent)
        expected = expected + density.sum((1, 2, 3))
    for noise in noises:
        expected = expected - torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum((1, 2, 3))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-9)
    bits = model.bits_per_dim(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(bits, -expected / (3 * 16 * 8) / math.log(2))


def test_parameters_by_name() -> None:
    """25-6 must have 35.7 M: the public joint-training code's number."""
    with torch.device("meta"):
        counts = {n: sum(p.numel() for p in DenseFlow.by_name(n).parameters()) for n in SIZES}
    assert round(counts["25-6"] / 1e6, 1) == 35.7
    assert counts["25-6"] < counts["45-6"] < counts["74-10"]
    for name, size in SIZES.items():
        if "-" in name:
            layers, growth = (int(part) for part in name.split("-"))
            assert sum(u * n for u, n in zip(size.units, size.layers, strict=True)) == layers
            assert size.growth == growth
    with pytest.raises(ParameterError, match=r"25-7.*25-6"):
        flow_size("25-7")


UNIFORM = [
    ("tiny", (32, 3, 64, 64)),
    pytest.param("25-6", (4, 3, 64, 64), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "shape"), UNIFORM)
def test_uniform_levels_after_initialisation(name: str, shape: tuple[int, ...]) -> None:
    """A Gaussian fitted to uniform levels needs 8 + log2(sqrt(2 pi e / 12)) = 8.25 bits.

    A little less on the batch that set it, which is finite: 8.21 to 8.25 for 25-6.
    """
    torch.manual_seed(0)
    model = DenseFlow.by_name(name)
    before = float(model.bits_per_dim(levels(*shape)).detach().mean())
    bits = model.initialise(levels(*shape), torch.Generator().manual_seed(0))
    assert bits == pytest.approx(8 + math.log2(math.sqrt(2 * math.pi * math.e / 12)), abs=0.06)
    assert 8.1 < bits < 8.4 < before
    assert model.initialised
    # Images that it was not set from.
    fresh = float(model.bits_per_dim(levels(*shape, seed=1)).detach().mean())
    assert 8.1 < fresh < 8.4


@pytest.mark.data
def test_road_scenes_after_initialisation(shared_data: Path) -> None:
    """Far below the 8.25 bits of noise: neighbouring pixels are alike, and each ActNorm after a
    rotation takes some of that out. 25-6 needs 6.3 on such crops, and the public layers 6.5.
    """
    corpus = real_held_out_frames(shared_data, every=32)
    crops = np.stack([image[64:128, 96:160] for image, _ in corpus])
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    model = DenseFlow.by_name("tiny")
    before = float(model.bits_per_dim(batch).detach().mean())
    bits = model.initialise(batch)
    assert 5.5 < bits < 7.5 < before


@pytest.mark.parametrize("size", [(16, 16), (24, 216), (8, 8)])
def test_samples_of_any_size(size: tuple[int, int]) -> None:
    model = flow()
    with torch.no_grad():
        samples = model.sample(2, size, torch.Generator().manual_seed(0))
        again = model.sample(2, size, torch.Generator().manual_seed(0))
    assert samples.shape == (2, 3, *size)
    assert samples.dtype == torch.float32
    assert samples.min() >= 0
    assert samples.max() <= 255
    assert torch.equal(samples, again)
    assert not torch.equal(samples[0], samples[1])


def test_samples_are_distributed_as_the_model_says() -> None:
    """Before training, the flow is a known Gaussian: levels of mean 127.5."""
    torch.manual_seed(0)
    model = DenseFlow.by_name("tiny")
    batch = (100 + 20 * torch.randn(64, 3, 16, 16)).clamp(0, 255).to(torch.uint8)
    model.initialise(batch)
    with torch.no_grad():
        samples = model.sample(256, (16, 16), torch.Generator().manual_seed(0))
    assert float(samples.mean()) == pytest.approx(float(batch.float().mean()), abs=0.5)
    assert float(samples.std()) == pytest.approx(float(batch.float().std()), rel=0.02)


def test_bad_sizes_are_named() -> None:
    model = flow()
    with pytest.raises(ImageError, match="multiples of 8, got 16x20"):
        model.sample(1, (16, 20))
    with pytest.raises(ImageError, match="multiples of 8, got 12x16"):
        model.log_prob(levels(1, 3, 12, 16))
    with pytest.raises(ImageError, match=r"\(1, 1, 16, 16\)"):
        model.log_prob(levels(1, 1, 16, 16))


def test_the_likelihood_reaches_every_parameter() -> None:
    model = flow()
    model.bits_per_dim(levels(2, 3, 16, 16)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    images = levels(2, 3, 32, 32)
    gradients, stored = [], []
    for checkpointing in (False, True):
        model = flow(checkpointing=checkpointing)
        held = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal held
            held += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            bits = model.bits_per_dim(images, torch.Generator().manual_seed(0)).mean()
            sample = model.sample(2, (32, 32), torch.Generator().manual_seed(0)).mean()
        stored.append(held)
        (bits + sample / 255).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, frugal in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, frugal)
    assert stored[1] < stored[0] / 4


def test_autocast_around_it_changes_nothing() -> None:
    model = flow()
    images = levels(2, 3, 16, 16)
    plain = model.log_prob(images, torch.Generator().manual_seed(0))
    sample = model.sample(1, (16, 16), torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.log_prob(images, torch.Generator().manual_seed(0))
        cast_sample = model.sample(1, (16, 16), torch.Generator().manual_seed(0))
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)
    assert torch.equal(sample, cast_sample)


@pytest.mark.slow
def test_an_optimised_flow_beats_its_start() -> None:
    """A few steps on images of one colour: fewer bits, samples of about that colour."""
    torch.manual_seed(0)
    model = DenseFlow.by_name("tiny")
    base = torch.tensor([200.0, 60.0, 120.0]).view(1, 3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    images = (base + 6 * torch.randn(32, 3, 16, 16, generator=generator)).to(torch.uint8)
    start = model.initialise(images, generator)
    optimizer = torch.optim.Adamax(model.parameters(), 1e-3, eps=1e-7)
    for _ in range(30):
        optimizer.zero_grad()
        model.bits_per_dim(images, generator).mean().backward()
        optimizer.step()
    assert float(model.bits_per_dim(images, generator).detach().mean()) < start - 0.02
    with torch.no_grad():
        colour = model.sample(32, (16, 16), generator).mean((0, 2, 3))
    torch.testing.assert_close(colour, base.flatten(), atol=4, rtol=0)


def test_round_trip(tmp_path: Path) -> None:
    model = tiny_flow()
    model.initialised.fill_(True)
    path = tmp_path / "flow.safetensors"
    save_flow(path, model, {"steps": 3})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"dense_flow": "tiny", "provenance": '{"steps": 3}'}
    loaded = load_flow(path, checkpointing=True)
    assert loaded.name == "tiny"
    assert loaded.initialised
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    with torch.no_grad():
        samples = [
            m.sample(1, (16, 16), g) for m, g in zip((model, loaded), generators, strict=True)
        ]
    assert torch.equal(*samples)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    with pytest.raises(CheckpointError, match=r"flow\.safetensors"):
        load_flow(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="known size"):
        load_flow(path)
    save_file({"x": torch.zeros(1)}, path, {"dense_flow": "tiny"})
    with pytest.raises(CheckpointError, match="does not fit DenseFlow"):
        load_flow(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="a text that begins 'nothing'"):
        load_flow(path)
    with pytest.raises(OutputError, match=r"flow\.safetensors"):
        save_flow(path / "in_a_file.safetensors", tiny_flow(), {})


def test_picture_of_samples() -> None:
    model = tiny_flow()
    sheet = sample_sheet(model, [(16, 16), (16, 32)], columns=3, cell_width=32)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] > 3 * 32
    assert np.array_equal(sheet, sample_sheet(model, [(16, 16), (16, 32)], 3, 32))
    assert sheet.std() > 5
    levels = torch.tensor([0.4, 0.6, 255.0]).view(3, 1, 1)
    assert to_picture(levels).tolist() == [[[0, 1, 255]]]
