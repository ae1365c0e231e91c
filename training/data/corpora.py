# SPDX-License-Identifier: Apache-2.0
"""Corpora of labelled frames, and those that a data block names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets import Dataset, Sample, open_dataset
from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.block import (
    CorpusBlock,
    DataBlock,
    errors_of,
    read_data_block,
    source_folder,
)
from training.data.frames import ArrayFrames, FrameCache, Frames, SampleFrames, SomeFrames
from training.data.label_index import LabelIndex

IGNORED = "ignore"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """One source of labelled frames.

    Attributes:
        name: Name for logs.
        frames: The frames; labels are trainIds of the run's taxonomy, with 255 = ignore and
            ``UNKNOWN_ID``, or anomaly masks.
        weight: Share of the training samples, relative to the other corpora.
        aspect: True width / height of frames that are stored squeezed; 0 for undistorted ones.
        size: Network input (height, width) for these frames in validation; () is the run's own.
        cache: Decoded frames that stay in memory.
    """

    name: str
    frames: Frames
    weight: float = 1.0
    aspect: float = 0.0
    size: tuple[int, ...] = ()
    cache: FrameCache = field(default_factory=FrameCache, repr=False, compare=False)

    @classmethod
    def of_arrays(
        cls,
        name: str,
        images: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        weight: float = 1.0,
        aspect: float = 0.0,
        things: tuple[int, ...] = (),
    ) -> Corpus:
        """A corpus of frames in memory."""
        return cls(name, ArrayFrames(images, labels, things), weight, aspect)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Reads all frames in order."""
        return map(self.load, range(len(self)))

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a frame.

        Returns:
            (H, W, 3) uint8 RGB and (H, W) uint8 labels, which must not be changed.

        Raises:
            ImageError: A file is missing or damaged, or its labels are not defined.
        """
        return self.cache.load(self.frames, position)

    def image(self, position: int) -> np.ndarray:
        """Reads the image of a frame alone, which takes a fifth less time."""
        return self.cache.image(self.frames, position)

    @cached_property
    def index(self) -> LabelIndex:
        """What the labels of all frames hold."""
        return self.frames.index()

    def squeeze(self, position: int) -> float:
        """True width / stored width of a frame's pixels; 1 if it is not squeezed."""
        if not self.aspect:
            return 1.0
        height, width = self.index.sizes[position].tolist()
        return self.aspect * height / width

    def every(self, step: int) -> Corpus:
        """Every n-th frame."""
        return self.some(range(0, len(self), step))

    def some(self, chosen: range) -> Corpus:
        """The frames at these positions."""
        return replace(self, frames=SomeFrames(self.frames, chosen), cache=FrameCache())

    def image_bytes(self) -> int:
        """Size of all frames and labels when decoded."""
        return 4 * int(self.index.sizes.prod(axis=1, dtype=np.int64).sum())


def share_memory(corpora: Sequence[Corpus], limit: int) -> None:
    """Divides a limit among the caches of corpora, those whose frames are drawn most often first.

    Args:
        corpora: Corpora that are drawn from by their weights.
        limit: Bytes of this process and its loader processes.
    """
    for corpus in sorted(corpora, key=lambda c: c.weight / len(c), reverse=True):
        corpus.cache.limit = min(limit, corpus.image_bytes())
        limit -= corpus.cache.limit


