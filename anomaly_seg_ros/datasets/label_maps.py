"""How the data sets' stored labels become Cityscapes trainIds and anomaly masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from anomaly_seg_ros.labels import IGNORE_INDEX, INVALID_ID

# Cityscapes labelIds -> trainIds (Cordts et al., CVPR 2016; the 19 evaluated classes).
CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip

# All labelIds that a label file may hold; 255 is how tools store the licence plates' -1.
CITYSCAPES_STORED = (*range(34), 255)

# Classes of Cityscapes that are labelled but not evaluated, so no network learns them: the
# unknowns of the Cityscapes-void experiment.
CITYSCAPES_VOID = {
    4: "static", 5: "dynamic", 6: "ground", 9: "parking", 10: "rail track", 14: "guard rail",
    15: "bridge", 16: "tunnel", 18: "polegroup", 29: "caravan", 30: "trailer",
}  # fmt: skip

# CamVid's 11 benchmark classes (0 sky, 1 building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign,
# 7 fence, 8 car, 9 pedestrian, 10 bicyclist) -> trainIds. Ambiguous ones are ignored: its
# "bicyclist" holds rider and bicycle, its "sign" also traffic lights and texts.
CAMVID11 = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 7: 4, 8: 13, 9: 11}
CAMVID11_IGNORED = (6, 10, 11, 255)

# The 32-class CamVid names -> trainIds; names not listed are ignored.
CAMVID32 = {
    "Road": 0, "LaneMkgsDriv": 0, "Sidewalk": 1, "Building": 2, "Archway": 2, "Wall": 3,
    "Fence": 4, "Column_Pole": 5, "TrafficLight": 6, "SignSymbol": 7, "Tree": 8, "Sky": 10,
    "Pedestrian": 11, "Child": 11, "Car": 13, "SUVPickupTruck": 13, "Train": 16,
    "MotorcycleScooter": 17,
}  # fmt: skip
# 32-class CamVid names that belong to no Cityscapes class.
CAMVID32_UNKNOWN = frozenset(("Animal", "TrafficCone", "CartLuggagePram", "OtherMoving"))
CAMVID32_VOID = "Void"

# Lost and Found labelIds (Pinggera et al., IROS 2016; laf_table.pdf of the data set). 0 is
# everything unlabelled: background, ego vehicle, rectification border, out of the region.
LOST_AND_FOUND_FREE_SPACE = 1
LOST_AND_FOUND_OBSTACLES = {
    2: "crate (black)", 3: "crate (black, stacked)", 4: "crate (black, upright)",
    5: "crate (gray)", 6: "crate (gray, stacked)", 7: "crate (gray, upright)", 8: "bumper",
    9: "cardboard box 1", 10: "crate (blue)", 11: "crate (blue, small)", 12: "crate (green)",
    13: "crate (green, small)", 14: "exhaust pipe", 15: "headlight", 16: "euro pallet",
    17: "pylon", 18: "pylon (large)", 19: "pylon (white)", 20: "rearview mirror", 21: "tire",
    22: "ball", 23: "bicycle", 24: "dog (black)", 25: "dog (white)", 26: "kid dummy",
    27: "bobby car (gray)", 28: "bobby car (red)", 29: "bobby car (yellow)",
    30: "cardboard box 2", 32: "plastic bag (bloated)", 35: "styrofoam", 40: "kid (walking)",
    41: "kid (on a bobby car)", 42: "kid (on a small bobby car)", 43: "kid (crawling)",
}  # fmt: skip
# Objects that a car can drive over ("random non-hazards").
LOST_AND_FOUND_NON_HAZARDS = {
    31: "marker pole (lying)", 33: "post (red, lying)", 34: "post stand", 36: "timber (small)",
    37: "timber (squared)", 38: "wheel cap", 39: "wood (thin)",
}  # fmt: skip

# StreetHazards labels -> trainIds, in the order of its create_dataset.py: 1 unlabeled, 2 building,
# 3 fence, 5 pedestrian, 6 pole, 7 road line, 8 road, 9 sidewalk, 10 vegetation, 11 car, 12 wall,
# 13 traffic sign. "unlabeled" is whatever has no other label and a class like the others
# (Hendrycks' and DenseHybrid's code).
STREET_HAZARDS_IDS = {
    1: 0, 2: 1, 3: 2, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 10: 8, 11: 9, 12: 10, 13: 11,
}  # fmt: skip
STREET_HAZARDS_OTHER = 4
STREET_HAZARDS_ANOMALY = 14
STREET_HAZARDS_STORED = (*range(15), 255)

# BDD100K label (a Cityscapes trainId) -> trainId of BDD-Anomaly; train (16) and motorcycle (17)
# have none, bicycle (18) takes the first free one.
BDD_CLASSES: tuple[int | None, ...] = (*range(16), None, None, 16)
# The two published choices of unknown classes.
BDD_ANOMALIES = {"motorcycle+train": (16, 17), "motorcycle+train+bicycle": (16, 17, 18)}


def lookup_table(mapping: Mapping[int, int], ignored: Iterable[int] | None = None) -> np.ndarray:
    """A (256,) uint8 table for ``table[label]``.

    Args:
        mapping: Stored label -> wanted label.
        ignored: Stored labels that become 255, every other one is then invalid (reading it is an
            error). None: all labels that the mapping does not name.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    for source, target in mapping.items():
        table[source] = target
    return table


def anomaly_table(
    known: Iterable[int], unknown: Iterable[int], ignored: Iterable[int] | None = None
) -> np.ndarray:
    """A (256,) uint8 table from stored labels to 0 known, 1 anomaly, 255 ignore.

    Args:
        known: Stored labels that become 0.
        unknown: Stored labels that become 1.
        ignored: Stored labels that become 255, every other one is then invalid (reading it is an
            error). None: all labels named neither known nor unknown.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    table[list(known)] = 0
    table[list(unknown)] = 1
    return table


# RoadAnomaly: 0 background, 1 road, 2 anomaly, 255 ignore.
ROAD_ANOMALY_MASK = anomaly_table((0, 1), (2,), (255,))


def camvid32_label_table(classes: Mapping[int, str]) -> np.ndarray:
    """(256,) uint8 table from 32-class CamVid ids to trainIds, given ``{id: name}``."""
    known = {i: CAMVID32[name] for i, name in classes.items() if name in CAMVID32}
    return lookup_table(known, ignored=(*classes, IGNORE_INDEX))


def camvid32_anomaly_table(classes: Mapping[int, str]) -> np.ndarray:
    """(256,) uint8 table from 32-class CamVid ids to 0 / 1 / 255, given ``{id: name}``."""
    unknown = [i for i, name in classes.items() if name in CAMVID32_UNKNOWN]
    void = [i for i, name in classes.items() if name == CAMVID32_VOID]
    known = set(classes) - set(unknown) - set(void)
    return anomaly_table(known, unknown, ignored=(*void, IGNORE_INDEX))
