"""Street furniture: lamp posts, signs, traffic lights, fences, bins."""

from __future__ import annotations

import bpy
import numpy as np

from clip import materials
from clip.layout import (
    FENCE,
    KERB_HEIGHT,
    POLE,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VOID,
)
from clip.meshes import MeshBuilder, Point

Material = bpy.types.Material

RED, BLUE = (0.48, 0.015, 0.02), (0.015, 0.08, 0.36)
WHITE, YELLOW = (0.72, 0.72, 0.70), (0.65, 0.45, 0.02)


def _disc(
    builder: MeshBuilder, centre: Point, radius: float, material: Material, sides: int = 28
) -> None:
    """A flat shape that faces -y, towards the coming traffic."""
    offset = np.pi / sides if sides < 10 else 0.0
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False) + offset
    x, y, z = centre
    builder.polygon([(x + radius * np.cos(a), y, z + radius * np.sin(a)) for a in turn], material)


SEGMENTS = {"3": "abgcd", "0": "abcdef"}
"""Which of the seven segments a digit lights, a at the top and on clockwise, g in the middle."""


def _digits(
    builder: MeshBuilder, x: float, y: float, z: float, text: str, material: Material
) -> None:
    """Upright digits of seven segments, 0.24 m tall, around the point (x, z)."""
    wide, tall, stroke = 0.13, 0.24, 0.034
    bars = {"a": (0, tall / 2), "g": (0, 0), "d": (0, -tall / 2)}
    posts = {"b": (1, 1), "c": (1, -1), "e": (-1, -1), "f": (-1, 1)}
    for place, digit in enumerate(text):
        middle = x + (place - (len(text) - 1) / 2) * (wide + 0.06)
        for segment in SEGMENTS[digit]:
            if segment in bars:
                centre, size = (middle, y, z + bars[segment][1]), (wide, 0.004, stroke)
            else:
                right, upper = posts[segment]
                centre = (middle + right * (wide - stroke) / 2, y, z + upper * tall / 4)
                size = (stroke, 0.004, tall / 2 + stroke)
            builder.box(centre, size, material)


def lamp_post(x: float, y: float) -> None:
    """A steel lamp post whose arm reaches over the road."""
    builder = MeshBuilder()
    steel = materials.plain((0.20, 0.21, 0.21), 0.45, 0.6)
    towards = -np.sign(x)
    builder.tube([(x, y, 0.0), (x, y, 1.1)], 0.095, steel, 12)
    arm = [(x, y, 1.0), (x, y, 7.2), (x + 0.25 * towards, y, 7.7), (x + 1.5 * towards, y, 7.85)]
    builder.tube(arm, [0.07, 0.05, 0.045, 0.04], steel, 10)
    builder.box((x + 1.75 * towards, y, 7.84), (0.65, 0.24, 0.11), steel)
    builder.build("lamp post", POLE)


def sign(x: float, y: float, kind: str, height: float = 2.35) -> None:
    """A traffic sign on its pole: "limit", "no_stopping", "priority", "parking", "yield"."""
    pole, plate = MeshBuilder(), MeshBuilder()
    steel = materials.plain((0.35, 0.36, 0.36), 0.4, 0.7)
    pole.tube([(x, y, 0.0), (x, y, height + 0.35)], 0.032, steel, 10)
    pole.build("sign pole", POLE)
    red, blue = materials.plain(RED, 0.35), materials.plain(BLUE, 0.35)
    white, yellow = materials.plain(WHITE, 0.35), materials.plain(YELLOW, 0.35)
    black = materials.plain((0.02, 0.02, 0.02), 0.5)
    front = y - 0.05

    def layer(step: int) -> float:
        return front - 0.004 * step

    if kind == "limit":
        _disc(plate, (x, front, height), 0.32, red)
        _disc(plate, (x, layer(1), height), 0.245, white)
        _digits(plate, x, layer(2), height, "30", black)
    elif kind == "no_stopping":
        _disc(plate, (x, front, height), 0.32, red)
        _disc(plate, (x, layer(1), height), 0.255, blue)
        for lean in (np.pi / 4, -np.pi / 4):
            axes = np.array(
                [[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]]
            )
            plate.box((x, layer(2), height), (0.52, 0.004, 0.07), red, axes)
    elif kind == "priority":
        for radius, material, step in ((0.36, white, 0), (0.31, yellow, 1)):
            points = [(radius, 0), (0, radius), (-radius, 0), (0, -radius)]
            plate.polygon([(x + a, layer(step), height + b) for a, b in points], material)
    elif kind == "parking":
        plate.box((x, front, height), (0.6, 0.02, 0.6), blue)
        plate.box((x - 0.09, layer(4), height), (0.085, 0.004, 0.42), white)
        plate.box((x + 0.03, layer(4), height + 0.17), (0.2, 0.004, 0.08), white)
        plate.box((x + 0.03, layer(4), height), (0.2, 0.004, 0.08), white)
        plate.box((x + 0.12, layer(4), height + 0.085), (0.08, 0.004, 0.24), white)
    elif kind == "yield":
        for radius, material, step in ((0.42, red, 0), (0.26, white, 1)):
            points = [(-0.87 * radius, 0.5 * radius), (0.87 * radius, 0.5 * radius), (0, -radius)]
            plate.polygon([(x + a, layer(step), height + b) for a, b in points], material)
    else:
        raise ValueError(f"no sign of kind {kind!r}")
    plate.box((x, y - 0.04, height), (0.3, 0.012, 0.3), steel)
    plate.build(f"sign {kind}", TRAFFIC_SIGN)