class FrameSequence(Sequence[np.ndarray]):
    """The images of several corpora, one after the other, read when they are needed.

    Args:
        corpora: The corpora.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._where = [(corpus, i) for corpus in corpora for i in range(len(corpus))]

    @classmethod
    def spread(cls, corpora: Sequence[Corpus], count: int) -> FrameSequence:
        """At most ``count`` evenly spaced frames of every corpus.

        Raises:
            ParameterError: ``count`` is below 1.
        """
        if count < 1:
            raise ParameterError(f"{count} frames of every corpus: expected at least 1")
        return cls([corpus.every(-(-len(corpus) // count)) for corpus in corpora])

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> np.ndarray:
        corpus, position = self._where[index]
        return corpus.image(position)


class TrainingData:
    """The frames of a run, by what they are for.

    Args:
        values: Section ``data`` of the configuration.
        folder: Folder that the roots are relative to.

    Attributes:
        block: The section, checked.
        folder: As given.
        taxonomy: Classes of the run.

    Raises:
        ParameterError: An error in the section, see :func:`.block.read_data_block`.
        CheckpointError: The taxonomy's file is damaged.
        ResourceError: There is no such taxonomy.
    """

    def __init__(self, values: Mapping[str, object], folder: Path) -> None:
        self.block: DataBlock = read_data_block(values)
        self.folder = folder
        self._files: dict[bool, set[Path]] = {True: set(), False: set()}
        with errors_of("data.taxonomy"):
            self.taxonomy: Taxonomy = load_taxonomy(self._file_or_name(self.block.taxonomy))

    @cached_property
    def train(self) -> list[Corpus]:
        """Corpora to train on, without those of weight 0.

        Raises:
            DatasetError: A folder is missing or has another tree, or a frame has no labels.
            ParameterError: No corpus is named, or the classes of one do not agree with the run's.
        """
        if not self.block.used("train"):
            named = ", ".join(self.block.train)
            raise ParameterError(
                f"data.train: every corpus has weight 0 ({named})"
                if named
                else "data.train: names no corpus to train on"
            )
        corpora = self._section("train")
        share_memory(corpora, int(self.block.cache_mib * 2**20))
        return corpora

    @cached_property
    def validation(self) -> list[Corpus]:
        """Corpora for the closed-set figures; those of ``train`` share no frame with them.

        Raises:
            ParameterError: None is named, and no corpus to train on has held-out frames.
        """
        if self.block.used("validation"):
            return self._section("validation")
        held_out = {n: c for n, c in self.block.used("train").items() if c.held_out}
        if not held_out:
            raise ParameterError(
                "data.validation: names no corpus; name one, or hold frames of a corpus in "
                "data.train back with held_out (5: every fifth frame)"
            )
        return [self._open("validation", name, corpus) for name, corpus in held_out.items()]

    @cached_property
    def calibration(self) -> list[Corpus]:
        """Held-out in-distribution frames."""
        return self._section("calibration") if self.block.used("calibration") else self.validation

    @cached_property
    def unknown(self) -> list[Corpus]:
        """Corpora with anomaly masks of natural unknown things; may be empty."""
        return self._section("unknown")

    @cached_property
    def decoys(self) -> list[Corpus]:
        """Corpora to cut known things out of."""
        return self._section("decoys") if self.block.used("decoys") else self.train

    def _section(self, section: str) -> list[Corpus]:
        blocks = self.block.used(section)
        return [self._open(section, name, corpus) for name, corpus in blocks.items()]

    def _open(self, section: str, name: str, block: CorpusBlock) -> Corpus:
        # Frames of "train" that are held out validate without being named there.
        named = section if name in getattr(self.block, section) else "train"
        key = f"data.{named}.{name}"
        datasets = self.datasets(key, block)
        samples = [sample for part in datasets for sample in self._held_out(section, block, part)]
        if block.without:
            other = self.block.named(block.without, f"{key}.without")
            left_out = {
                sample.name
                for dataset in self.datasets(f"data.{block.without}", other)
                for sample in dataset
            }
            samples = [sample for sample in samples if sample.name not in left_out]
        samples = samples[:: block.every]
        if not samples:
            raise DatasetError(f"{key}: no frame is left of {block.root}")
        masks = section == "unknown"
        frames = SampleFrames(key, samples, masks=masks)
        first = samples[0]
        is_mask = first.anomaly_mask_path is not None and first.labels_path is None
        if is_mask and not masks and datasets[0].name == "folder":
            raise DatasetError(
                f"{key}.options: {first.anomaly_mask_path} is read as an anomaly mask; with "
                "{labels: classes} it holds classes"
            )
        frames.files()  # raises before the training rather than at the frame that has none
        if not masks:
            table = self._table(key, block, datasets[0].taxonomy_name)
            frames = replace(frames, table=table, things=self.taxonomy.ids_of("thing"))
            classes = len(self.taxonomy.classes)
            # Most often, the first frame is the only one that is read.
            if not any((frames.labels(i) < classes).any() for i in range(len(frames))):
                raise DatasetError(
                    f"{key}: none of the {len(frames)} frames for {section} shows a class, all "
                    "pixels are ignored"
                )
        self._warn_of_shared_frames(section, key, samples)
        return Corpus(name, frames, block.weight, block.aspect, block.size)

    def _warn_of_shared_frames(self, section: str, key: str, samples: Sequence[Sample]) -> None:
        if section not in ("train", "validation", "calibration"):
            return
        files, trains = {sample.image_path.absolute() for sample in samples}, section == "train"
        self._files[trains] |= files
        if shared := files & self._files[not trains]:
            _LOG.warning(
                "%s: %d of %d frames are trained on and validated or calibrated on, so the "
                "figures are too good; see held_out and without",
                *(key, len(shared), len(files)),
            )

    def datasets(self, key: str, block: CorpusBlock) -> list[Dataset]:
        """Opens the splits of a corpus.

        Args:
            key: Key of the block, which begins the message of an error.
            block: The corpus.

        Raises:
            DatasetError: A folder is missing or has another tree.
            ParameterError: There is no such adapter, split or option.
        """
        splits = block.split if isinstance(block.split, tuple) else (block.split,)
        options = dict(block.options)
        if options.get("labels") == "classes":
            options.setdefault("taxonomy", self.block.taxonomy)
        with errors_of(key):
            for option in {"label_map", "taxonomy"} & options.keys():
                options[option] = self._file_or_name(str(options[option]))
            if "images" in options:
                options["images"] = source_folder(str(options["images"]), self.folder)
            root = source_folder(block.root, self.folder)
            return [
                open_dataset(block.adapter, root, **options, **({"split": s} if s else {}))
                for s in splits
            ]

    def _file_or_name(self, value: str) -> str:
        """A file relative to the data folder, as the roots are; a bare name stays one."""
        path = Path(value)
        is_file = path.suffix or len(path.parts) > 1
        return str(source_folder(value, self.folder)) if is_file else value

    @staticmethod
    def _held_out(section: str, block: CorpusBlock, dataset: Dataset) -> Sequence[Sample]:
        if not block.held_out:
            return list(dataset)
        training = section == "train"
        return [s for i, s in enumerate(dataset) if (i % block.held_out != 0) == training]

    def _table(self, key: str, block: CorpusBlock, taxonomy: str) -> np.ndarray | None:
        """Table from the corpus's trainIds to the run's; None if the classes are the same."""
        theirs = load_taxonomy(taxonomy)
        ours = {name: i for i, name in enumerate(self.taxonomy.classes)}
        # A class may be called 7, which YAML reads as a number.
        renamed = {str(source): str(target) for source, target in block.classes.items()}
        for source, target in renamed.items():
            if source not in theirs.classes:
                raise ParameterError(
                    f"{key}.classes: {source!r} is no class of the corpus (taxonomy {theirs.name})"
                )
            if target not in ours and target != IGNORED:
                raise ParameterError(
                    f"{key}.classes: {source}: {target!r} is neither a class of "
                    f"{self.taxonomy.name} nor {IGNORED!r}"
                )
        if theirs.classes == self.taxonomy.classes and not renamed:
            return None
        meaning = {c: renamed.get(c, c) for c in theirs.classes}
        strange = [c for c, target in meaning.items() if target not in ours and target != IGNORED]
        if strange:
            raise ParameterError(
                f"{key}: the taxonomies do not agree: {', '.join(map(repr, strange))} of "
                f"{theirs.name} are no classes of {self.taxonomy.name}; say what they are with "
                f"{key}.classes: {{{strange[0]}: CLASS or {IGNORED}}}"
            )
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for i, class_name in enumerate(theirs.classes):
            table[i] = ours.get(meaning[class_name], IGNORE_INDEX)
        return table
