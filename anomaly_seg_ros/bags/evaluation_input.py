# SPDX-License-Identifier: Apache-2.0
"""A bag as input of an evaluation: its options, checks, description and notes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.camera_topics import RULE
from anomaly_seg_ros.bags.matching import Match
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.errors import BagError, ParameterError
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.labels import MaskConvention
from anomaly_seg_ros.system.resources import ResourceError
from anomaly_seg_ros.taxonomy import named_taxonomy


@dataclass(frozen=True)
class BagOptions:
    """How to read a bag.

    Attributes:
        image_topic: Topic of the frames; None chooses by :data:`.camera_topics.RULE`.
        stamp_tolerance: Seconds that the stamps of a frame and its ground truth may differ by.
        allow_unmatched: True leaves out ground truth without a frame; False refuses it.
        mask_255: Meaning of 255 in anomaly masks, "ignore" or "anomaly"; None refuses bags where
            it could be either.
        bit_depth: Bits in use of 16-bit images, see :class:`.BitDepth`.
    """

    image_topic: str | None = None
    stamp_tolerance: float = 0.0
    allow_unmatched: bool = False
    mask_255: str | None = None
    bit_depth: int = 0

    @classmethod
    def parse(cls, options: dict[str, str | bool]) -> BagOptions:
        """Reads a bag's options in ``--data``.

        Raises:
            ParameterError: An option is unknown, or its value is of another kind.
        """
        known = cls.__dataclass_fields__
        if unknown := [name for name in options if name not in known]:
            raise ParameterError(f"{unknown[0]}: a bag has the options {', '.join(known)}")
        values: dict[str, Any] = dict(options)
        if "stamp_tolerance" in values:
            text = values["stamp_tolerance"]
            try:
                values["stamp_tolerance"] = float(text)
            except ValueError:
                raise ParameterError(f"stamp_tolerance: expected seconds, got {text}") from None
        if "bit_depth" in values:
            text = values["bit_depth"]
            if not str(text).isdecimal():
                raise ParameterError(f"bit_depth: expected a number of bits, got {text}")
            values["bit_depth"] = BitDepth(int(text)).bits
        if not isinstance(values.get("allow_unmatched", False), bool):
            raise ParameterError(
                f"allow_unmatched: expected true or false, got {values['allow_unmatched']}"
            )
        return cls(**values)


def open_bag(path: Path, options: BagOptions) -> BagReader:
    """Opens a bag and checks that its ground truth can be trusted.

    Raises:
        BagError: As :class:`BagReader` raises; or ground truth matches no frame, or the meaning
            of 255 in the anomaly masks is unclear.
        ParameterError: An option is out of range.
    """
    reader = BagReader(
        path,
        options.image_topic,
        stamp_tolerance=options.stamp_tolerance,
        mask_255=options.mask_255,
    )
    try:
        if not options.allow_unmatched:
            _refuse_unmatched(reader)
        _settle_mask_255(reader)
    except BaseException:
        reader.close()
        raise
    return reader


def described(reader: BagReader, options: BagOptions) -> dict[str, Any]:
    """Describes the input of an evaluation as JSON: topics, stamps and matched ground truth.

    Args:
        reader: The open bag.
        options: The options it was opened with.
    """
    return {
        "image_topic": reader.image_topic,
        "image_topic_chosen_by": "option" if options.image_topic else RULE,
        "image_topic_alternatives": reader.other_image_topics,
        "image_topics_left_out": reader.no_camera,
        "frames": len(reader),
        "stamps": reader.stamps,
        "stamp_fault": reader.stamp_fault,
        "stamp_tolerance_s": options.stamp_tolerance,
        "bit_depth": options.bit_depth,
        "ground_truth": {
            topic: _described_match(reader.matches[slot]) for topic, slot in reader.slots.items()
        },
    }


def notes_on(reader: BagReader, options: BagOptions) -> list[str]:
    """What a reader of the figures must know about their input, in sentences."""
    topic = reader.image_topic
    notes = reader.notes
    others, left_out = reader.other_image_topics, reader.no_camera
    if options.image_topic is not None:
        if topic in left_out:
            notes.append(f"warning: frames of {topic}, as asked for, although {left_out[topic]}")
    elif others or left_out:
        words = f"frames of {topic}"
        if others:
            words += f", chosen over {', '.join(others)} ({RULE})"
        if left_out:
            words += f"; no camera: {', '.join(left_out)}"
        notes.append(f"{words}; the option image_topic chooses another")
    if reader.stamp_fault is not None:
        notes.append(f"{topic}: {reader.stamp_fault}; frames are told apart by {reader.stamps}")
    if reader.skipped_ns:
        notes.append(
            f"{topic}: its clock was set forward by {duration(reader.skipped_ns)} in between; a "
            "replay in real time does not wait for that"
        )
    for truth, slot in reader.slots.items():
        notes += _notes_on_match(truth, reader.matches[slot])
    return notes


def _refuse_unmatched(reader: BagReader) -> None:
    for topic, slot in reader.slots.items():
        found = reader.matches[slot]
        if not found.unmatched or slot == "disparity":
            continue
        words = f"{reader.path}: {found.unmatched} of {found.messages} messages of {topic}"
        left = f"the option allow_unmatched (--allow-unmatched) goes on with {found.matched}"
        if found.by_record_time:
            fault = reader.stamp_fault or f"{topic} has no stamps of its own"
            raise BagError(
                f"{words} belong to no frame for certain: {fault}, and the times of recording "
                f"leave doubt; set the stamps of both topics, or {left}"
            )
        raise BagError(
            f"{words} match no frame of {reader.image_topic}, the nearest by stamp is "
            f"{duration(found.nearest_ns or 0)} off; the option stamp_tolerance "
            f"(--stamp-tolerance SECONDS) pairs the nearest, {left}"
        )


def _settle_mask_255(reader: BagReader) -> None:
    if reader.mask_255 is not None or reader.masks_are_checked:
        return
    convention = MaskConvention()
    for mask in reader.anomaly_masks():
        convention.add(mask)
        if convention.is_settled:
            return
    convention.check(str(reader.path), BagError)


def _described_match(found: Match) -> dict[str, Any]:
    return {
        "messages": found.messages,
        "matched": found.matched,
        "unmatched": found.unmatched,
        "repeated": found.repeated,
        "frames_without": found.frames - found.matched,
        "paired_by": "time of recording" if found.by_record_time else "stamp",
        "largest_difference_s": found.largest_ns / 1e9,
        "nearest_unmatched_s": None if found.nearest_ns is None else found.nearest_ns / 1e9,
    }


def _notes_on_match(topic: str, found: Match) -> list[str]:
    notes = []
    if found.by_record_time and found.matched:
        notes.append(f"{topic}: paired with the frames by the times of recording")
    if found.largest_ns:
        notes.append(f"{topic}: paired over up to {duration(found.largest_ns)} between stamps")
    if found.unmatched:
        nearest = f" (nearest {duration(found.nearest_ns)} off)" if found.nearest_ns else ""
        notes.append(
            f"{topic}: {found.unmatched} of {found.messages} messages match no frame{nearest} and "
            "are left out"
        )
    if found.repeated:
        notes.append(
            f"{topic}: {found.repeated} messages left out, later ones have the same stamps"
        )
    if without := found.frames - found.matched:
        notes.append(f"{topic}: {without} of {found.frames} frames have no message of it")
    return notes


def duration(nanoseconds: int) -> str:
    """A difference of stamps in a readable unit."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.6g} {unit}"
    return f"{nanoseconds} ns"


def label_classes(reader: BagReader) -> tuple[str, ...] | None:
    """Class names of the labels in trainId order; None if the bag names no taxonomy or classes.

    Raises:
        BagError: The labels are of a taxonomy that this package does not have, and the bag does
            not list its classes.
    """
    if reader.classes:
        return reader.classes
    name = reader.taxonomy
    if name is None:
        # Bags of earlier versions only note "NAME: FOLDER".
        adapter = DATASETS.get((reader.dataset or "").partition(":")[0])
        if adapter is None:
            return None
        name = adapter.taxonomy_name
    try:
        return named_taxonomy(name).classes
    except ResourceError as error:
        if not reader.topics.get(topics.LABELS, ("", 0))[1]:
            return None
        raise BagError(f"{reader.path}: unknown taxonomy {short_repr(name)}: {error}") from error
