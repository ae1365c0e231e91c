# SPDX-License-Identifier: Apache-2.0
"""The Segmenter: shapes, sizes, equivalences, refusals, and the real baseline on real frames."""

from __future__ import annotations

import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import in_mode, tiny_metadata, tiny_network

from anomaly_seg_ros import scores
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import DeviceError, ImageError, ParameterError
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.inference.prediction import UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.system.memory import peak_memory


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(
        tiny_network(outlier_head=True), tiny_metadata(outlier_head=True), device="cpu"
    )


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (200, 301), (33, 500), (1, 1), (48, 48)])
def test_outputs_have_the_size_of_the_image(segmenter: Segmenter, size: tuple[int, int]) -> None:
    prediction = segmenter.predict(random_image(*size), scores.SCORES)
    assert prediction.labels.shape == prediction.confidence.shape == size
    assert prediction.labels.dtype == prediction.confidence.dtype == np.uint8
    assert prediction.labels.max() < 19
    assert list(prediction.scores) == list(scores.SCORES)
    for name, score in prediction.scores.items():
        assert score.shape == size, name
        assert score.dtype == np.float32
        assert np.isfinite(score).all(), name


def test_only_what_is_asked_for(segmenter: Segmenter) -> None:
    prediction = segmenter.predict(random_image(64, 96), (), labels=False, confidence=False)
    assert prediction.labels is None
    assert prediction.confidence is None
    assert prediction.scores == {}


def test_follows_the_definition(segmenter: Segmenter) -> None:
    """Against the plain network: normalise, run, score on the grid, then upsample."""
    image = random_image(64, 96)
    prediction = segmenter.predict(image, ("energy",))
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        logits = tiny_network(outlier_head=True)((x - 0.5) / 0.5).logits
    energy = F.interpolate(scores.energy(logits)[None], size=(64, 96), mode="bilinear")[0, 0]
    np.testing.assert_allclose(prediction.scores["energy"], energy, rtol=1e-3, atol=1e-4)
    labels = F.interpolate(logits, size=(64, 96), mode="bilinear").argmax(1)[0]
    assert (prediction.labels == labels.numpy()).mean() > 0.999


@pytest.mark.parametrize(
    "image",
    [
        random_image(64, 110)[:, :96],
        random_image(64, 96)[..., ::-1],
        np.frombuffer(random_image(64, 96).tobytes(), np.uint8).reshape(64, 96, 3),
        random_image(100, 150),
    ],
    ids=["padded", "reversed", "read-only", "plain"],
)
def test_strides_do_not_matter_and_twice_is_the_same(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    a, b = segmenter.predict(image), segmenter.predict(image.copy())
    np.testing.assert_array_equal(a.scores["max_logit"], b.scores["max_logit"])
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_images_are_refused(segmenter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8"):
        segmenter.predict(image)


def test_scores_that_the_model_lacks_are_refused() -> None:
    segmenter = Segmenter(tiny_network(), tiny_metadata(statistics=None), device="cpu")
    assert "sml" not in segmenter.available_scores
    assert "dense_hybrid" not in segmenter.available_scores
    with pytest.raises(ParameterError, match="dense_hybrid"):
        segmenter.predict(random_image(8, 8), ("dense_hybrid",))


def test_sizes_that_do_not_fit_are_refused_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="544 x 960"):
        Segmenter(tiny_network(), tiny_metadata(), device="cpu", inference_size=(540, 960))
    with pytest.raises(ParameterError, match="positive multiples"):
        Segmenter(tiny_network(), tiny_metadata(), device="cpu", inference_size=(0, 64))


@pytest.mark.parametrize("device", ["cuda:97", "cudo", "mps", ""])
def test_devices_that_do_not_exist_are_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="device"):
        Segmenter.load("default", device=device)


def test_keywords_replace_fields_of_the_options() -> None:
    options = SegmenterOptions(device="cpu", inference_size=(64, 96))
    segmenter = Segmenter(tiny_network(), tiny_metadata(), options, inference_size=(32, 64))
    assert segmenter.device.type == "cpu"
    assert segmenter.inference_size == (32, 64)
    with pytest.raises(TypeError, match="threads"):
        Segmenter(tiny_network(), tiny_metadata(), threads=1)


def test_precision_must_fit_the_device() -> None:
    with pytest.raises(ParameterError, match="fp16"):
        Segmenter(tiny_network(), tiny_metadata(), device="cpu", precision="fp16")


