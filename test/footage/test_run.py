# SPDX-License-Identifier: Apache-2.0
"""A run from end to end with a tiny network: what is written, kept, left out and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import save_tiny_model, tiny_metadata, tiny_network
from tiny_camera import network_camera

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.footage import run as run_module
from anomaly_seg_ros.footage.output_folder import KINDS
from anomaly_seg_ros.footage.run import SegmentOptions, Summary, segment
from anomaly_seg_ros.footage.sources import open_source
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.images import read_image, read_label
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule

CPU = SegmenterOptions(device="cpu", backend="torch", precision="fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def options(model: Path) -> SegmentOptions:
    rule = ObjectRule(threshold=0.5, low_threshold=0.49, min_area=4)
    return SegmentOptions(model=str(model), segmenter=CPU, score="msp", rule=rule)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Eight frames of a bright square that moves over a dark street."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index in range(8):
        picture = np.full((64, 96, 3), 40, np.uint8)
        picture[20:40, 5 * index : 5 * index + 24] = (250, 240, 90)
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    return folder


def document(out: Path) -> dict[str, Any]:
    return json.loads((out / "objects.json").read_text())


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def names(out: Path) -> set[str]:
    return set(contents(out))


def call(source: Path, out: Path, options: SegmentOptions) -> Summary:
    return segment(open_source([str(source)]), out, options)


class Counted:
    """Counts the frames that reach the network, and stops after some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int | None = None) -> None:
        self.frames = 0
        original = Segmenter.segment

        def counting(own: Segmenter, *arguments: Any) -> Any:
            if self.frames == last:
                raise KeyboardInterrupt
            self.frames += 1
            return original(own, *arguments)

        monkeypatch.setattr(run_module.Segmenter, "segment", counting)


def test_the_files_show_what_the_segmenter_says(
    scenes: Path, tmp_path: Path, options: SegmentOptions
) -> None:
    out = tmp_path / "o"
    summary = call(scenes, out, replace(options, kinds=KINDS))
    assert (summary.kind, summary.frames, summary.kept, summary.unreadable) == (
        "pictures",
        8,
        0,
        0,
    )
    folders = (("overlays", "jpg"), ("masks", "png"), ("scores", "png"), ("labels", "png"))
    assert names(out) == {
        *(f"{folder}/{index:03d}.{suffix}" for folder, suffix in folders for index in range(8)),
        *("frames.html", "objects.json", "overlay.mp4"),
    }
    segmenter = Segmenter.load(options.model, CPU)
    calibration = segmenter.metadata.calibration_of("msp")
    for entry in document(out)["frames"]:
        name = f"{entry['name']}.png"
        prediction = segmenter.predict(read_image(scenes / name), ("msp",), confidence=False)
        unit = calibration.to_unit(prediction.scores["msp"])
        stored = cv2.imread(str(out / "scores" / name), cv2.IMREAD_UNCHANGED)
        assert np.abs(stored / 65535 - unit).max() <= 1 / 131070 + 1e-6
        mask = read_label(out / "masks" / name)
        np.testing.assert_array_equal(mask, np.where(unit >= 0.5, 255, 0))
        np.testing.assert_array_equal(stored >= 32768, mask == 255)
        labels = read_label(out / "labels" / name)
        assert prediction.labels is not None
        np.testing.assert_array_equal(labels, np.where(mask == 255, 19, prediction.labels))
        assert entry["unknown_share"] == pytest.approx((mask == 255).mean(), abs=1e-6)
        for found in entry["objects"]:
            left, top, width, height = found["box"]
            inside = unit[top : top + height, left : left + width]
            assert inside.max() == pytest.approx(found["peak"], abs=1e-4)
            assert 0.49 <= found["score"] <= found["peak"]
            assert found["class"] in segmenter.metadata.classes
            assert (mask[top : top + height, left : left + width] == 255).any()


