"""Class names, trainIds and colours, read from ``config/taxonomies/<name>.yaml``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.io.safe_yaml_json import read_yaml
from anomaly_seg_ros.system.resources import ResourceError, config_path


@dataclass(frozen=True)
class Taxonomy:
    """The closed set of classes a model knows.

    Attributes:
        name: File stem under ``config/taxonomies``.
        classes: Names in trainId order.
        palette: (K, 3) uint8 RGB in trainId order.
    """

    name: str
    classes: tuple[str, ...]
    palette: np.ndarray


def load_taxonomy(name: str = "cityscapes") -> Taxonomy:
    """Reads a taxonomy.

    Raises:
        ResourceError: There is no such file in ``config/taxonomies``.
    """
    content = read_yaml(config_path(f"taxonomies/{name}.yaml"), ResourceError)
    classes = content["classes"]
    palette = np.array([c["colour"] for c in classes], np.uint8)
    return Taxonomy(content["name"], tuple(c["name"] for c in classes), palette)
