"""Houses along the street: facades with recessed windows, shops, roofs, balconies."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from clip import materials
from clip.layout import BUILDING, KERB_HEIGHT
from clip.meshes import MeshBuilder

GROUND_FLOOR, FLOOR = 4.0, 3.15
REVEAL = 0.16
"""How deep the panes lie behind the wall, in metres."""
UP = np.array([0.0, 0.0, 1.0])

Material = bpy.types.Material
Rectangle = tuple[float, float, float, float]
"""On a facade: from a0 to a1 along it, from h0 to h1 in height."""


@dataclass(frozen=True)
class House:
    """One house: where its front runs and what it looks like.

    The front starts at ``corner`` and runs ``width`` metres along ``along`` (a unit vector); the
    house lies on the left of that direction turned by 90 degrees, so that the front faces right.
    """

    corner: tuple[float, float]
    along: tuple[float, float]
    width: float
    depth: float
    floors: int
    columns: int
    wall: Material
    trim: Material
    roof: Material
    shop: bool
    balconies: bool
    seed: int


class _Face:
    """Facade coordinates: along the wall, height, and depth into the house."""

    def __init__(self, builder: MeshBuilder, origin: np.ndarray, along: np.ndarray) -> None:
        self.builder, self.origin, self.along = builder, origin, along
        self.inward = np.cross(UP, along)

    def at(self, along: float, height: float, depth: float = 0.0) -> np.ndarray:
        return self.origin + along * self.along + height * UP + depth * self.inward

    def panel(
        self, a0: float, a1: float, h0: float, h1: float, depth: float, material: Material
    ) -> None:
        """A flat rectangle parallel to the wall."""
        corners = [(a0, h0), (a1, h0), (a1, h1), (a0, h1)]
        self.builder.polygon([self.at(a, h, depth) for a, h in corners], material)

    def bar(
        self,
        a0: float,
        a1: float,
        h0: float,
        h1: float,
        front: float,
        back: float,
        material: Material,
    ) -> None:
        """A box between two depths."""
        centre = self.at((a0 + a1) / 2, (h0 + h1) / 2, (front + back) / 2)
        axes = np.stack([self.along, self.inward, UP])
        self.builder.box(centre, (a1 - a0, abs(back - front), h1 - h0), material, axes)

    def opening(
        self, cell: Rectangle, hole: Rectangle, wall: Material, frame: Material, glass: Material
    ) -> None:
        """A cell of the wall with a framed pane of two wings in its hole."""
        a0, a1, h0, h1 = cell
        b0, b1, g0, g1 = hole
        for piece in ((a0, b0, h0, h1), (b1, a1, h0, h1), (b0, b1, h0, g0), (b0, b1, g1, h1)):
            self.panel(*piece, 0.0, wall)
        for start, end in (
            ((b0, g0), (b1, g0)),
            ((b1, g0), (b1, g1)),
            ((b1, g1), (b0, g1)),
            ((b0, g1), (b0, g0)),
        ):
            self.builder.polygon(
                [
                    self.at(*start, 0),
                    self.at(*end, 0),
                    self.at(*end, REVEAL),
                    self.at(*start, REVEAL),
                ],
                wall,
            )
        self.panel(b0, b1, g0, g1, REVEAL, glass)
        wide = 0.06
        front, back = REVEAL - 0.05, REVEAL - 0.002
        self.bar(b0, b0 + wide, g0, g1, front, back, frame)
        self.bar(b1 - wide, b1, g0, g1, front, back, frame)
        self.bar(b0, b1, g0, g0 + wide, front, back, frame)
        self.bar(b0, b1, g1 - wide, g1, front, back, frame)
        middle = (b0 + b1) / 2
        self.bar(middle - 0.035, middle + 0.035, g0, g1, front, back, frame)


def _panes(rng: np.random.Generator) -> Material:
    inside = [(0.015, 0.017, 0.02), (0.03, 0.03, 0.03), (0.22, 0.20, 0.17), (0.06, 0.055, 0.05)]
    return materials.window_glass(inside[rng.choice(4, p=(0.4, 0.25, 0.15, 0.2))])


def _upper_floor(face: _Face, house: House, floor: int, rng: np.random.Generator) -> None:
    base = GROUND_FLOOR + (floor - 1) * FLOOR
    cell = house.width / house.columns
    wide, tall = min(1.25, 0.6 * cell), 1.65
    frame = materials.plain((0.62, 0.61, 0.58), 0.5)
    for column in range(house.columns):
        a0, a1 = column * cell, (column + 1) * cell
        b0, b1 = (a0 + a1 - wide) / 2, (a0 + a1 + wide) / 2
        g0 = base + 0.85
        balcony = house.balconies and column % 3 == 1
        if balcony:
            g0 = base + 0.12
        hole = (b0, b1, g0, base + 0.85 + tall)
        face.opening((a0, a1, base, base + FLOOR), hole, house.wall, frame, _panes(rng))
        face.bar(b0 - 0.08, b1 + 0.08, g0 - 0.09, g0, -0.09, 0.02, house.trim)
        face.bar(b0 - 0.10, b1 + 0.10, hole[3], hole[3] + 0.16, -0.05, 0.02, house.trim)
        face.bar(b0 - 0.10, b0, g0, hole[3], -0.03, 0.02, house.trim)
        face.bar(b1, b1 + 0.10, g0, hole[3], -0.03, 0.02, house.trim)
        if balcony:
            iron = materials.plain((0.04, 0.04, 0.045), 0.5)
            face.bar(b0 - 0.5, b1 + 0.5, base - 0.10, base + 0.06, -0.95, 0.0, house.trim)
            face.bar(b0 - 0.5, b1 + 0.5, base + 1.0, base + 1.05, -0.95, -0.90, iron)
            for post in np.arange(b0 - 0.5, b1 + 0.5, 0.13):
                face.bar(post, post + 0.025, base + 0.06, base + 1.0, -0.94, -0.91, iron)
        elif rng.random() < 0.25:
            shutter = materials.plain((0.30, 0.29, 0.27), 0.7)
            drop = rng.uniform(0.3, 0.9) * (hole[3] - g0)
            face.bar(b0, b1, hole[3] - drop, hole[3], 0.06, REVEAL - 0.05, shutter)


def _ground_floor(face: _Face, house: House, rng: np.random.Generator) -> None:
    cell = house.width / house.columns
    base, plinth = 0.0, materials.rough((0.13, 0.125, 0.12), (0.24, 0.23, 0.22), 5.0)
    door_column = int(rng.integers(house.columns))
    dark = materials.plain((0.05, 0.05, 0.055), 0.4)
    white = materials.plain((0.62, 0.61, 0.58), 0.5)
    for column in range(house.columns):
        a0, a1 = column * cell, (column + 1) * cell
        whole = (a0, a1, base, GROUND_FLOOR)
        if column == door_column:
            wood = materials.plain(((0.10, 0.045, 0.02), (0.03, 0.06, 0.05))[house.seed % 2], 0.5)
            middle = (a0 + a1) / 2
            face.opening(
                whole, (middle - 0.6, middle + 0.6, 0.15, 2.75), house.wall, wood, _panes(rng)
            )
            face.bar(middle - 0.54, middle + 0.54, 0.15, 2.1, REVEAL - 0.04, REVEAL - 0.01, wood)
            face.bar(middle - 0.7, middle + 0.7, 0.0, 0.15, -0.35, 0.0, plinth)
        elif house.shop:
            hole = (a0 + 0.25, a1 - 0.25, 0.55, 2.95)
            display = materials.window_glass(
                (0.13, 0.10, 0.07) if rng.random() < 0.5 else (0.05, 0.05, 0.055)
            )
            face.opening(whole, hole, house.wall, dark, display)
        else:
            wide = min(1.3, 0.6 * cell)
            b0, b1 = (a0 + a1 - wide) / 2, (a0 + a1 + wide) / 2
            face.opening(whole, (b0, b1, 1.25, 3.0), house.wall, white, _panes(rng))
            face.bar(b0 - 0.08, b1 + 0.08, 1.16, 1.25, -0.09, 0.02, house.trim)
        if column != door_column and not house.shop:
            face.bar(a0, a1, 0.0, 0.6, -0.05, 0.01, plinth)
    if house.shop:
        colours = ((0.30, 0.03, 0.03), (0.02, 0.10, 0.22), (0.04, 0.16, 0.07), (0.45, 0.30, 0.05))
        board = materials.plain(colours[house.seed % 4], 0.5)
        face.bar(0.3, house.width - 0.3, 3.1, 3.7, -0.14, 0.0, board)
        letters = materials.plain((0.7, 0.68, 0.62), 0.5)
        along = 0.3 + 0.2 * house.width
        while along < 0.75 * house.width:
            wide = rng.uniform(0.12, 0.3)
            face.bar(
                along, along + wide, 3.25, 3.25 + rng.uniform(0.2, 0.33), -0.17, -0.14, letters
            )
            along += wide + rng.choice([0.06, 0.06, 0.25])
        if house.seed % 3 == 0:
            cloth = board if rng.random() < 0.5 else materials.plain((0.55, 0.50, 0.40), 0.9)
            for a0 in np.arange(0.4, house.width - 2.2, 2.6):
                points = [
                    (a0, 3.0, 0),
                    (a0 + 2.3, 3.0, 0),
                    (a0 + 2.3, 2.55, -1.1),
                    (a0, 2.55, -1.1),
                ]
                face.builder.polygon([face.at(*p) for p in points[::-1]], cloth)
                face.bar(a0, a0 + 2.3, 2.37, 2.55, -1.11, -1.09, cloth)


def _roof(face: _Face, house: House, top: float) -> None:
    overhang, rise, width = 0.45, 0.42 * house.depth, house.width
    middle = house.depth / 2
    face.bar(-0.05, width + 0.05, top - 0.35, top, -0.28, 0.0, house.trim)
    gutter = materials.plain((0.16, 0.15, 0.14), 0.4, 0.5)
    face.bar(0.0, width, top - 0.02, top + 0.10, -overhang - 0.08, -overhang + 0.06, gutter)
    slope = rise / middle
    low = top - slope * overhang + 0.18
    for front, back in ((-overhang, middle), (house.depth + overhang, middle)):
        points = [
            (0, low, front),
            (width, low, front),
            (width, top + rise, back),
            (0, top + rise, back),
        ]
        face.builder.polygon([face.at(*p) for p in points], house.roof)
    for end in (0.0, width):
        gable = [(end, top, 0), (end, top, house.depth), (end, top + rise, middle)]
        face.builder.polygon([face.at(*p) for p in gable], house.wall)
    stack = materials.brick((0.20, 0.07, 0.045), (0.14, 0.05, 0.035))
    place = width * (0.25 + 0.5 * ((house.seed * 7) % 10) / 10)
    face.bar(
        place,
        place + 0.8,
        top + 0.5 * rise,
        top + rise + 0.9,
        0.35 * house.depth,
        0.35 * house.depth + 0.6,
        stack,
    )
    pane = materials.window_glass((0.03, 0.03, 0.035))
    for dormer in np.arange(1.6, width - 2.6, 3.4):
        at = 0.28 * middle
        foot = top + slope * at
        face.bar(dormer, dormer + 1.4, foot - 0.3, foot + 1.35, at, at + 2.2, house.wall)
        face.panel(dormer + 0.2, dormer + 1.2, foot + 0.25, foot + 1.2, at - 0.01, pane)
        face.bar(
            dormer - 0.12, dormer + 1.52, foot + 1.35, foot + 1.5, at - 0.2, at + 2.6, house.trim
        )


def build_house(house: House) -> bpy.types.Object:
    """Builds one house and puts it into the scene."""
    rng = np.random.default_rng(house.seed)
    builder = MeshBuilder()
    along = np.array([*house.along, 0.0])
    origin = np.array([*house.corner, KERB_HEIGHT - 0.02])
    face = _Face(builder, origin, along)
    top = GROUND_FLOOR + (house.floors - 1) * FLOOR + 0.4
    _ground_floor(face, house, rng)
    for floor in range(1, house.floors):
        _upper_floor(face, house, floor, rng)
    face.bar(0, house.width, GROUND_FLOOR - 0.22, GROUND_FLOOR, -0.07, 0.0, house.trim)
    face.panel(0, house.width, top - 0.4, top, 0.0, house.wall)
    for end in (0.0, house.width):
        side = [(end, 0, 0), (end, 0, house.depth), (end, top, house.depth), (end, top, 0)]
        builder.polygon([face.at(*p) for p in side], house.wall)
    back = [(0, 0), (house.width, 0), (house.width, top), (0, top)]
    builder.polygon([face.at(a, h, house.depth) for a, h in back], house.wall)
    _roof(face, house, top)
    pipe = materials.plain((0.16, 0.15, 0.14), 0.4, 0.5)
    face.bar(0.08, 0.18, 0.1, top, -0.13, -0.03, pipe)
    return builder.build(f"house {house.seed}", BUILDING)
