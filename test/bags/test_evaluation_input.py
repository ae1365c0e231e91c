# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.bags import BagReader, BagWriter
from anomaly_seg_ros.bags.evaluation_input import (
    BagOptions,
    described,
    duration,
    notes_on,
    open_bag,
)
from anomaly_seg_ros.errors import BagError, ParameterError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "ground_truth"
MASK_TOPIC = "/ground_truth/anomaly_mask"
LABELS_TOPIC = "/ground_truth/labels"
PICTURE = np.zeros((4, 6, 3), np.uint8)
MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)
STEP = 10**8


def recorded(foreign, frames: int, masks: dict[int, int], mask=MASK, topic=MASK_TOPIC) -> Path:
    """A bag of frames at 1, 2, ... steps and masks: ``{number of the frame: offset in ns}``."""
    bag = foreign()
    for number in range(1, frames + 1):
        bag.image("/cam", number * STEP, PICTURE, "rgb8")
    for number, offset in masks.items():
        bag.image(topic, number * STEP + offset, mask, "mono8")
    return bag.close()


def found(path: Path, **options) -> tuple[list[bool], list[str]]:
    """Which frames have a mask, and the notes."""
    chosen = BagOptions(**options)
    with open_bag(path, chosen) as reader:
        return [f.anomaly_mask is not None for f in reader.frames()], notes_on(reader, chosen)


def test_sparse_ground_truth_is_told_not_refused(foreign):
    masks, notes = found(recorded(foreign, 9, dict.fromkeys((1, 4, 7), 0)))
    assert masks == [True, False, False] * 3
    assert notes == [f"{MASK_TOPIC}: 6 of 9 frames have no message of it"]


@pytest.mark.parametrize("topic", [MASK_TOPIC, LABELS_TOPIC])
@pytest.mark.parametrize("off", [1, 250_000_000])
def test_ground_truth_off_by_a_constant_is_refused_with_the_difference(foreign, topic, off):
    path = recorded(foreign, 3, dict.fromkeys((1, 2, 3), off), topic=topic)
    nearest = {1: "1 ns", 250_000_000: "50 ms"}[off]  # two and a half steps behind the first one
    with pytest.raises(BagError) as caught:
        open_bag(path, BagOptions())
    assert str(caught.value) == (
        f"{path}: 3 of 3 messages of {topic} match no frame of /cam, the nearest by stamp is "
        f"{nearest} off; the option stamp_tolerance (--stamp-tolerance SECONDS) pairs the "
        "nearest, the option allow_unmatched (--allow-unmatched) goes on with 0"
    )


def test_half_matched_ground_truth_is_refused_unless_asked_for(foreign):
    path = recorded(foreign, 6, {number: number % 2 for number in range(1, 7)})
    with pytest.raises(
        BagError, match=r"3 of 6 messages of /ground_truth/anomaly_mask.* 1 ns off"
    ):
        open_bag(path, BagOptions())
    masks, notes = found(path, allow_unmatched=True)
    assert masks == [False, True] * 3
    assert notes == [
        f"{MASK_TOPIC}: 3 of 6 messages match no frame (nearest 1 ns off) and are left out",
        f"{MASK_TOPIC}: 3 of 6 frames have no message of it",
    ]
    masks, notes = found(path, stamp_tolerance=1e-6)
    assert masks == [True] * 6
    assert notes == [f"{MASK_TOPIC}: paired over up to 1 ns between stamps"]


def test_what_was_found_is_written_down(foreign):
    path = recorded(foreign, 4, {1: 0, 3: 7})
    options = BagOptions(allow_unmatched=True)
    with open_bag(path, options) as reader:
        document = described(reader, options)
    assert document["image_topic"] == "/cam"
    assert (document["frames"], document["stamps"]) == (4, "the header's stamps")
    assert document["ground_truth"] == {
        MASK_TOPIC: {
            "messages": 2,
            "matched": 1,
            "unmatched": 1,
            "repeated": 0,
            "frames_without": 3,
            "paired_by": "stamp",
            "largest_difference_s": 0.0,
            "nearest_unmatched_s": 7e-9,
        }
    }


def test_the_choice_of_a_topic_is_told(foreign):
    bag = foreign()
    for topic in ("/right/image", "/left/image", "/detector/overlay"):
        bag.image(topic, 1, PICTURE, "rgb8")
    path = bag.close()
    _, notes = found(path)
    assert len(notes) == 1
    assert notes[0].startswith("frames of /left/image, chosen over /right/image (most ground tr")
    assert "no camera: /detector/overlay" in notes[0]
    assert found(path, image_topic="/right/image")[1] == []
    _, notes = found(path, image_topic="/detector/overlay")
    assert notes == [
        "warning: frames of /detector/overlay, as asked for, although it is named like an output "
        "of the detector"
    ]
    options = BagOptions()
    with open_bag(path, options) as reader:
        document = described(reader, options)
    assert document["image_topic_alternatives"] == ["/right/image"]
    assert list(document["image_topics_left_out"]) == ["/detector/overlay"]


def unstamped(foreign, delay: int, stamp: int = 0) -> Path:
    """Frames every 100 ms and their masks so much later, all with one stamp."""
    bag = foreign()
    for number in range(6):
        at = 10**18 + number * STEP
        bag.log_time = at - 1000
        bag.image("/cam", stamp, PICTURE + np.uint8(number), "rgb8")
        bag.log_time = at + delay - 1000
        bag.image(MASK_TOPIC, stamp, np.full((4, 6), number % 2, np.uint8), "mono8")
    return bag.close()


