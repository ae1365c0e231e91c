"""What this package's writer notes in a bag's metadata, read with care."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.errors import BagError
from anomaly_seg_ros.io.safe_yaml_json import is_file_name, parse_json, short_repr


@dataclass(frozen=True)
class CustomData:
    """The custom_data of metadata.yaml; all empty in foreign bags.

    Attributes:
        dataset: Name of the data set.
        taxonomy: Whose trainIds the labels are.
        frame_rate: Frames a second.
        samples: By stamp in nanoseconds; see :data:`topics.SAMPLES_KEY`.
        masks_are_checked: Whether the writer says what the values of its anomaly masks mean.
    """

    dataset: str | None
    taxonomy: str | None
    frame_rate: float | None
    samples: dict[int, dict[str, Any]]
    masks_are_checked: bool

    @classmethod
    def read(cls, custom: dict[str, Any], bag: Path) -> CustomData:
        """Checks every value.

        Raises:
            BagError: One is not what the writer writes.
        """
        what = f"{bag}: custom_data in metadata.yaml"
        try:
            samples = {}
            for sample in parse_json(custom.get(topics.SAMPLES_KEY, "[]"), what, BagError):
                _check_sample(sample)
                samples[sample["stamp_ns"]] = sample
            rate = custom.get(topics.FRAME_RATE_KEY)
            rate = None if rate is None else float(rate)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"a frame rate of {rate}")
            return cls(
                dataset=_optional(str, custom.get(topics.DATASET_KEY)),
                taxonomy=_optional(str, custom.get(topics.TAXONOMY_KEY)),
                frame_rate=rate,
                samples=samples,
                masks_are_checked=custom.get(topics.MASK_VALUES_KEY) == topics.MASK_VALUES,
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BagError(f"{what} is unreadable: {error}") from error


def _optional(kind: type, value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{short_repr(value)} instead of a {kind.__name__}")
    return value


def _check_sample(sample: Any) -> None:
    """Raises ValueError or TypeError unless this is what the writer writes for a sample."""
    stamp, name = sample["stamp_ns"], sample.get("name")
    if type(stamp) is not int:
        raise TypeError(f"a stamp {short_repr(stamp)}")
    # Names of frames become names of files.
    if name is not None and not is_file_name(name):
        raise ValueError(f"{short_repr(name)} is no name of a frame")
    _optional(int | float, sample.get("baseline_m"))
    fold = sample.get("fold", "")
    if not isinstance(fold, str):
        raise TypeError(f"a fold {short_repr(fold)}")
