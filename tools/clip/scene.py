"""The whole street: what stands where, and how it moves."""

from __future__ import annotations

from collections.abc import Callable

import bpy
import numpy as np

from clip import buildings, figures, furniture, materials, obstacles, plants, street, vehicles
from clip.layout import (
    BICYCLE,
    BUILDING,
    CROSSING,
    FACADE_X,
    KERB_HEIGHT,
    KERB_LEFT,
    KERB_RIGHT,
    STREET_END,
    STREET_START,
    VEGETATION,
)
from clip.meshes import MeshBuilder, place
from clip.sky import build_sky

CREAM, SAND, GREY, ROSE = (
    (0.60, 0.53, 0.40),
    (0.48, 0.39, 0.25),
    (0.42, 0.42, 0.41),
    (0.47, 0.31, 0.25),
)
WHITE, OCHRE, SAGE = (0.66, 0.65, 0.61), (0.50, 0.34, 0.13), (0.33, 0.37, 0.29)

CAR_COLOURS = (
    (0.30, 0.31, 0.32),
    (0.012, 0.012, 0.014),
    (0.60, 0.60, 0.60),
    (0.012, 0.025, 0.07),
    (0.09, 0.095, 0.10),
    (0.25, 0.012, 0.015),
    (0.45, 0.45, 0.46),
    (0.03, 0.035, 0.04),
)


def _walls(rng: np.random.Generator) -> bpy.types.Material:
    if rng.random() < 0.3:
        tone = rng.uniform(0.8, 1.2)
        return materials.brick((0.25 * tone, 0.085, 0.05), (0.17 * tone, 0.06, 0.04))
    colours = (CREAM, SAND, GREY, ROSE, WHITE, OCHRE, SAGE)
    return materials.plaster(colours[rng.integers(len(colours))])


def _house_row(side: int, start: float, end: float, rng: np.random.Generator, seed: int) -> int:
    """Fills a stretch of the street with houses; gives the next free seed."""
    roofs = ((0.20, 0.065, 0.035), (0.09, 0.085, 0.085), (0.15, 0.06, 0.04))
    y = start
    while y < end - 5.0:
        columns = int(rng.integers(3, 7))
        width = min(columns * rng.uniform(2.5, 3.1), end - y)
        if end - y - width < 5.0:
            width = end - y
        along = (0.0, -1.0) if side > 0 else (0.0, 1.0)
        trim = (WHITE, (0.45, 0.43, 0.39))[rng.integers(2)]
        buildings.build_house(
            buildings.House(
                corner=(side * FACADE_X, y + width if side > 0 else y),
                along=along,
                width=width,
                depth=rng.uniform(9.0, 11.0),
                floors=int(rng.integers(3, 6)),
                columns=max(2, round(width / 2.9)),
                wall=_walls(rng),
                trim=materials.plaster(trim),
                roof=materials.tiles(roofs[rng.integers(3)]),
                shop=bool(rng.random() < 0.45),
                balconies=bool(rng.random() < 0.35),
                seed=seed,
            )
        )
        y, seed = y + width, seed + 1
    return seed


def _houses() -> None:
    rng = np.random.default_rng(11)
    seed = 1
    for side in (-1, 1):
        seed = _house_row(side, STREET_START, CROSSING[0] - 3.5, rng, seed)
        seed = _house_row(side, CROSSING[1] + 3.5, STREET_END - 3.0, rng, seed)
    # The side street shows houses too, as plain blocks seen at a slant.
    for side in (-1, 1):
        block = MeshBuilder()
        block.box((side * 38, CROSSING[1] + 9, 6), (30, 12, 12), materials.plaster(SAND))
        block.build("far block", BUILDING)
    for number, x in enumerate(np.arange(-52, 52, 13.0)):
        buildings.build_house(
            buildings.House(
                corner=(x, STREET_END + 24.0),
                along=(1.0, 0.0),
                width=12.5,
                depth=10.0,
                floors=3 + number % 2,
                columns=4,
                wall=_walls(rng),
                trim=materials.plaster(WHITE),
                roof=materials.tiles((0.17, 0.06, 0.035)),
                shop=False,
                balconies=False,
                seed=100 + number,
            )
        )


def _greenery() -> None:
    rng = np.random.default_rng(5)
    trees = [
        plants.tree_mesh(seed, height, crown)
        for seed, height, crown in ((0, 7.6, 2.1), (1, 8.6, 2.4), (2, 6.8, 1.9))
    ]
    spots = [
        (x, y + shift)
        for x, shift in ((KERB_LEFT - 0.95, 0.0), (KERB_RIGHT + 0.95, 4.0))
        for y in np.arange(-18.0, STREET_END - 5, 13.5)
    ]
    for number, (tree_x, y) in enumerate(spots):
        if CROSSING[0] - 6 < y < CROSSING[1] + 5:
            continue
        place(
            trees[number % 3],
            VEGETATION,
            (tree_x + rng.normal(0, 0.1), y + rng.normal(0, 0.9), KERB_HEIGHT - 0.02),
            rng.uniform(0, 6.28),
            rng.uniform(0.9, 1.1),
        )
    for tree_x in np.arange(-45, 45, 5.5):
        place(
            trees[int(rng.integers(3))],
            VEGETATION,
            (tree_x, STREET_END + 14 + rng.normal(0, 1.5), 0.0),
            rng.uniform(0, 6.28),
            rng.uniform(1.0, 1.35),
        )
    hedge = plants.hedge_mesh(3, 8.0, 1.15, 0.7)
    for hedge_x, y in ((-8.6, 41.0), (-8.6, 49.2), (8.6, 62.0)):
        place(hedge, VEGETATION, (hedge_x, y, KERB_HEIGHT - 0.02))


