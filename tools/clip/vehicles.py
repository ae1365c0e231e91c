"""Cars lofted from cross-sections, and bicycles."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from clip import materials
from clip.layout import CAR
from clip.meshes import MeshBuilder, Point, place


@dataclass(frozen=True)
class CarShape:
    """A car's body as stations along its length; it points to +y and stands on z = 0.

    Each station is (y, bottom z, belt z, top z, half width, half width at the top). ``glass``
    names the gaps between stations, counted from the rear, whose side is window; ``rear`` and
    ``front`` the gaps of the rear window and the windscreen. Metres.
    """

    stations: tuple[tuple[float, ...], ...]
    glass: tuple[int, ...]
    rear: int
    front: int
    axles: tuple[float, float]
    lamp_height: tuple[float, float]


HATCHBACK = CarShape(
    (
        (0.00, 0.42, 0.72, 0.80, 0.76, 0.70),
        (0.05, 0.28, 0.90, 0.96, 0.83, 0.75),
        (0.12, 0.24, 0.96, 1.02, 0.86, 0.74),
        (0.48, 0.20, 0.98, 1.40, 0.88, 0.60),
        (0.62, 0.20, 0.98, 1.45, 0.88, 0.60),
        (1.35, 0.19, 0.97, 1.49, 0.89, 0.61),
        (1.44, 0.19, 0.97, 1.49, 0.89, 0.61),
        (2.25, 0.19, 0.96, 1.46, 0.89, 0.60),
        (2.34, 0.19, 0.96, 1.43, 0.89, 0.60),
        (3.10, 0.20, 0.94, 1.00, 0.88, 0.74),
        (3.60, 0.21, 0.87, 0.93, 0.87, 0.72),
        (4.05, 0.24, 0.76, 0.81, 0.84, 0.68),
        (4.22, 0.32, 0.62, 0.66, 0.76, 0.62),
    ),
    (4, 6),
    2,
    8,
    (0.78, 3.38),
    (0.86, 0.68),
)
SALOON = CarShape(
    (
        (0.00, 0.42, 0.74, 0.82, 0.78, 0.72),
        (0.06, 0.28, 0.92, 0.98, 0.85, 0.76),
        (0.30, 0.24, 0.97, 1.03, 0.88, 0.74),
        (0.75, 0.20, 0.99, 1.05, 0.90, 0.74),
        (1.35, 0.19, 0.98, 1.38, 0.90, 0.59),
        (1.45, 0.19, 0.98, 1.41, 0.90, 0.59),
        (2.10, 0.18, 0.97, 1.44, 0.91, 0.60),
        (2.19, 0.18, 0.97, 1.44, 0.91, 0.60),
        (2.85, 0.18, 0.96, 1.41, 0.91, 0.59),
        (2.95, 0.18, 0.96, 1.38, 0.91, 0.59),
        (3.70, 0.19, 0.93, 0.98, 0.90, 0.75),
        (4.25, 0.21, 0.84, 0.89, 0.88, 0.72),
        (4.60, 0.25, 0.73, 0.78, 0.84, 0.66),
        (4.74, 0.33, 0.62, 0.66, 0.76, 0.60),
    ),
    (5, 7),
    3,
    9,
    (1.00, 3.78),
    (0.86, 0.68),
)
SUV = CarShape(
    (
        (0.00, 0.48, 0.84, 0.92, 0.80, 0.74),
        (0.05, 0.36, 1.04, 1.10, 0.87, 0.78),
        (0.10, 0.32, 1.10, 1.16, 0.90, 0.77),
        (0.34, 0.28, 1.12, 1.56, 0.92, 0.65),
        (0.46, 0.28, 1.12, 1.62, 0.92, 0.65),
        (1.45, 0.27, 1.11, 1.67, 0.93, 0.66),
        (1.55, 0.27, 1.11, 1.67, 0.93, 0.66),
        (2.45, 0.27, 1.10, 1.63, 0.93, 0.65),
        (2.55, 0.27, 1.10, 1.60, 0.93, 0.65),
        (3.20, 0.28, 1.07, 1.14, 0.92, 0.78),
        (3.85, 0.29, 1.01, 1.07, 0.91, 0.76),
        (4.30, 0.32, 0.90, 0.95, 0.88, 0.72),
        (4.45, 0.40, 0.74, 0.78, 0.80, 0.66),
    ),
    (4, 6),
    2,
    8,
    (0.85, 3.58),
    (1.00, 0.82),
)
WHEEL_RADIUS = 0.32


def _section(station: tuple[float, ...]) -> np.ndarray:
    """The closed outline of a station: 12 points from the bottom, right side first."""
    y, bottom, belt, top, half, half_top = station
    right = [
        (0.55 * half, bottom),
        (0.93 * half, bottom + 0.05),
        (half, bottom + 0.45 * (belt - bottom)),
        (0.975 * half, belt),
        (half_top, top - 0.05),
        (0.86 * half_top, top),
    ]
    outline = right + [(-x, z) for x, z in reversed(right)]
    return np.array([(x, y, z) for x, z in outline])


def _shrunk(section: np.ndarray) -> np.ndarray:
    middle = section.mean(axis=0)
    return middle + 0.75 * (section - middle)


def _body(shape: CarShape) -> bpy.types.Mesh:
    paint, trim = materials.car_paint(), materials.plain((0.025, 0.025, 0.027), 0.6)
    glass = materials.window_glass((0.012, 0.014, 0.016))
    gaps = len(shape.stations) - 1
    skin = []
    for gap in range(gaps):
        # Edge p joins the outline's points p and p + 1; 3 and 7 are the sides, 5 the roof.
        row = [trim, paint, paint, paint, paint, paint, paint, paint, paint, paint, trim, trim]
        if gap in shape.glass:
            row[3] = row[7] = glass
        if gap in (shape.rear, shape.front):
            row[5] = glass
        skin.append(row)
    sections = [_section(station) for station in shape.stations]
    # A smaller copy of the first and last outline gives the rounding an even ring to work on.
    sections = [_shrunk(sections[0]), *sections, _shrunk(sections[-1])]
    end = [paint] * len(skin[0])
    builder = MeshBuilder()
    builder.loft(np.stack(sections), [end, *skin, end])
    return builder.mesh("car body", smooth=True)


def _details(shape: CarShape) -> bpy.types.Mesh:
    builder = MeshBuilder()
    black = materials.plain((0.012, 0.012, 0.013), 0.7)
    rubber = materials.plain((0.02, 0.02, 0.021), 0.85)
    rim = materials.plain((0.42, 0.42, 0.44), 0.3, 0.8)
    chrome = materials.plain((0.6, 0.6, 0.62), 0.15, 1.0)
    plate = materials.plain((0.68, 0.68, 0.66), 0.4)
    tail, head = materials.lamp((0.45, 0.01, 0.008), 0.15), materials.lamp((0.6, 0.6, 0.58), 0.08)
    widest = max(station[4] for station in shape.stations)
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    circle = np.stack([np.zeros(28), np.cos(turn), np.sin(turn)], axis=1)

    def disc(x: float, y: float, z: float, radius: float, material: bpy.types.Material) -> None:
        builder.polygon([(x, y, z) + radius * point for point in circle], material)

    for axle in shape.axles:
        for side in (-1, 1):
            x = side * (widest - 0.035)
            disc(x, axle, WHEEL_RADIUS + 0.03, WHEEL_RADIUS + 0.065, black)
            outer = side * (widest - 0.02)
            builder.tube(
                [(side * (widest - 0.2), axle, WHEEL_RADIUS), (outer, axle, WHEEL_RADIUS)],
                WHEEL_RADIUS,
                rubber,
                28,
            )
            disc(outer + side * 0.004, axle, WHEEL_RADIUS, 0.21, rim)
            for spoke in np.linspace(0, 2 * np.pi, 5, endpoint=False):
                gap = (
                    outer + side * 0.007,
                    axle + 0.135 * np.cos(spoke),
                    WHEEL_RADIUS + 0.135 * np.sin(spoke),
                )
                disc(*gap, 0.05, black)
    length, front = shape.stations[-1][0], shape.stations[-1]
    for side in (-1, 1):
        x = side * (shape.stations[1][4] - 0.13)
        builder.box((x, 0.055, shape.lamp_height[0]), (0.24, 0.12, 0.19), tail)
        x = side * (front[4] - 0.10)
        builder.box((x, length - 0.10, shape.lamp_height[1]), (0.28, 0.20, 0.11), head)
        mirror = shape.stations[shape.front + 1]
        builder.ball(
            (side * (widest + 0.09), mirror[0] - 0.28, mirror[2] + 0.06),
            (0.10, 0.06, 0.075),
            black,
        )
    builder.box((0, -0.005, 0.66), (0.52, 0.03, 0.12), plate)
    builder.box((0, length + 0.01, 0.45), (0.52, 0.03, 0.11), plate)
    builder.box((0, length - 0.005, 0.58), (0.80, 0.05, 0.12), black)
    builder.box((0, 0.02, 0.38), (1.30, 0.08, 0.14), black)
    builder.box((0, length - 0.02, 0.33), (1.25, 0.08, 0.10), black)
    builder.box((0, length + 0.012, 0.59), (0.14, 0.03, 0.08), chrome)
    shade = [
        (-0.7, 0.35, 0.16),
        (0.7, 0.35, 0.16),
        (0.7, length - 0.35, 0.16),
        (-0.7, length - 0.35, 0.16),
    ]
    builder.polygon(shade, black)
    return builder.mesh("car details")


class CarPark:
    """Makes cars; those of one shape share their meshes."""

    def __init__(self) -> None:
        self._meshes: dict[CarShape, tuple[bpy.types.Mesh, bpy.types.Mesh]] = {}

    def car(
        self,
        shape: CarShape,
        colour: tuple[float, float, float],
        location: Point,
        yaw: float,
    ) -> bpy.types.Object:
        """Puts a car into the scene; the location is on the ground, in the car's middle.

        Returns:
            The body; the other parts are its children and follow it.
        """
        if shape not in self._meshes:
            self._meshes[shape] = (_body(shape), _details(shape))
        body_mesh, detail_mesh = self._meshes[shape]
        holder = bpy.data.objects.new("car", None)
        bpy.context.scene.collection.objects.link(holder)
        holder.location, holder.rotation_euler = location, (0.0, 0.0, yaw)
        middle = (0.0, -shape.stations[-1][0] / 2, 0.0)
        body = place(body_mesh, CAR, middle, parent=holder)
        body.color = (*colour, 1.0)
        rounding = body.modifiers.new("rounding", "SUBSURF")
        rounding.levels = rounding.render_levels = 2
        place(detail_mesh, CAR, middle, parent=holder)
        return holder


def bicycle_mesh(seed: int) -> bpy.types.Mesh:
    """A city bicycle pointing to +y, standing on z = 0."""
    builder = MeshBuilder()
    paint = materials.plain(((0.03, 0.09, 0.16), (0.20, 0.02, 0.02))[seed % 2], 0.3)
    rubber, steel = materials.plain((0.02, 0.02, 0.02)), materials.plain((0.5, 0.5, 0.5), 0.3, 0.9)
    turn = np.linspace(0, 2 * np.pi, 33)
    for axle in (0.0, 1.05):
        ring = [(0.0, axle + 0.33 * np.cos(a), 0.345 + 0.33 * np.sin(a)) for a in turn]
        for start in range(0, 32, 8):
            builder.tube(ring[start : start + 9], 0.023, rubber, 6)
        for a in turn[:-1:2]:
            end = (0.0, axle + 0.32 * np.cos(a), 0.345 + 0.32 * np.sin(a))
            builder.tube([(0, axle, 0.345), end], 0.003, steel, 4)
    for line in (
        [(0, 0, 0.345), (0, 0.42, 0.30), (0, 0.92, 0.72)],
        [(0, 0.42, 0.30), (0, 0.30, 0.85)],
        [(0, 0, 0.345), (0, 0.33, 0.70)],
        [(0, 1.05, 0.345), (0, 0.92, 0.72), (0, 0.87, 1.02)],
    ):
        builder.tube(line, 0.02, paint, 8)
    builder.tube([(-0.28, 0.78, 1.04), (0, 0.88, 1.02), (0.28, 0.78, 1.04)], 0.013, steel, 6)
    builder.box((0, 0.27, 0.88), (0.15, 0.26, 0.06), rubber)
    builder.box((0, -0.05, 0.72), (0.14, 0.40, 0.02), steel)
    return builder.mesh("bicycle")
