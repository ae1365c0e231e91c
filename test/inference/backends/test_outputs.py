# SPDX-License-Identifier: Apache-2.0
"""Every backend beside the plain network, called as its contract says."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from every_network import NETWORKS, SIZE, save_network
from tiny import tiny_metadata
from tiny_backends import CPU, EXACT, METADATA, AnySize, Strided, build, frames, plain, select

from anomaly_seg_ros import scores
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference.options import ONNXRUNTIME, OPENVINO, TORCH
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.stopwatch import Stopwatch

BACKENDS = (TORCH, OPENVINO, ONNXRUNTIME)
# Compiling takes up to ten seconds each on a busy machine; these two are what is shipped.
QUICK = ("default", "deeplab_lite", "erfnet")


def segmenter(backend: str, mode: str = "resized") -> Segmenter:
    return Segmenter(
        Strided(), METADATA, EXACT,
        inference_mode=mode, tile_size=(64, 64), tile_overlap=32, backend=backend, num_threads=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", BACKENDS)
def test_logits_are_those_of_the_plain_network(name: str) -> None:
    backend = build(name)
    assert (backend.name, backend.precision) == (name, "fp32")
    # Sizes change and come back, and so do batches of several sizes.
    for count, height, width in [(1, 64, 96), (3, 32, 64), (1, 96, 32), (2, 64, 96), (1, 64, 96)]:
        batch = frames(count, height, width, seed=height + count)
        watch = Stopwatch(CPU)
        output = backend(batch, watch)
        expected = plain(Strided(), METADATA, batch)
        assert output.pre_logits.numel() == 0
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(output.ood_logits, expected.ood_logits, rtol=0, atol=1e-3)
        # The tolerance means something: frames of another seed lie far outside it.
        other = plain(Strided(), METADATA, frames(count, height, width, seed=1))
        assert (output.logits - other.logits).abs().mean() > 0.1
        assert set(watch.milliseconds()) == {"upload", "network"}


@pytest.mark.parametrize("name", BACKENDS)
def test_networks_without_an_outlier_head(name: str) -> None:
    output = build(name, outlier_head=False)(frames(1, 64, 96), Stopwatch(CPU))
    assert output.ood_logits is None
    expected = plain(Strided(outlier_head=False), METADATA, frames(1, 64, 96)).logits
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", BACKENDS)
def test_any_strides_and_read_only_frames(name: str) -> None:
    view = frames(1, 64, 192)[:, :, ::2, ::-1]
    read_only = view.copy()
    read_only.flags.writeable = False
    expected = plain(Strided(), METADATA, view.copy()).logits
    for batch in (view, read_only):
        output = build(name)(batch, Stopwatch(CPU)).logits
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "precision"), [(OPENVINO, "fp32"), (OPENVINO, "bf16"), (ONNXRUNTIME, "fp32")]
)
def test_the_network_is_left_for_the_next_backend(name: str, precision: str) -> None:
    network = Strided()
    before = copy.deepcopy(network.state_dict())
    select(name, precision, network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(value.dtype == before[key].dtype for key, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", [TORCH, OPENVINO])
def test_bfloat16_on_a_real_frame(name: str, shared_data: Path) -> None:
    """A shipped model that runs in it: labels agree by 99.5 %, scores stay close."""
    model = "deeplab_lite0_open_set"
    frame = open_dataset("cityscapes", shared_data / "cityscapes", split="train")[0].read_image()
    names = ("max_logit", "energy", "dense_hybrid")
    exact = Segmenter.load(model, EXACT, inference_size=(512, 1024)).predict(frame, names)
    rough = Segmenter.load(
        model, device="cpu", precision="bf16", inference_size=(512, 1024), backend=name
    )
    assert (rough.backend, rough.precision) == (name, "bf16")
    prediction = rough.predict(frame, names)
    assert (prediction.labels == exact.labels).mean() >= 0.995
    for score in names:
        difference = np.abs(prediction.scores[score] - exact.scores[score])
        assert np.median(difference) < 0.03 * exact.scores[score].std(), score
        assert difference.max() > 0, score  # bf16 was really used


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("mode", ["resized", "tiled"])
def test_predictions_outlive_the_next_call(name: str, mode: str) -> None:
    """Also where maps have the network's own size, and nothing need be resampled."""
    shared = segmenter(name, mode)
    for size in [(64, 96), (16, 24)]:
        first, second = (frames(1, *size, seed=seed)[0] for seed in (0, 1))
        prediction = shared.predict(first, scores.SCORES)
        kept = copy.deepcopy(prediction)
        other = shared.predict(second, scores.SCORES)
        assert not np.array_equal(other.scores["energy"], kept.scores["energy"])
        np.testing.assert_array_equal(prediction.labels, kept.labels)
        np.testing.assert_array_equal(prediction.confidence, kept.confidence)
        for score, values in kept.scores.items():
            np.testing.assert_array_equal(prediction.scores[score], values)


