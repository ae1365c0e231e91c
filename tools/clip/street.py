"""The ground: road, markings, gutters, kerbs, sidewalks, side street."""

from __future__ import annotations

import bpy
import numpy as np

from clip import materials
from clip.layout import (
    CROSSING,
    FACADE_X,
    KERB_HEIGHT,
    KERB_LEFT,
    KERB_RIGHT,
    LANE_WIDTH,
    ROAD,
    SIDEWALK,
    STREET_END,
    STREET_START,
    TERRAIN,
)
from clip.meshes import MeshBuilder

MARKING_Z = 0.004
"""Markings lie this far above the road so that they win the depth test without casting shade."""


def _flat(
    builder: MeshBuilder,
    x: tuple[float, float],
    y: tuple[float, float],
    z: float,
    material: bpy.types.Material,
) -> None:
    builder.polygon([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], material)


def _markings(builder: MeshBuilder) -> None:
    paint = materials.road_paint()
    stop = CROSSING[0] - 7.0
    for start in np.arange(STREET_START, stop - 3.0, 6.0):
        _flat(builder, (-0.06, 0.06), (start, start + 3.0), MARKING_Z, paint)
    for start in np.arange(CROSSING[1] + 6.0, STREET_END - 8.0, 6.0):
        _flat(builder, (-0.06, 0.06), (start, start + 3.0), MARKING_Z, paint)
    for start in np.arange(STREET_START, stop - 3.0, 6.2):
        line = (-LANE_WIDTH - 0.05, -LANE_WIDTH + 0.05)
        _flat(builder, line, (start, start + 5.9), MARKING_Z, paint)
        bay = (-LANE_WIDTH - 0.6, -LANE_WIDTH)
        _flat(builder, bay, (start + 5.95, start + 6.05), MARKING_Z, paint)
    _flat(builder, (0.1, LANE_WIDTH), (stop, stop + 0.5), MARKING_Z, paint)
    for left in np.arange(KERB_LEFT + 0.4, KERB_RIGHT - 0.6, 1.0):
        _flat(builder, (left, left + 0.5), (stop + 1.6, stop + 5.2), MARKING_Z, paint)


def build_ground() -> None:
    """Road and sidewalks, in world coordinates."""
    road = MeshBuilder()
    # Each strip ends where the next begins, so that no two of them share a depth.
    y_ends = (STREET_START - 20, STREET_END)
    _flat(road, (KERB_LEFT, KERB_RIGHT), y_ends, 0.0, materials.asphalt())
    for x in ((-90.0, KERB_LEFT), (KERB_RIGHT, 90.0)):
        _flat(road, x, CROSSING, 0.0, materials.asphalt())
    _flat(road, (-90, 90), (STREET_END, STREET_END + 9.0), 0.0, materials.asphalt())
    for x, y, width, length in ((1.1, 15.5, 1.3, 5.0), (-2.5, 27, 1.7, 3.0), (2.0, 58, 1.1, 9.0)):
        patch = materials.asphalt(0.075, cracks=False)
        _flat(road, (x, x + width), (y, y + length), 0.5 * MARKING_Z, patch)
    _markings(road)
    iron = materials.plain((0.07, 0.065, 0.06), 0.5, 0.6)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for x, y in ((0.9, 21.0), (-1.9, 36.0), (1.4, 66.0)):
        rim = np.stack([x + 0.33 * np.cos(turn), y + 0.33 * np.sin(turn)], axis=1)
        road.polygon([(px, py, 0.8 * MARKING_Z) for px, py in rim], iron)
    road.build("road", ROAD)

    walk, kerb_stone = MeshBuilder(), materials.rough((0.24, 0.24, 0.23), (0.40, 0.39, 0.37), 9.0)
    gutter = MeshBuilder()
    for side, kerb in ((-1, KERB_LEFT), (1, KERB_RIGHT)):
        for y in ((STREET_START - 20, CROSSING[0]), (CROSSING[1], STREET_END)):
            middle, length = (y[0] + y[1]) / 2, y[1] - y[0]
            stone_x = kerb + 0.08 * side
            walk.box((stone_x, middle, KERB_HEIGHT / 2), (0.16, length, KERB_HEIGHT), kerb_stone)
            x = sorted((kerb + 0.16 * side, side * (FACADE_X + 0.6)))
            _flat(walk, (x[0], x[1]), y, KERB_HEIGHT - 0.005, materials.pavers())
            edge = sorted((kerb - 0.32 * side, kerb))
            stones = materials.pavers((0.15, 0.147, 0.14), 0.16)
            _flat(gutter, (edge[0], edge[1]), y, 0.5 * MARKING_Z, stones)
    walk.build("sidewalk", SIDEWALK)
    gutter.build("gutter", ROAD)
    grass = MeshBuilder()
    soil = materials.rough((0.035, 0.06, 0.015), (0.10, 0.13, 0.04), 2.2, 0.06)
    _flat(grass, (-200, 200), (STREET_END + 9.0, STREET_END + 140), 0.05, soil)
    grass.build("grass", TERRAIN)
