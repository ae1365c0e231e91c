"""Where things stand in the street and which class they are.

World frame: x to the right, y forward along the street, z up, in metres. The middle of the road
is x = 0, traffic keeps to the right.
"""

from __future__ import annotations

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = range(8)
VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(8, 19)
VOID = 20
"""A thing that Cityscapes leaves without a class: label 255, anomaly mask 255."""
ANOMALY = 21
"""A thing that belongs to no class and should be found: label 255, anomaly mask 1."""

LANE_WIDTH = 3.2
KERB_LEFT, KERB_RIGHT = -5.4, 3.75
"""The road's edges: two lanes, and a strip of parked cars on the left only."""
KERB_HEIGHT = 0.13
FACADE_X = 9.2
STREET_START, STREET_END = -40.0, 172.0
CROSSING = (84.0, 93.0)
"""The side street, from y to y."""