@pytest.mark.parametrize("name", BACKENDS)
def test_outputs_at_the_networks_own_size_outlive_the_next_call(name: str) -> None:
    """Logits of the frame's size: no map is interpolated, so none is copied by that."""
    shared = Segmenter(AnySize(), METADATA, EXACT, inference_mode="full", backend=name)
    names = shared.available_scores
    first, second = (frames(1, 24, 40, seed=seed)[0] for seed in (0, 1))
    prediction = shared.predict(first, names)
    kept = copy.deepcopy(prediction)
    shared.predict(second, names)
    np.testing.assert_array_equal(prediction.labels, kept.labels)
    for score, values in kept.scores.items():
        np.testing.assert_array_equal(prediction.scores[score], values)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("mode", ["resized", "tiled"])
def test_a_batch_equals_its_frames(name: str, mode: str) -> None:
    shared = segmenter(name, mode)
    images = [frames(1, *s, seed=i)[0] for i, s in enumerate([(64, 96), (150, 203), (64, 96)])]
    together = shared.predict_batch(images, ("energy",))
    for image, prediction in zip(images, together, strict=True):
        alone = shared.predict(image, ("energy",))
        assert prediction.labels.shape == image.shape[:2]
        np.testing.assert_allclose(prediction.scores["energy"], alone.scores["energy"], atol=1e-3)
        assert (prediction.labels == alone.labels).mean() > 0.999


@pytest.mark.parametrize("name", [OPENVINO, ONNXRUNTIME])
def test_batches_are_not_compiled_anew(name: str) -> None:
    """A camera that drops out of a batch must not stop the others for ten seconds."""
    backend = build(name)
    programs = backend._programs
    batch = frames(3, 64, 96)
    alone = [backend(frame[None], Stopwatch(CPU)).logits.clone() for frame in batch]
    kept = programs[1, 64, 96, 3]
    together = backend(batch, Stopwatch(CPU)).logits
    assert torch.equal(together, torch.cat(alone))
    assert programs[1, 64, 96, 3] is kept
    assert all(count == 1 for count, *_ in programs._programs)


@pytest.mark.parametrize("name", [OPENVINO, ONNXRUNTIME])
def test_tiles_equal_those_of_torch(name: str) -> None:
    image = frames(1, 150, 203)[0]
    one, other = (segmenter(b, "tiled").predict(image, ("energy",)) for b in (TORCH, name))
    np.testing.assert_allclose(one.scores["energy"], other.scores["energy"], atol=1e-3)
    assert (one.labels == other.labels).mean() > 0.999
    assert len(np.unique(one.labels)) > 3


@pytest.mark.parametrize("name", BACKENDS)
def test_threads_that_share_a_segmenter_get_their_own_results(name: str) -> None:
    shared = segmenter(name)
    images = [frames(1, 64, 96, seed=seed)[0] for seed in range(4)]
    expected = [shared.predict(image, ("energy",)) for image in images]
    wrong: list[int] = []
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            got = shared.predict(images[number], ("energy",))
            same = np.array_equal(got.scores["energy"], expected[number].scores["energy"])
            if not same or not np.array_equal(got.labels, expected[number].labels):
                wrong.append(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert sorted(done) == [0, 1, 2, 3]


def _how_often(network: str) -> pytest.MarkDecorator | tuple:
    """Of the large networks, one of each kind of layers is enough for the most part."""
    if network in QUICK:
        return ()
    large = "resnet" in network and network != "resnet101"
    return pytest.mark.exhaustive if large else pytest.mark.thorough


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [pytest.param(n, marks=_how_often(n)) for n in NETWORKS],
)
def test_every_network_with_openvino(network: str, tmp_path: Path) -> None:
    path, batch = save_network(network, tmp_path / "model.safetensors"), frames(1, *SIZE)
    expected = plain(*load_model(path), batch)
    given = Segmenter.load(path, EXACT, backend=OPENVINO).run_network(batch)
    # Random weights make small logits, and some of these networks hardly look at the image.
    torch.testing.assert_close(given.logits, expected.logits, rtol=1e-3, atol=1e-5)
    assert (given.ood_logits is None) == (expected.ood_logits is None)


@pytest.mark.parametrize("name", BACKENDS)
def test_sizes_that_no_stride_divides(name: str) -> None:
    metadata, image = tiny_metadata(), frames(1, 13, 7)[0]
    shared = Segmenter(AnySize(), metadata, EXACT, inference_mode="full", backend=name)
    prediction = shared.predict(image, ("max_logit",))
    logits = plain(AnySize(), metadata, image[None]).logits
    assert (prediction.labels == logits.argmax(1)[0].numpy()).all()
    np.testing.assert_allclose(
        prediction.scores["max_logit"], -logits.amax(1)[0].numpy(), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [OPENVINO, ONNXRUNTIME])
def test_what_was_compiled_can_be_forgotten(name: str) -> None:
    shared = segmenter(name)
    programs = shared._runner._programs
    image = frames(1, 64, 96)[0]
    before = shared.predict(image, ("energy",)).scores["energy"]
    assert (1, 64, 96, 3) in programs
    shared._runner.forget()
    assert (1, 64, 96, 3) not in programs
    np.testing.assert_array_equal(shared.predict(image, ("energy",)).scores["energy"], before)
