# SPDX-License-Identifier: Apache-2.0
"""The ``data`` block of a configuration: which frames and objects a run uses, and what for.

Files in ``training/configs/data`` are examples; ``development.yaml`` explains every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import AnomalySegError, ParameterError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from training.engine.config import mapping, to_dataclass, to_dataclasses

# Sections that name corpora of labelled frames.
CORPUS_SECTIONS = ("train", "validation", "calibration", "unknown", "decoys")


@dataclass(frozen=True)
class CorpusBlock:
    """Where the frames of one corpus are, and which of them to use.

    Attributes:
        root: Folder, relative to the run's data folder; required.
        adapter: Data set, see ``docs/datasets.md``; "auto" recognises it by its folder tree.
        split: Split, or list of splits to join; "" is the adapter's default.
        options: Further options of the adapter. With ``labels: classes``, ``taxonomy`` is the
            run's own unless it is given.
        weight: Share of the training samples, relative to the other corpora; 0 leaves the corpus
            out, in any section.
        aspect: True width / height of frames that are stored squeezed; 0 for undistorted ones.
        classes: Name of a class of the corpus -> class of the run's taxonomy, or "ignore". Classes
            of the same name need no entry.
        held_out: With n > 0, every n-th frame (the first, the n+1st ...) is held out: training
            uses the others, every other section uses only these.
        every: Use every n-th of the remaining frames.
        without: "SECTION.NAME" of another corpus; frames of the same name are left out.
        size: Network input (height, width) for these frames in validation; () is the run's own.
    """

    root: str = ""
    adapter: str = "auto"
    split: Any = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    aspect: float = 0.0
    classes: Mapping[str, str] = field(default_factory=dict)
    held_out: int = 0
    every: int = 1
    without: str = ""
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class ObjectsBlock:
    """Where the objects to paste are.

    Attributes:
        root: Folder, relative to the run's data folder; required.
        adapter: coco, ade20k, or folder (images/ and masks/ in each split's folder).
        train_split: Split whose objects are trained on; for a folder, a sub-folder or "".
        held_out_split: Split for validation and calibration; "" as well.
        weight: Share of the objects, relative to the other sources.
        mask_255: Meaning of 255 next to other values in a folder's masks, "anomaly" (an object) or
            "ignore"; "" if masks hold 0 and 255 only.
        known_classes: Name of an object's class -> class of the taxonomy, "unclear" or "unknown",
            on top of ``training/data/negatives/known_classes.yaml``; or "unknown" for all.
    """

    root: str = ""
    adapter: str = "coco"
    train_split: str = ""
    held_out_split: str = ""
    weight: float = 1.0
    mask_255: str = ""
    known_classes: Any = None


@dataclass(frozen=True)
class DataBlock:
    """All sources of a run, by section and name.

    Attributes:
        taxonomy: Classes of the run: a name in ``config/taxonomies`` or a YAML file; required.
        cache_mib: Memory for decoded frames, over all loader processes of a training process.
        train: Corpora to train on.
        validation: Corpora for the closed-set mIoU; without any, the held-out frames of ``train``.
        calibration: In-distribution frames for thresholds and statistics, into which held-out
            objects are pasted as well; without any, those of ``validation``.
        unknown: Corpora with anomaly masks of natural unknown things.
        decoys: Corpora to cut known things out of; without any, those of ``train``.
        objects: Sources of objects to paste.
    """

    taxonomy: str = ""
    cache_mib: float = 1024.0
    train: Mapping[str, CorpusBlock] = field(default_factory=dict)
    validation: Mapping[str, CorpusBlock] = field(default_factory=dict)
    calibration: Mapping[str, CorpusBlock] = field(default_factory=dict)
    unknown: Mapping[str, CorpusBlock] = field(default_factory=dict)
    decoys: Mapping[str, CorpusBlock] = field(default_factory=dict)
    objects: Mapping[str, ObjectsBlock] = field(default_factory=dict)

    def corpora(self) -> Iterator[tuple[str, str, CorpusBlock]]:
        """Yields section, name and block of every corpus."""
        for section in CORPUS_SECTIONS:
            for name, corpus in getattr(self, section).items():
                yield section, name, corpus

    def used(self, section: str) -> dict[str, CorpusBlock]:
        """The corpora of a section, without those of weight 0."""
        return {n: corpus for n, corpus in getattr(self, section).items() if corpus.weight > 0}

    def named(self, reference: str, source: str) -> CorpusBlock:
        """The corpus "SECTION.NAME".

        Args:
            reference: Section and name.
            source: Key that holds the reference, for the message.

        Raises:
            ParameterError: There is no such corpus.
        """
        found = {f"{section}.{name}": corpus for section, name, corpus in self.corpora()}
        if reference not in found:
            raise ParameterError(
                f"{source}: no corpus {reference!r}; there are {', '.join(found) or 'none'}"
            )
        return found[reference]


def read_data_block(values: Mapping[str, Any]) -> DataBlock:
    """Checks and types a data block.

    Args:
        values: Section ``data`` of a configuration.

    Raises:
        ParameterError: An unknown key (the message names the nearest), a value of the wrong type,
            a corpus without a root, or a reference to a corpus that is not there.
    """
    if not values.get("taxonomy"):
        raise ParameterError(
            "data.taxonomy: missing; the name of one in config/taxonomies, or a YAML file"
        )
    typed = dict(values)
    for section in (*CORPUS_SECTIONS, "objects"):
        cls = ObjectsBlock if section == "objects" else CorpusBlock
        typed[section] = _sources(values.get(section) or {}, cls, f"data.{section}")
    block = to_dataclass(DataBlock, typed, "data")
    if block.cache_mib < 0:
        raise ParameterError(f"data.cache_mib: {block.cache_mib} is negative")
    for section, name, corpus in block.corpora():
        key = f"data.{section}.{name}"
        _check_corpus(corpus, key)
        if corpus.without:
            block.named(corpus.without, f"{key}.without")
    return block


def _sources(content: Any, cls: type, key: str) -> dict[str, Any]:
    for name in mapping(content, key):
        if not name or "." in name:
            raise ParameterError(
                f"{key}: {name!r}: a name must be a text without dots, because keys such as "
                f"{key}.NAME.weight refer to it"
            )
    sources = to_dataclasses(cls, content, key)
    for name, source in sources.items():
        if not source.root:
            raise ParameterError(f"{key}.{name}.root: missing")
        if source.weight < 0:
            raise ParameterError(f"{key}.{name}.weight: {source.weight} is negative")
    return sources


def _check_corpus(corpus: CorpusBlock, key: str) -> None:
    splits = corpus.split if isinstance(corpus.split, tuple) else (corpus.split,)
    if not splits or not all(isinstance(split, str) for split in splits):
        raise ParameterError(
            f"{key}.split: expected a name or a list of names, got {short_repr(corpus.split)}"
        )
    if len(set(splits)) < len(splits):
        raise ParameterError(f"{key}.split: names a split twice: {', '.join(splits)}")
    for option in corpus.options:
        if not isinstance(option, str) or option == "split":
            where = f"{key}.split says which" if option == "split" else "expected a name"
            raise ParameterError(f"{key}.options: {option!r}: {where}")
    if corpus.aspect < 0:
        raise ParameterError(f"{key}.aspect: expected width / height or 0, got {corpus.aspect}")
    if corpus.every < 1:
        raise ParameterError(f"{key}.every: expected 1 or more, got {corpus.every}")
    if corpus.held_out < 0 or corpus.held_out == 1:
        raise ParameterError(
            f"{key}.held_out: expected 0 or 2 and more (every n-th frame), got {corpus.held_out}"
        )
    if corpus.size and (len(corpus.size) != 2 or any(type(n) is not int for n in corpus.size)):
        raise ParameterError(f"{key}.size: expected [height, width] in pixels, or []")


@contextmanager
def errors_of(key: str) -> Iterator[None]:
    """Puts a key of the data block before the message of an error."""
    try:
        yield
    except AnomalySegError as error:
        raise type(error)(f"{key}: {error}") from error


def source_folder(root: str, data: Path) -> Path:
    """Folder of a source: ``root`` relative to the data folder, or absolute, or below ~.

    Raises:
        ParameterError: A path begins with the home of a user whom this machine does not know.
    """
    try:
        return data / Path(root).expanduser()
    except RuntimeError as error:
        raise ParameterError(f"{root}: {error}") from error
