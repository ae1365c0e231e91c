# SPDX-License-Identifier: Apache-2.0
"""Table of the classes in an object data set that the target taxonomy knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.taxonomy import Taxonomy

UNCLEAR = "unclear"
UNKNOWN = "unknown"
_TABLE = Path(__file__).with_name("known_classes.yaml")
# Names to show in an error.
_SHOWN = 5


@dataclass(frozen=True)
class KnownClasses:
    """Maps the class names of a data set to the classes of a taxonomy.

    Attributes:
        taxonomy: Target taxonomy, such as "cityscapes".
        vocabulary: Data set that the names come from, such as "coco".
        targets: Case-folded name -> target class or "unclear"; missing names are unknown.
    """

    taxonomy: str
    vocabulary: str
    targets: Mapping[str, str]

    @classmethod
    def load(
        cls,
        taxonomy: Taxonomy,
        vocabulary: str,
        overrides: Mapping[str, str] | str | None = None,
        names: Callable[[], Iterable[str]] | None = None,
        table: str | Path = _TABLE,
    ) -> KnownClasses:
        """Reads ``known_classes.yaml`` and applies the overrides.

        A name that equals a class of the taxonomy means that class, unless the table or an
        override says otherwise. All names are case-insensitive.

        Args:
            taxonomy: Target taxonomy.
            vocabulary: Section of the table for this taxonomy; a missing one is empty.
            overrides: Name -> target class, "unclear" or "unknown"; or "unknown" for all names, as
                in DenseHybrid's public code, which pastes people and cars as outliers as well.
            names: Reads the class names of a data set that has names of its own. Without a section
                for it, nothing says which of them the taxonomy knows: a "car" would become an
                anomaly where the taxonomy has a "vehicle". The overrides have to say so then; if
                there are none to make, with an empty mapping.
            table: File with the table.

        Raises:
            ParameterError: The table is unreadable, overrides are needed or no mapping, or a name
                stands for a class that the taxonomy does not have.
        """
        if overrides == UNKNOWN:
            return cls(taxonomy.name, vocabulary, {})
        if not isinstance(overrides, Mapping | None):
            raise ParameterError(
                f"known_classes: expected a mapping of names to classes, or {UNKNOWN}, got "
                f"{short_repr(overrides)}"
            )
        section = (_read(Path(table)).get(taxonomy.name) or {}).get(vocabulary)
        if section is None and overrides is None and names is not None:
            first = sorted(names())
            shown = ", ".join(map(repr, islice(first, _SHOWN)))
            raise ParameterError(
                f"known_classes: which of the {len(first)} {vocabulary} classes ({shown}, ...) "
                f"does taxonomy {taxonomy.name!r} know? Map these to its classes "
                f"({', '.join(islice(taxonomy.classes, _SHOWN))}, ...) or to {UNCLEAR!r}; "
                "known_classes={} if it knows none"
            )
        classes = taxonomy.classes
        named = {**(section or {}), **(overrides or {})}
        allowed = {*classes, UNCLEAR, UNKNOWN}
        for name, target in named.items():
            if target not in allowed:
                raise ParameterError(
                    f"known class {name!r} of {vocabulary}: {target!r} is neither a class of "
                    f"{taxonomy.name} nor {UNCLEAR!r} or {UNKNOWN!r}"
                )
        # Without the class names themselves, a "rider" in someone's own data would be an anomaly.
        targets = {_folded(name): name for name in classes}
        targets |= {_folded(name): target for name, target in named.items()}
        return cls(taxonomy.name, vocabulary, {n: t for n, t in targets.items() if t != UNKNOWN})

    def target(self, category: str) -> str:
        """Returns the target class, "unclear" or "unknown"."""
        return self.targets.get(_folded(category), UNKNOWN)

    def check_names(self, categories: Iterable[str], overrides: Mapping[str, str] | str) -> None:
        """Refuses misspelt overrides, which would silently have no effect.

        Args:
            categories: All class names of the data set.
            overrides: Overrides passed to :meth:`load`.

        Raises:
            ParameterError: An override names a class that the data set does not have.
        """
        if overrides == UNKNOWN:
            return
        categories = {_folded(category) for category in categories}
        for name in overrides:
            if _folded(name) not in categories:
                raise ParameterError(f"override {name!r}: {self.vocabulary} has no such class")

    def describe(self) -> str:
        """Describes the table in two lines."""
        pairs = [
            name if name == _folded(target) else f"{name} -> {target}"
            for name, target in self.targets.items()
            if target != UNCLEAR
        ]
        unclear = [name for name, target in self.targets.items() if target == UNCLEAR]
        return (
            f"{self.vocabulary} names that {self.taxonomy} knows: {', '.join(pairs) or 'none'}\n"
            f"unclear, used for neither: {', '.join(unclear) or 'none'}"
        )


def _folded(name: Any) -> str:
    # Names in YAML or JSON need not be strings: 3, true.
    return str(name).casefold()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected taxonomies with their tables")
    return content