def test_bfloat16_agrees(shared_data: Path) -> None:
    frame = open_dataset("cityscapes", shared_data / "cityscapes", split="train")[0].read_image()
    exact = Segmenter.load(
        "default", device="cpu", precision="fp32", inference_size=(256, 512)
    ).predict(frame)
    rough = Segmenter.load(
        "default", device="cpu", precision="bf16", inference_size=(256, 512)
    ).predict(frame)
    assert (exact.labels == rough.labels).mean() > 0.98


@pytest.mark.slow
def test_erfnet_reaches_its_published_accuracy(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.70 mIoU or better on full Cityscapes frames, at the size it was made for."""
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(shared_data.parent / "weights"))
    segmenter = Segmenter.load("erfnet", device="cpu")
    assert _mean_iou(segmenter, shared_data) >= 0.70


def test_default_model_reads_full_frames(shared_data: Path) -> None:
    """These ten frames were among the training data: a check of the pipeline, not of quality."""
    assert _mean_iou(Segmenter.load("default", device="cpu"), shared_data) >= 0.5


def _mean_iou(segmenter: Segmenter, shared_data: Path) -> float:
    matrix = ConfusionMatrix(19)
    for sample in open_dataset("cityscapes", shared_data / "cityscapes", split="train"):
        loaded = sample.load()
        prediction = segmenter.predict(loaded.image, (), confidence=False)
        matrix.update(loaded.labels, prediction.labels)
    return matrix.mean_iou()


def test_area_averaging_when_shrinking(segmenter: Segmenter) -> None:
    """A one-pixel checkerboard averages to grey instead of aliasing to black or white."""
    board = (np.indices((256, 384)).sum(0) % 2 * 255).astype(np.uint8)
    grey = np.full((64, 96, 3), 127, np.uint8)
    fine = segmenter.predict(cv2.merge([board] * 3), confidence=False)
    flat = segmenter.predict(grey, confidence=False)
    assert np.abs(fine.scores["max_logit"].mean() - flat.scores["max_logit"].mean()) < 1e-2


def before_modes(segmenter: Segmenter, image: np.ndarray, score: str) -> tuple[np.ndarray, ...]:
    """Labels, confidence and a score of the resized path, by plain OpenCV and torch calls."""
    height, width = segmenter.inference_size
    size, seen = image.shape[:2], image
    if size != (height, width):
        shrinks = size[0] > height and size[1] > width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        seen = cv2.resize(image, (width, height), interpolation=how)

    def large(values: torch.Tensor, to: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(values, size=to, mode="bilinear", align_corners=False)

    with torch.inference_mode():
        output = segmenter.run_network(np.ascontiguousarray(seen)[None])
        values = large(scores.compute(score, output)[None], size)[0, 0].numpy()
        top = output.logits.softmax(1).amax(1)
        confidence = large(top[None], size)[0, 0].mul(255).round().to(torch.uint8).numpy()
        grid = min((height, width), size, key=lambda s: s[0] * s[1])
        labels = large(output.logits, grid).argmax(1)[0].to(torch.uint8).numpy()
    labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return labels, confidence, values


@pytest.mark.parametrize("size", [(64, 96), (200, 301), (33, 500), (48, 48)])
def test_the_resized_path_equals_plain_calls(segmenter: Segmenter, size: tuple[int, int]) -> None:
    image = random_image(*size)
    prediction = segmenter.predict(image, ("dense_hybrid",))
    labels, confidence, score = before_modes(segmenter, image, "dense_hybrid")
    # Equal up to rounding, which may decide between two classes that tie.
    assert (prediction.labels == labels).mean() > 0.9999
    assert np.abs(prediction.confidence.astype(int) - confidence).max() <= 1
    np.testing.assert_allclose(prediction.scores["dense_hybrid"], score, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["full", "tiled"])
@pytest.mark.parametrize("size", [(64, 96), (131, 203), (33, 500), (1, 1), (48, 48)])
def test_frames_keep_their_size_in_every_mode(mode: str, size: tuple[int, int]) -> None:
    segmenter = in_mode(mode, tile_size=(64, 64), tile_overlap=32)
    for shape in (size, size[::-1]):  # frames may change their size
        prediction = segmenter.predict(random_image(*shape), scores.SCORES)
        assert prediction.labels.shape == prediction.confidence.shape == shape
        for score in prediction.scores.values():
            assert score.shape == shape
            assert score.flags.c_contiguous
            assert np.isfinite(score).all()


def test_full_resolution_equals_resizing_to_the_same_size() -> None:
    image = random_image(128, 160)
    full = in_mode("full").predict(image, ("energy",))
    resized = in_mode("resized", inference_size=(128, 160)).predict(image, ("energy",))
    np.testing.assert_array_equal(full.scores["energy"], resized.scores["energy"])
    np.testing.assert_array_equal(full.labels, resized.labels)


def test_padding_is_mirrored_and_cut_off_again() -> None:
    """A frame of 70 x 90 gives what its mirrored extension gives, without resampling."""
    image = random_image(70, 90)
    extended = np.pad(image, ((0, 26), (0, 6), (0, 0)), mode="reflect")
    cut = in_mode("full").predict(image, ("energy",))
    whole = in_mode("full").predict(extended, ("energy",))
    np.testing.assert_array_equal(cut.scores["energy"], whole.scores["energy"][:70, :90])
    np.testing.assert_array_equal(cut.labels, whole.labels[:70, :90])
    np.testing.assert_array_equal(cut.confidence, whole.confidence[:70, :90])


def test_views_are_padded_like_their_copies() -> None:
    segmenter, view = in_mode("full"), random_image(70, 110)[:, :90, ::-1]
    a, b = segmenter.predict(view), segmenter.predict(view.copy())
    np.testing.assert_array_equal(a.scores["max_logit"], b.scores["max_logit"])


def test_modes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match="resized, full, tiled"):
        in_mode("sliding")
    with pytest.raises(ParameterError, match="mode 'full' keeps the frame's own size"):
        in_mode("full", inference_size=(64, 96))
    assert in_mode("full", inference_size=(0, 0)).inference_size is None


def test_peak_memory_is_measured() -> None:
    before = peak_memory(torch.device("cpu"))
    assert "whole process" in before.what
    block = np.ones(2**27, np.uint8)  # 128 MiB, written to and so resident
    after = peak_memory(torch.device("cpu"))
    assert block[-1] == 1
    resident = Path("/proc/self/statm").read_text().split()[1]
    assert after.mib >= int(resident) * resource.getpagesize() / 2**20
    assert after.mib >= before.mib


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampling_follows_the_network(align_corners: bool) -> None:
    network = tiny_network()
    network.align_corners = align_corners
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    segmenter = Segmenter(network, tiny_metadata(), device="cpu")
    prediction = segmenter.predict(image, scores=("max_logit",))
    logits = segmenter.run_network(image[None]).logits
    large = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=align_corners)
    assert np.array_equal(prediction.labels, large.argmax(1)[0].numpy())
    score = F.interpolate(
        -logits.amax(1)[None], size=(64, 96), mode="bilinear", align_corners=align_corners
    )
    np.testing.assert_allclose(prediction.scores["max_logit"], score[0, 0].numpy(), atol=1e-5)


def test_stages_are_parts_of_the_whole(segmenter: Segmenter) -> None:
    image = random_image(100, 150)
    for prediction in [segmenter.predict(image), *segmenter.predict_batch([image, image[:50]])]:
        assert list(prediction.stages_ms) == ["resize", "upload", "network", "score"]
        assert min(prediction.stages_ms.values()) >= 0
        assert 0 < sum(prediction.stages_ms.values()) <= prediction.inference_ms


def test_batches_keep_their_order() -> None:
    """Frames of several sizes: those of one size run together, and nothing is mixed up."""
    for mode in ("full", "tiled", "resized"):
        shared = in_mode(mode, tile_size=(64, 64), tile_overlap=32)
        sizes = [(64, 96), (40, 50), (64, 96), (128, 64), (40, 50), (64, 96)]
        images = [random_image(*size, seed=i) for i, size in enumerate(sizes)]
        rule = UnknownRule("energy", 0.5, mask=True, open_set_labels=True)
        for image, got in zip(
            images, shared.predict_batch(images, ("msp",), unknown=rule), strict=True
        ):
            alone = shared.predict(image, ("msp",), unknown=rule)
            np.testing.assert_allclose(got.scores["msp"], alone.scores["msp"], rtol=0, atol=1e-6)
            np.testing.assert_allclose(got.unit_score, alone.unit_score, rtol=0, atol=1e-6)
            assert (got.labels == alone.labels).mean() > 0.999
            assert np.abs(got.confidence.astype(int) - alone.confidence).max() <= 1


def test_the_network_sees_frames_of_one_size_together(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    runner = segmenter._runner

    def counting(frames: np.ndarray, watch: object) -> object:
        seen.append(frames.shape)
        return runner(frames, watch)

    monkeypatch.setattr(segmenter, "_runner", counting)
    segmenter.predict_batch([random_image(64, 96, seed) for seed in range(3)])
    assert seen == [(3, 64, 96, 3)]


def test_a_batch_of_nothing(segmenter: Segmenter) -> None:
    assert segmenter.predict_batch([]) == []


def test_one_bad_image_spoils_a_batch(segmenter: Segmenter) -> None:
    with pytest.raises(ImageError, match="float32"):
        segmenter.predict_batch([random_image(64, 96), np.zeros((4, 4, 3), np.float32)])


@pytest.mark.parametrize("size", [(64, 96), (200, 301), (33, 50)])
@pytest.mark.parametrize("score", ["max_logit", "dense_hybrid"])
def test_unknown_is_what_subscribers_would_compute(
    segmenter: Segmenter, size: tuple[int, int], score: str
) -> None:
    """From the raw score and the labels, in NumPy."""
    image = random_image(*size)
    raw = segmenter.predict(image, (score,)).scores[score]
    unit = segmenter.metadata.calibration_of(score).to_unit(raw)
    # A threshold that is no float32, in the middle of the values.
    threshold = float(np.median(unit)) * (1 + 1e-9)
    rule = UnknownRule(score, threshold, mask=True, open_set_labels=True)
    prediction = segmenter.predict(image, (), unknown=rule)
    np.testing.assert_array_equal(prediction.unit_score, unit)
    unknown = unit >= np.float32(threshold)
    assert unknown.any()
    assert not unknown.all()
    np.testing.assert_array_equal(prediction.mask, np.where(unknown, 255, 0))
    np.testing.assert_array_equal(
        prediction.open_set_labels, np.where(unknown, 19, prediction.labels)
    )
    assert prediction.scores == {}
    for array in (prediction.mask, prediction.open_set_labels):
        assert array.dtype == np.uint8
        assert array.shape == size
        assert array.flags.c_contiguous


def test_of_the_unknown_only_what_is_wanted(segmenter: Segmenter) -> None:
    image = random_image(64, 96)
    plain = segmenter.predict(image)
    assert (plain.unit_score, plain.mask, plain.open_set_labels) == (None, None, None)
    score = segmenter.predict(
        image, (), labels=False, confidence=False, unknown=UnknownRule("msp", 0.5, mask=False)
    )
    assert score.unit_score is not None
    assert (score.mask, score.open_set_labels, score.labels) == (None, None, None)
    labels = segmenter.predict(
        image, (), labels=False, unknown=UnknownRule("msp", 0.5, False, open_set_labels=True)
    )
    assert labels.labels is None
    assert labels.open_set_labels is not None


def test_the_score_of_the_rule_may_also_be_asked_for(segmenter: Segmenter) -> None:
    image, rule = random_image(64, 96), UnknownRule("energy", 0.5)
    both = segmenter.predict(image, ("energy", "msp"), unknown=rule)
    np.testing.assert_array_equal(
        both.unit_score, segmenter.predict(image, (), unknown=rule).unit_score
    )
    np.testing.assert_array_equal(
        both.scores["energy"], segmenter.predict(image, ("energy",)).scores["energy"]
    )


def test_a_rule_with_a_score_that_the_model_lacks() -> None:
    segmenter = Segmenter(tiny_network(), tiny_metadata(), device="cpu")
    with pytest.raises(ParameterError, match="dense_hybrid"):
        segmenter.predict(random_image(8, 8), (), unknown=UnknownRule("dense_hybrid", 0.5))


def test_notes_of_the_backend_are_passed_on(segmenter: Segmenter) -> None:
    assert segmenter.notes == ()
    graphed = Segmenter(tiny_network(), tiny_metadata(), device="cpu", cuda_graphs=True)
    assert graphed.notes == ("cuda_graphs: has no effect on the CPU",)
    graphed._runner.notes.append("the capture was refused")  # as at the first frame
    assert graphed.notes[-1] == "the capture was refused"