def _furniture() -> None:
    left, right = KERB_LEFT - 0.5, KERB_RIGHT + 0.5
    for y in np.arange(-12.0, 80.0, 27.0):
        furniture.lamp_post(right, y + 9.0)
        furniture.lamp_post(left, y + 19.0)
    for x, y, kind, height in (
        (right, 33.0, "limit", 2.3),
        (left, 24.0, "no_stopping", 2.3),
        (right, 50.5, "parking", 2.4),
        (right, 68.0, "priority", 2.4),
        (left, 60.0, "limit", 2.3),
        (right, 19.0, "no_stopping", 2.4),
        (left, 95.5, "yield", 2.3),
    ):
        furniture.sign(x, y, kind, height)
    furniture.street_name(right, CROSSING[0] - 1.0)
    furniture.traffic_light(right, CROSSING[0] - 6.6, reach=2.6)
    furniture.traffic_light(left, CROSSING[0] - 6.6)
    furniture.traffic_light(right, CROSSING[1] + 1.2)
    furniture.fence(-8.05, 40.6, 57.8)
    furniture.fence(KERB_RIGHT + 0.25, 61.0, 75.0)
    for x, y in ((8.7, 26.0), (8.7, 26.8), (-8.7, 31.5), (8.7, 52.0)):
        furniture.bin_(x, y)
    furniture.cabinet(8.85, 45.0)
    for number, y in enumerate((37.6, 38.4, 39.2, 40.0)):
        place(
            vehicles.bicycle_mesh(number),
            BICYCLE,
            (7.4, y, KERB_HEIGHT - 0.01),
            1.57 + 0.1 * number,
        )


def _parked_cars(park: vehicles.CarPark) -> None:
    shapes = (vehicles.HATCHBACK, vehicles.SALOON, vehicles.SUV)
    rng = np.random.default_rng(8)
    row = (6.0, 12.4, 18.8, 31.0, 37.3, 43.4, 55.0, 61.2, 67.4, 101.0, 107.0, 119.0)
    for number, y in enumerate(row):
        shape = shapes[int(rng.integers(3))]
        colour = CAR_COLOURS[number % len(CAR_COLOURS)]
        x = KERB_LEFT + 1.12 + rng.normal(0, 0.04)
        park.car(shape, colour, (x, y, 0.0), np.pi + rng.normal(0, 0.012))


def _people() -> list[figures.Walker]:
    dark, jeans, beige = (0.02, 0.02, 0.025), (0.03, 0.05, 0.11), (0.30, 0.24, 0.16)
    brown, blond = (0.03, 0.018, 0.01), (0.30, 0.19, 0.07)
    walk = KERB_HEIGHT - 0.01
    return [
        figures.Walker(
            figures.Clothes((0.35, 0.03, 0.03), jeans, brown), (5.9, 24.0, walk), (0.0, 1.35)
        ),
        figures.Walker(
            figures.Clothes(dark, jeans, dark), (6.6, 47.0, walk), (-0.03, -1.25), phase=1.0
        ),
        figures.Walker(
            figures.Clothes((0.04, 0.10, 0.22), dark, blond),
            (-6.9, 34.0, walk),
            (0.0, -1.2),
            phase=2.0,
            scale=0.96,
        ),
        figures.Walker(
            figures.Clothes(beige, dark, brown),
            (-7.5, 34.3, walk),
            (0.0, -1.2),
            phase=0.6,
            scale=1.03,
        ),
        figures.Walker(
            figures.Clothes((0.40, 0.40, 0.38), jeans, dark, (0.14, 0.075, 0.045)),
            (7.9, 57.0, walk),
            facing=1.9,
        ),
        figures.Walker(
            figures.Clothes((0.05, 0.16, 0.08), beige, brown),
            (-5.0, 80.0, 0.0),
            (1.35, 0.0),
            phase=0.3,
        ),
        figures.Walker(
            figures.Clothes((0.42, 0.28, 0.03), dark, brown),
            (-6.6, 58.0, walk),
            (0.05, 1.3),
            phase=1.7,
        ),
    ]


def build_scene() -> Callable[[float], None]:
    """Builds the street in an empty Blender file.

    Returns:
        A function that moves everything that moves to its place at a time in seconds.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    street.build_ground()
    _houses()
    _greenery()
    _furniture()
    park = vehicles.CarPark()
    _parked_cars(park)
    oncoming = park.car(vehicles.SALOON, (0.02, 0.05, 0.14), (-1.65, 0, 0), np.pi)
    ahead = park.car(vehicles.HATCHBACK, (0.30, 0.012, 0.015), (1.7, 0, 0), 0.0)
    walkers = _people()
    obstacles.cardboard_box(2.3, 40.0, 0.5)
    obstacles.tyre(-0.25, 33.5)
    deer = obstacles.Deer(0.1, 50.0, 0.35)
    build_sky(elevation=np.radians(40.0), azimuth=np.radians(207.0))

    def move(time: float) -> None:
        oncoming.location.y = 76.0 - 9.5 * time
        ahead.location.y = 66.0 + 6.5 * time
        for walker in walkers:
            walker.move(time)
        deer.move(time)

    return move
