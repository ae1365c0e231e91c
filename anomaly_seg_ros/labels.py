# SPDX-License-Identifier: Apache-2.0
"""Values of anomaly masks and class labels, and the one check of them for all inputs."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from anomaly_seg_ros.errors import AnomalySegError, DatasetError, ParameterError

# Values of anomaly masks.
IN_DISTRIBUTION, ANOMALY = 0, 1
# No label, in label images and anomaly masks: neither scored nor trained on.
IGNORE_INDEX = 255
# In lookup tables, a stored value that the data set does not define.
INVALID_ID = 254
# While training pastes objects: a pasted pixel, and one that trains nothing because it belongs to
# no known class (an animal, a traffic cone, the rim of a pasted object). Both are free in every
# taxonomy of at most 253 classes. Closed-set views turn the latter into the ignore index.
OUTLIER_ID = 254
UNKNOWN_ID = 253

# Meanings of 255 in an anomaly mask: the values of --mask-255 and mask_255.
MASK_255_IGNORE, MASK_255_ANOMALY = MASK_255 = ("ignore", "anomaly")

_MASK_MEANING = "0 in-distribution, 1 anomaly, 255 ignore"
_SHOWN = 5


def check_anomaly_mask(
    mask: np.ndarray, where: str, error: type[AnomalySegError] = DatasetError, hint: str = ""
) -> None:
    """Refuses a mask with values other than 0, 1 and 255.

    Args:
        mask: (H, W) uint8.
        where: The file, or the topic and stamp, that the message names.
        error: Type of the exception to raise.
        hint: Advice for the end of the message.
    """
    if found := _others(mask, (0, 1, 255)):
        raise error(
            f"{where}: holds {_listed(found)}, which is no anomaly mask value ({_MASK_MEANING})"
            f"{hint and f'; {hint}'}"
        )


def check_labels(
    labels: np.ndarray,
    num_classes: int,
    where: str,
    error: type[AnomalySegError] = DatasetError,
    hint: str = "",
) -> None:
    """Refuses labels that are neither a class nor 255.

    Args:
        labels: (H, W) uint8.
        num_classes: K; the classes are 0 to K - 1.
        where: The file, or the topic and stamp, that the message names.
        error: Type of the exception to raise.
        hint: Advice for the end of the message.
    """
    if found := _others(labels, (*range(num_classes), 255)):
        raise error(
            f"{where}: holds {_listed(found)}, which is no class label "
            f"(trainIds 0 to {num_classes - 1}, 255 ignore){hint and f'; {hint}'}"
        )


def anomalies_from_255(
    mask: np.ndarray, where: str, error: type[AnomalySegError] = DatasetError
) -> np.ndarray:
    """Reads a mask whose anomalies are stored as 255 (``mask_255=anomaly``).

    Args:
        mask: (H, W) uint8 of 0 and 255.
        where: The file, or the topic and stamp, that the message names.
        error: Type of the exception to raise for any other value.

    Returns:
        (H, W) uint8: 0 in-distribution, 1 anomaly.
    """
    if found := _others(mask, (0, 255)):
        raise error(
            f"{where}: holds {_listed(found)}, but where 255 means anomaly "
            "(mask_255=anomaly) a mask holds 0 and 255 only"
        )
    return (mask == 255).astype(np.uint8)


def check_mask_255(value: str | None) -> str | None:
    """Returns the value of the option ``mask_255``; None if it is not given.

    Raises:
        ParameterError: The value is unknown.
    """
    if value is not None and value not in MASK_255:
        raise ParameterError(f"mask_255: expected one of {', '.join(MASK_255)}, got {value}")
    return value


class MaskConvention:
    """Finds sets of masks whose 255 could mean either "ignore" or "anomaly".

    Masks of 0 and 255 often mean "normal" and "anomaly", but here 255 means "ignore". A single
    mask without a 1 proves nothing, as its frame may have no anomaly; a whole set of them does.
    """

    def __init__(self) -> None:
        self._seen = np.zeros(256, bool)

    @property
    def is_settled(self) -> bool:
        """True once a 1 was seen: then 255 means "ignore", whatever else the set holds."""
        return bool(self._seen[1])

    def add(self, mask: np.ndarray) -> None:
        """Records the values of a (H, W) uint8 mask."""
        self._seen[_present(mask)] = True

    def check(
        self,
        where: str,
        error: type[AnomalySegError] = DatasetError,
        remedy: str = "--mask-255 anomaly or --mask-255 ignore "
        "(in --data of evaluate: ?mask_255=anomaly)",
    ) -> None:
        """Refuses a set that holds both 0 and 255, and nothing else.

        Args:
            where: The data set, or the bag and its topic.
            error: Type of the exception to raise.
            remedy: How to say which.
        """
        if np.flatnonzero(self._seen).tolist() == [0, 255]:
            raise error(
                f"{where}: the anomaly masks hold 0 and 255 but no 1, so 255 may mean anomaly or "
                f"ignore; say which with {remedy}"
            )


def _present(values: np.ndarray) -> np.ndarray:
    """The distinct values of a uint8 array, rising; takes a millisecond for 2 megapixels."""
    if not values.size:
        return np.empty(0, np.intp)
    counts = cv2.calcHist([np.ascontiguousarray(values)], [0], None, [256], [0, 256])
    return np.flatnonzero(counts)


def _others(values: np.ndarray, allowed: Iterable[int]) -> list[int]:
    return sorted(set(_present(values).tolist()).difference(allowed))


def _listed(values: list[int]) -> str:
    """A few values in words."""
    text = ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
    return f"the value{'s' if len(values) > 1 else ''} {text}"