def street_name(x: float, y: float) -> None:
    """A blue name plate on a pole."""
    pole, plate = MeshBuilder(), MeshBuilder()
    pole.tube([(x, y, 0), (x, y, 2.9)], 0.03, materials.plain((0.35, 0.36, 0.36), 0.4, 0.7), 8)
    pole.build("name pole", POLE)
    plate.box((x, y - 0.03, 2.75), (0.9, 0.02, 0.24), materials.plain(BLUE, 0.4))
    white = materials.plain(WHITE, 0.4)
    for letter, left in enumerate(np.arange(-0.36, 0.36, 0.085)):
        plate.box((x + left, y - 0.045, 2.75), (0.05, 0.004, 0.09 + 0.03 * (letter % 2)), white)
    plate.build("name plate", TRAFFIC_SIGN)


def traffic_light(x: float, y: float, reach: float = 0.0) -> None:
    """A light on a pole, and a second one on an arm that reaches over the lane."""
    pole, head = MeshBuilder(), MeshBuilder()
    steel = materials.plain((0.16, 0.17, 0.17), 0.5, 0.5)
    black = materials.plain((0.018, 0.018, 0.02), 0.6)
    towards = -np.sign(x)
    places = [(x, y, 2.75)]
    if reach:
        path = [(x, y, 0), (x, y, 5.4), (x + 0.4 * towards, y, 5.8), (x + reach * towards, y, 5.9)]
        pole.tube(path, [0.10, 0.08, 0.07, 0.05], steel, 12)
        places.append((x + reach * towards, y, 5.45))
    else:
        pole.tube([(x, y, 0), (x, y, 3.4)], 0.06, steel, 12)
    pole.build("light pole", POLE)
    off = ((0.10, 0.005, 0.005), (0.10, 0.06, 0.005), (0.0, 0.06, 0.03))
    for a, b, c in places:
        front = b - 0.16
        head.box((a, front, c), (0.30, 0.24, 0.92), black)
        for step, colour in enumerate(off):
            lit = step == 2
            shine = (
                materials.lamp((0.02, 0.75, 0.35), 3.0) if lit else materials.plain(colour, 0.3)
            )
            _disc(head, (a, front - 0.125, c + 0.29 - 0.29 * step), 0.105, shine)
            head.box((a, front - 0.17, c + 0.41 - 0.29 * step), (0.24, 0.12, 0.02), black)
    head.build("traffic light", TRAFFIC_LIGHT)


def fence(x: float, y0: float, y1: float) -> None:
    """An iron railing along y."""
    builder = MeshBuilder()
    iron = materials.plain((0.03, 0.045, 0.04), 0.5, 0.3)
    foot = KERB_HEIGHT
    for height in (0.18, 1.05):
        builder.box((x, (y0 + y1) / 2, foot + height), (0.035, y1 - y0, 0.045), iron)
    for y in np.arange(y0, y1, 0.12):
        builder.box((x, y, foot + 0.60), (0.02, 0.02, 1.1), iron)
    for y in np.arange(y0, y1 + 0.1, 2.4):
        builder.box((x, y, foot + 0.62), (0.07, 0.07, 1.25), iron)
    builder.build("fence", FENCE)


def bin_(x: float, y: float) -> None:
    """A wheeled rubbish bin, which Cityscapes leaves without a class."""
    builder = MeshBuilder()
    green = materials.plain((0.02, 0.055, 0.035), 0.55)
    floor = KERB_HEIGHT
    low, high = 0.24, 0.30
    sections = [
        [(x - h, y - h, z), (x + h, y - h, z), (x + h, y + h, z), (x - h, y + h, z)]
        for h, z in (
            (low, floor + 0.05),
            (high, floor + 0.98),
            (high + 0.03, floor + 1.0),
            (high + 0.02, floor + 1.06),
        )
    ]
    builder.loft(np.array(sections), green)
    builder.tube(
        [(x - 0.3, y + 0.2, floor + 0.1), (x + 0.3, y + 0.2, floor + 0.1)],
        0.1,
        materials.plain((0.02, 0.02, 0.02)),
        14,
    )
    builder.build("bin", VOID)


def cabinet(x: float, y: float) -> None:
    """A grey switch cabinet, which Cityscapes leaves without a class."""
    builder = MeshBuilder()
    grey = materials.plain((0.30, 0.31, 0.29), 0.6)
    builder.box((x, y, KERB_HEIGHT + 0.62), (0.4, 1.1, 1.24), grey)
    builder.box((x, y, KERB_HEIGHT + 1.26), (0.46, 1.16, 0.05), grey)
    builder.build("cabinet", VOID)
