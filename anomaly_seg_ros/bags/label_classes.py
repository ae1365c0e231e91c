"""Which classes the labels of a bag are of."""

from __future__ import annotations

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.datasets import DATASETS
from anomaly_seg_ros.errors import BagError
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.system.resources import ResourceError
from anomaly_seg_ros.taxonomy import load_taxonomy


def label_classes(reader: BagReader) -> tuple[str, ...] | None:
    """Names in trainId order, as the bag's writer noted them; None if it says nothing.

    Raises:
        BagError: It has labels, of a taxonomy that this package does not have.
    """
    name = reader.taxonomy
    if name is None:
        # Bags of earlier versions only say "NAME: FOLDER".
        adapter = DATASETS.get((reader.dataset or "").partition(":")[0])
        if adapter is None:
            return None
        name = adapter.taxonomy_name
    try:
        return load_taxonomy(name).classes
    except ResourceError as error:
        if not reader.topics.get(topics.LABELS, ("", 0))[1]:
            return None
        raise BagError(f"{reader.path}: unknown taxonomy {short_repr(name)}: {error}") from error