def test_the_film_shows_the_overlays(
    scenes: Path, tmp_path: Path, options: SegmentOptions
) -> None:
    call(scenes, tmp_path / "o", replace(options, frame_rate=5.0))
    capture = cv2.VideoCapture(str(tmp_path / "o" / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
    for index in range(8):
        found, picture = capture.read()
        assert found
        overlay = cv2.imread(str(tmp_path / "o" / "overlays" / f"{index:03d}.jpg"))
        assert np.abs(picture.astype(int) - overlay).mean() < 12
    assert not capture.read()[0]


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    scenes: Path, tmp_path: Path, options: SegmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(scenes, tmp_path / "whole", options)
    with monkeypatch.context() as patch:
        Counted(patch, last=3)
        with pytest.raises(KeyboardInterrupt):
            call(scenes, tmp_path / "halves", options)
    kinds = {name.split("/")[0] for name in names(tmp_path / "halves")}
    assert kinds == {"masks", "overlays", "scores", "progress.jsonl"}
    assert len(names(tmp_path / "halves")) == 3 * 3 + 1
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        summary = call(scenes, tmp_path / "halves", options)
    assert counted.frames == 5
    assert (summary.frames, summary.kept) == (8, 3)
    whole, halves = contents(tmp_path / "whole"), contents(tmp_path / "halves")
    del whole["frames.html"], halves["frames.html"]  # tell how long it took
    # The film's first frames went through a JPEG.
    assert len(halves.pop("overlay.mp4")) == pytest.approx(len(whole.pop("overlay.mp4")), rel=0.3)
    assert halves == whole


def test_what_is_finished_is_not_done_again(
    scenes: Path, tmp_path: Path, options: SegmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call(scenes, tmp_path / "o", options)
    before = contents(tmp_path / "o")
    monkeypatch.setattr(run_module.Segmenter, "load", None)  # not even the model is read
    again = call(scenes, tmp_path / "o", options)
    assert (again.frames, again.kept, again.objects) == (8, 8, first.objects)
    assert contents(tmp_path / "o") == before
    assert str(again).startswith("8 pictures: ")
    assert str(again).endswith("8 done before")


def test_ids_are_made_anew_after_a_picture_that_is_new(
    scenes: Path, tmp_path: Path, options: SegmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(scenes, tmp_path / "o", options)
    call(scenes, tmp_path / "alone", replace(options, independent=True))
    cv2.imwrite(str(scenes / "004.png"), np.full((64, 96, 3), 90, np.uint8))
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        summary = call(scenes, tmp_path / "o", options)
    assert (counted.frames, summary.kept) == (4, 4)
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        summary = call(scenes, tmp_path / "alone", replace(options, independent=True))
    assert (counted.frames, summary.kept) == (1, 7)


def test_an_object_keeps_its_id_and_counts_once(
    scenes: Path, tmp_path: Path, options: SegmentOptions
) -> None:
    """By the numbers in the document, however the random network sees the square."""
    summary = call(scenes, tmp_path / "o", options)
    frames = document(tmp_path / "o")["frames"]
    ids = [[found["id"] for found in entry["objects"] if found["id"]] for entry in frames]
    assert not ids[0]  # nothing is known on its first sight
    assert any(ids)
    assert all(len(set(own)) == len(own) for own in ids)
    assert summary.objects == len({number for own in ids for number in own})
    assert summary.with_objects == sum(map(bool, ids))
    alone = call(scenes, tmp_path / "alone", replace(options, independent=True))
    numbered = [
        [found["id"] for found in entry["objects"]]
        for entry in document(tmp_path / "alone")["frames"]
    ]
    assert all(own == list(range(1, len(own) + 1)) for own in numbered)
    assert alone.objects == sum(map(len, numbered))


def test_unreadable_pictures_are_named_and_the_rest_goes_on(
    scenes: Path, tmp_path: Path, options: SegmentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (scenes / "002.png").read_bytes()
    (scenes / "002.png").write_bytes(whole[:-20])
    (scenes / "005.png").write_bytes(b"")
    out = tmp_path / "o"
    summary = call(scenes, out, options)
    assert (summary.frames, summary.unreadable, summary.is_partial) == (6, 2, True)
    assert "2 unreadable" in str(summary)
    told = capsys.readouterr().err
    assert f"unreadable: {scenes / '002.png'}: truncated PNG" in told
    assert f"unreadable: {scenes / '005.png'}: empty file" in told
    unreadable = document(out)["input"]["unreadable"]
    assert [entry["name"] for entry in unreadable] == ["002", "005"]
    assert len(document(out)["frames"]) == 6
    # Once it is repaired, a call does it, and what comes after.
    (scenes / "002.png").write_bytes(whole)
    assert call(scenes, out, options).kept == 2


def test_nothing_readable_is_an_error(tmp_path: Path, options: SegmentOptions) -> None:
    (tmp_path / "bad").mkdir()
    for index in range(3):
        (tmp_path / "bad" / f"{index}.png").write_bytes(b"no picture")
    with pytest.raises(
        ImageError, match=r"nothing could be read; the first: .*0\.png: not a read"
    ):
        call(tmp_path / "bad", tmp_path / "o", options)
    assert not names(tmp_path / "o")


def test_pictures_of_many_sizes_and_a_single_one(tmp_path: Path, options: SegmentOptions) -> None:
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(64, 96), (31, 77), (200, 40)]):
        (tmp_path / "in").mkdir(exist_ok=True)
        picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), picture)
    call(tmp_path / "in", tmp_path / "o", options)
    assert read_label(tmp_path / "o" / "masks" / "2.png").shape == (200, 40)
    capture = cv2.VideoCapture(str(tmp_path / "o" / "overlay.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    single = call(tmp_path / "in" / "0.png", tmp_path / "single", options)
    assert single.frames == 1
    numbers = [found["id"] for found in document(tmp_path / "single")["frames"][0]["objects"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_video_with_its_times_and_notes(
    tmp_path: Path, options: SegmentOptions, encode: Any
) -> None:
    path = encode("cut.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = tmp_path / "o"
    summary = call(path, out, replace(options, kinds=("masks", "video")))
    found = document(out)
    assert summary.kind == found["input"]["kind"] == "video"
    assert found["input"]["frame_rate"] == 10
    assert [entry["time_s"] for entry in found["frames"]][:3] == [0, 0.1, 0.2]
    assert summary.is_partial
    assert found["input"]["notes"] == summary.notes
    assert "ends after" in summary.notes[0]
    assert names(out) == {
        *(f"masks/{index:06d}.png" for index in range(summary.frames)),
        *("frames.html", "objects.json", "overlay.mp4"),
    }


@pytest.mark.slow
def test_a_camera_that_vanishes_leaves_what_it_sent(
    tmp_path: Path, options: SegmentOptions
) -> None:
    out = tmp_path / "o"
    # What torch does once a process is done before the camera starts.
    Segmenter.load(options.model, CPU).predict(np.zeros((48, 64, 3), np.uint8), ("msp",))
    with network_camera(150, pause_s=0.04) as address:
        summary = segment(open_source([address]), out, options)
    assert summary.kind == "camera"
    assert summary.frames >= 3
    assert summary.frames + summary.dropped <= 150
    assert summary.is_partial
    assert "it is gone" in summary.notes[0]
    found = document(out)
    times = [entry["time_s"] for entry in found["frames"]]
    assert times == sorted(times)
    assert found["input"]["dropped"] == summary.dropped
    # The film lasts as long as the camera was there, whatever the network's pace.
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    shown = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert shown == pytest.approx(times[-1], abs=0.11)


def test_only_what_is_wanted_is_written(
    scenes: Path, tmp_path: Path, options: SegmentOptions
) -> None:
    call(scenes, tmp_path / "o", replace(options, kinds=("masks",), limit=2))
    assert names(tmp_path / "o") == {"masks/000.png", "masks/001.png", "objects.json"}


def test_false_alarms_choose_the_smallest_score(
    scenes: Path, tmp_path: Path, options: SegmentOptions
) -> None:
    rates = ObjectRates("msp", options.rule, (0.0, 0.51, 0.6), (9.0, 2.0, 0.5), (0.9, 0.8, 0.4))
    path = tmp_path / "calibrated.safetensors"
    save_model(path, tiny_network(), tiny_metadata(object_rates=rates))
    calibrated = replace(options, model=str(path), false_alarms=3.0)
    call(scenes, tmp_path / "o", calibrated)
    found = document(tmp_path / "o")
    assert found["model"]["min_object_score"] == 0.51
    assert all(o["score"] >= 0.51 for entry in found["frames"] for o in entry["objects"])
    wrong = {
        "not calibrated for objects": replace(options, false_alarms=3.0),
        "fewer than the 0.5": replace(calibrated, false_alarms=0.1),
        "calibrated with score msp, not energy": replace(calibrated, score="energy"),
    }
    for number, (told, other) in enumerate(wrong.items()):
        with pytest.raises(ParameterError, match=told):
            call(scenes, tmp_path / str(number), other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": 1.5}, "alpha must be"),
        ({"frame_rate": 0.0}, "fps must be"),
        ({"limit": 0}, "limit must be"),
        ({"kinds": ("sketches",)}, "sketches: expected overlays, masks"),
    ],
)
def test_options_out_of_range(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        SegmentOptions(**change)