@pytest.mark.parametrize(("stamp", "words"), [(0, "sets no stamp"), (STEP, "not set the stamp")])
def test_a_driver_without_stamps(foreign, stamp, words):
    path = unstamped(foreign, 1000, stamp)
    with open_bag(path, BagOptions()) as reader:
        frames = list(reader.frames())
        notes = notes_on(reader, BagOptions())
    assert [int(f.to_rgb()[0, 0, 0]) for f in frames] == list(range(6))
    assert [int(f.anomaly_mask.max()) for f in frames] == [0, 1] * 3
    assert [f.stamp_ns for f in frames] == [10**18 + number * STEP for number in range(6)]
    assert words in notes[0]
    assert "told apart by the times of recording" in notes[0]
    assert notes[1] == f"{MASK_TOPIC}: paired with the frames by the times of recording"


def test_a_driver_without_stamps_and_doubtful_record_times(foreign):
    path = unstamped(foreign, STEP // 2)
    with pytest.raises(
        BagError, match=r"6 of 6 messages .* the driver sets no stamp: all 6 are ze"
    ):
        open_bag(path, BagOptions())
    masks, notes = found(path, allow_unmatched=True)
    assert masks == [False] * 6
    assert f"{MASK_TOPIC}: 6 of 6 messages match no frame and are left out" in notes


def test_values_of_masks_and_labels_are_checked(foreign):
    wrong = MASK + (MASK == 1)
    with (
        open_bag(recorded(foreign, 2, {1: 0}, wrong), BagOptions()) as reader,
        pytest.raises(BagError, match=rf"topic {MASK_TOPIC}, stamp 0\.1.*: holds the value 2"),
    ):
        list(reader.frames())


@pytest.mark.parametrize("value", [19, 33, 200, 254])
def test_labels_are_classes(foreign, value):
    labels = np.array([[0, 18, 255, value, 1, 2]] * 4, np.uint8)
    with open_bag(recorded(foreign, 1, {1: 0}, labels, LABELS_TOPIC), BagOptions()) as reader:
        reader.num_classes = 19
        with pytest.raises(BagError, match=rf"topic {LABELS_TOPIC}.*: holds the value {value},"):
            list(reader.frames())
        reader.num_classes = 255
        assert len(list(reader.frames())) == 1


def test_masks_of_0_and_255_alone_need_a_word(foreign):
    mask = np.where(MASK == 1, 255, 0).astype(np.uint8)
    path = recorded(foreign, 3, dict.fromkeys((1, 2, 3), 0), mask)
    with pytest.raises(
        BagError, match=r"hold 0 and 255 but no 1.* --mask-255 anomaly or --mask-25"
    ):
        open_bag(path, BagOptions())
    for option, expected in (("ignore", mask), ("anomaly", mask // 255)):
        with open_bag(path, BagOptions(mask_255=option)) as reader:
            for frame in reader.frames():
                assert np.array_equal(frame.anomaly_mask, expected)


def test_one_1_in_the_last_mask_settles_255(foreign):
    bag = foreign()
    for number, mask in enumerate((np.full_like(MASK, 255), np.zeros_like(MASK), MASK)):
        bag.image("/cam", number, PICTURE, "rgb8")
        bag.image(MASK_TOPIC, number, mask, "mono8")
    path = bag.close()
    with open_bag(path, BagOptions()) as reader:
        assert len(list(reader.frames())) == 3
    expected = pytest.raises(BagError, match="holds the value 1, but where 255 means anomaly")
    with open_bag(path, BagOptions(mask_255="anomaly")) as reader, expected:
        list(reader.frames())


def test_own_bags_without_an_anomaly_say_what_255_means(tmp_path, samples):
    with BagWriter(tmp_path / "bag") as writer:
        for sample in samples:
            mask = np.where(sample.anomaly_mask == 1, 0, sample.anomaly_mask)
            writer.write(replace(sample, anomaly_mask=mask))
    with open_bag(tmp_path / "bag", BagOptions()) as reader:
        assert {255, 0} == {int(x) for f in reader.frames() for x in np.unique(f.anomaly_mask)}


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_tolerances_out_of_range(foreign, value):
    with pytest.raises(ParameterError, match="stamp_tolerance: must be at least 0 seconds"):
        BagReader(recorded(foreign, 1, {}), stamp_tolerance=value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "split: a bag has the options image_topic, stamp_tolerance, allow_un"),
        ({"stamp_tolerance": "much"}, "stamp_tolerance: expected seconds, got much"),
        ({"allow_unmatched": "maybe"}, "allow_unmatched: expected true or false, got maybe"),
    ],
)
def test_options_as_text(options, words):
    with pytest.raises(ParameterError, match=words):
        BagOptions.parse(options)
    good = {"image_topic": "/a/b", "stamp_tolerance": "1e-3", "allow_unmatched": True}
    assert BagOptions.parse(good) == BagOptions("/a/b", 0.001, True)


def test_differences_in_words():
    assert [duration(x) for x in (1, 1500, 33_000_000, 2 * 10**9)] == [
        "1 ns", "1.5 us", "33 ms", "2 s"
    ]  # fmt: skip


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
def test_given_bags():
    assert found(CASES / "masks_recorded_8_frames_late") == ([True] * 12, [])
    with pytest.raises(BagError, match=r"3 of 6 messages.* 1 ns off"):
        open_bag(CASES / "masks_1ns_off_every_second", BagOptions())
    with pytest.raises(BagError, match="holds the value 2"):
        found(CASES / "mask_topic_value_2")
