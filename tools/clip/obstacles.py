"""The unknown things on the road: a cardboard box, a tyre, a deer. No Cityscapes class fits."""

from __future__ import annotations

import bpy
import numpy as np

from clip import materials
from clip.layout import ANOMALY
from clip.meshes import MeshBuilder, place


def cardboard_box(x: float, y: float, yaw: float) -> bpy.types.Object:
    """A removal box with its flaps open."""
    builder = MeshBuilder()
    board, tape = materials.cardboard(), materials.plain((0.42, 0.33, 0.20), 0.25)
    wide, deep, tall, wall = 0.80, 0.60, 0.62, 0.012
    for side in (-1, 1):
        builder.box((side * wide / 2, 0, tall / 2), (wall, deep, tall), board)
        builder.box((0, side * deep / 2, tall / 2), (wide, wall, tall), board)
    builder.box((0, 0, wall), (wide, deep, wall), board)
    builder.box((0, -deep / 2 - 0.008, tall / 2), (0.07, 0.002, tall), tape)
    for side, open_angle in ((-1, 0.5), (1, -0.35)):
        along = np.array([side * np.cos(open_angle), 0, np.sin(open_angle)])
        axes = np.stack([along, [0, 1, 0], np.cross(along, [0, 1, 0])])
        centre = np.array([side * wide / 2, 0, tall]) + 0.19 * along
        builder.box(centre, (0.38, deep, wall), board, axes)
        across = np.array([0, side * np.cos(0.9), np.sin(0.9)])
        axes = np.stack([[1, 0, 0], across, np.cross([1, 0, 0], across)])
        centre = np.array([0, side * deep / 2, tall]) + 0.14 * across
        builder.box(centre, (wide, 0.28, wall), board, axes)
    return place(builder.mesh("cardboard box"), ANOMALY, (x, y, 0.0), yaw)


def tyre(x: float, y: float) -> bpy.types.Object:
    """A worn lorry tyre that lies on its side."""
    builder = MeshBuilder()
    rubber = materials.plain((0.022, 0.022, 0.023), 0.8)
    profile = [
        (0.27, 0.03),
        (0.33, 0.0),
        (0.44, 0.0),
        (0.49, 0.04),
        (0.50, 0.08),
        (0.50, 0.20),
        (0.49, 0.24),
        (0.44, 0.28),
        (0.33, 0.28),
        (0.27, 0.25),
        (0.26, 0.14),
    ]
    turn = np.linspace(0, 2 * np.pi, 49)
    sections = np.array([[(r * np.cos(a), r * np.sin(a), z) for r, z in profile] for a in turn])
    builder.loft(sections, rubber, caps=(False, False))
    for a in turn[:-1]:
        axes = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        builder.box(
            (0.503 * np.cos(a), 0.503 * np.sin(a), 0.14), (0.02, 0.035, 0.15), rubber, axes
        )
    return place(builder.mesh("tyre"), ANOMALY, (x, y, 0.0))


class Deer:
    """A deer that walks slowly across the road, in +x."""

    def __init__(self, x: float, y: float, speed: float) -> None:
        self.x, self.y, self.speed = x, y, speed
        self.body: bpy.types.Object | None = None

    def move(self, time: float) -> None:
        """Poses the deer for a time in seconds."""
        mesh = _deer_mesh(2 * np.pi * self.speed * time / 1.1 + 0.8)
        if self.body is None:
            self.body = place(mesh, ANOMALY)
            self.body.rotation_euler = (0.0, 0.0, -0.5 * np.pi + 0.3)
        else:
            old, self.body.data = self.body.data, mesh
            bpy.data.meshes.remove(old)
        self.body.location = (self.x + self.speed * time, self.y, 0.0)


def _deer_mesh(phase: float) -> bpy.types.Mesh:
    """A roe deer facing +y, about 0.85 m at the shoulder."""
    builder = MeshBuilder()
    coat = materials.fur((0.20, 0.095, 0.04), (0.30, 0.19, 0.11))
    dark = materials.plain((0.03, 0.02, 0.015), 0.6)
    pale = materials.plain((0.55, 0.50, 0.42), 0.9)
    horn = materials.plain((0.12, 0.085, 0.05), 0.7)
    spine = [
        (0, -0.62, 0.78),
        (0, -0.52, 0.84),
        (0, -0.25, 0.82),
        (0, 0.05, 0.79),
        (0, 0.30, 0.82),
        (0, 0.48, 0.90),
    ]
    builder.tube(spine, [0.05, 0.165, 0.175, 0.195, 0.18, 0.11], coat, 16, 1.12)
    builder.tube(
        [(0, 0.38, 0.88), (0, 0.53, 1.05), (0, 0.62, 1.26), (0, 0.65, 1.36)],
        [0.13, 0.10, 0.078, 0.07],
        coat,
        14,
    )
    builder.tube(
        [(0, 0.56, 1.37), (0, 0.64, 1.39), (0, 0.76, 1.35), (0, 0.88, 1.28), (0, 0.92, 1.26)],
        [0.04, 0.085, 0.07, 0.045, 0.02],
        coat,
        14,
    )
    builder.ball((0, 0.92, 1.265), (0.028, 0.03, 0.028), dark)
    builder.ball((0, -0.66, 0.80), (0.09, 0.05, 0.12), pale)
    for side in (-1, 1):
        builder.tube(
            [(0.05 * side, 0.60, 1.43), (0.13 * side, 0.58, 1.50), (0.19 * side, 0.57, 1.57)],
            [0.02, 0.042, 0.008],
            coat,
            8,
            0.5,
        )
        builder.ball((0.072 * side, 0.70, 1.40), (0.018, 0.022, 0.022), dark)
        builder.tube(
            [(0.035 * side, 0.62, 1.45), (0.06 * side, 0.60, 1.58), (0.09 * side, 0.64, 1.72)],
            [0.016, 0.013, 0.005],
            horn,
            6,
        )
        builder.tube(
            [(0.06 * side, 0.60, 1.58), (0.07 * side, 0.70, 1.66)], [0.011, 0.004], horn, 6
        )
        for fore in (True, False):
            step = phase + (0 if fore else np.pi / 2) + (np.pi if side > 0 else 0)
            swing, lift = 0.22 * np.sin(step), 0.05 * max(0.0, np.cos(step))
            y = 0.34 if fore else -0.46
            x = 0.10 * side
            knee = (x, y + 0.5 * swing + (0.02 if fore else -0.07), 0.40 + lift)
            foot = (x, y + swing, 0.05 + lift)
            builder.capsule((x, y, 0.78), knee, (0.11 if fore else 0.13, 0.04), coat)
            builder.capsule(knee, foot, (0.038, 0.026), coat)
            builder.capsule(foot, (x, y + swing + 0.03, 0.03 + lift), (0.03, 0.028), dark)
    return builder.mesh("deer", smooth=True)
