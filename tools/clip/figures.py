"""People who walk and stand, posed by a simple gait."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from clip import materials
from clip.layout import PERSON
from clip.meshes import MeshBuilder, place

STRIDE = 1.45
"""Metres walked in one cycle of the gait (a step with each foot)."""


@dataclass(frozen=True)
class Clothes:
    """Linear RGB colours of a person."""

    top: tuple[float, float, float]
    trousers: tuple[float, float, float]
    hair: tuple[float, float, float]
    skin: tuple[float, float, float] = (0.42, 0.25, 0.17)


def _limb(origin: np.ndarray, angle: float, length: float) -> np.ndarray:
    """The end of a limb that hangs down, swung forward (to +y) by an angle."""
    return origin + length * np.array([0.0, np.sin(angle), -np.cos(angle)])


def person_mesh(clothes: Clothes, phase: float, walking: bool = True) -> bpy.types.Mesh:
    """A person 1.75 m tall, facing +y, at a phase of the gait in radians."""
    builder = MeshBuilder()
    top, trousers = materials.plain(clothes.top, 0.9), materials.plain(clothes.trousers, 0.9)
    hair, skin = materials.plain(clothes.hair, 0.7), materials.plain(clothes.skin, 0.55)
    shoes = materials.plain((0.03, 0.03, 0.03), 0.6)
    swing = 0.46 if walking else 0.05
    bob = 0.02 * np.cos(2 * phase) if walking else 0.0
    for side in (-1, 1):
        leg = phase if side > 0 else phase + np.pi
        hip = np.array([0.095 * side, 0.0, 0.93 + bob])
        thigh = swing * np.sin(leg)
        bend = (0.12 + 0.62 * max(0.0, np.cos(leg))) if walking else 0.03
        knee = _limb(hip, thigh, 0.44)
        ankle = _limb(knee, thigh - bend, 0.42)
        ankle[2] = max(ankle[2], 0.07)
        builder.capsule(hip, knee, (0.095, 0.065), trousers)
        builder.capsule(knee, ankle, (0.066, 0.05), trousers)
        toe = ankle + np.array([0.0, 0.17, -0.03])
        builder.capsule(ankle + np.array([0.0, -0.04, -0.035]), toe, (0.045, 0.035), shoes)
        arm = -0.8 * swing * np.sin(leg)
        shoulder = np.array([0.205 * side, 0.0, 1.41 + bob])
        elbow = _limb(shoulder, arm, 0.29) + np.array([0.035 * side, 0.0, 0.0])
        hand = _limb(elbow, arm + 0.3, 0.26)
        builder.capsule(shoulder, elbow, (0.062, 0.05), top)
        builder.capsule(elbow, hand, (0.048, 0.036), top)
        builder.capsule(hand, _limb(hand, arm + 0.3, 0.09), (0.036, 0.03), skin)
    turn = np.arange(16) * (2 * np.pi / 16)
    torso = np.array(
        [
            (0.84, 0.155, 0.115),
            (0.93, 0.175, 0.125),
            (1.05, 0.160, 0.115),
            (1.20, 0.180, 0.125),
            (1.34, 0.205, 0.125),
            (1.43, 0.190, 0.105),
            (1.49, 0.085, 0.075),
        ]
    )
    sections = np.stack(
        [
            np.stack([wide * np.cos(turn), deep * np.sin(turn), np.full(16, z + bob)], axis=1)
            for z, wide, deep in torso
        ]
    )
    builder.loft(sections, top)
    builder.capsule((0, 0, 1.46 + bob), (0, 0.02, 1.56 + bob), (0.06, 0.055), skin)
    builder.ball((0, 0.025, 1.645 + bob), (0.078, 0.098, 0.118), skin)
    builder.ball((0, 0.0, 1.675 + bob), (0.088, 0.100, 0.105), hair)
    return builder.mesh("person", smooth=True)


@dataclass
class Walker:
    """A person who walks along a straight line.

    Attributes:
        start: (x, y, ground z) at time 0.
        velocity: (x, y) in m/s; a zero velocity stands still.
        facing: yaw of one who stands, in radians.
        phase: of the gait at time 0, in radians.
        scale: 1 for a person of 1.75 m.
    """

    clothes: Clothes
    start: tuple[float, float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    facing: float = 0.0
    phase: float = 0.0
    scale: float = 1.0
    body: bpy.types.Object | None = None

    def move(self, time: float) -> None:
        """Poses the person for a time in seconds."""
        speed = float(np.hypot(*self.velocity))
        phase = self.phase + 2 * np.pi * speed * time / STRIDE
        mesh = person_mesh(self.clothes, phase, speed > 0)
        if self.body is None:
            self.body = place(mesh, PERSON, scale=self.scale)
        else:
            old, self.body.data = self.body.data, mesh
            bpy.data.meshes.remove(old)
        x, y, z = self.start
        self.body.location = (x + self.velocity[0] * time, y + self.velocity[1] * time, z)
        yaw = np.arctan2(-self.velocity[0], self.velocity[1]) if speed > 0 else self.facing
        self.body.rotation_euler = (0.0, 0.0, yaw)
