"""Builds meshes from quads, boxes, tubes and lofted sections, and turns them into objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np

Point = Sequence[float]


def set_class(thing: bpy.types.Object, class_id: int) -> bpy.types.Object:
    """Gives an object its class; 0 is kept for "nothing hit", which is the sky."""
    thing.pass_index = class_id + 1
    return thing


@dataclass
class MeshBuilder:
    """Collects vertices and faces, each face with its material."""

    vertices: list[tuple[float, float, float]] = field(default_factory=list)
    faces: list[tuple[int, ...]] = field(default_factory=list)
    face_materials: list[int] = field(default_factory=list)
    materials: list[bpy.types.Material] = field(default_factory=list)

    def _slot(self, material: bpy.types.Material) -> int:
        if material not in self.materials:
            self.materials.append(material)
        return self.materials.index(material)

    def polygon(self, points: Sequence[Point], material: bpy.types.Material) -> None:
        """Adds one face; its points go round it anticlockwise seen from outside."""
        start = len(self.vertices)
        self.vertices.extend(tuple(map(float, point)) for point in points)
        self.faces.append(tuple(range(start, start + len(points))))
        self.face_materials.append(self._slot(material))

    def quads(self, corners: np.ndarray, material: bpy.types.Material) -> None:
        """Adds many quads at once; corners is (N, 4, 3)."""
        start, slot = len(self.vertices), self._slot(material)
        self.vertices.extend(map(tuple, corners.reshape(-1, 3).tolist()))
        for quad in range(len(corners)):
            first = start + 4 * quad
            self.faces.append((first, first + 1, first + 2, first + 3))
            self.face_materials.append(slot)

    def box(
        self,
        centre: Point,
        size: Point,
        material: bpy.types.Material,
        axes: np.ndarray | None = None,
    ) -> None:
        """Adds a box; the rows of axes are its own x, y and z directions."""
        axes = np.eye(3) if axes is None else np.asarray(axes, dtype=float)
        half = np.asarray(size, dtype=float) / 2
        signs = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)])
        start, slot = len(self.vertices), self._slot(material)
        self.vertices.extend(map(tuple, (np.asarray(centre) + (signs * half) @ axes).tolist()))
        for face in (
            (0, 2, 3, 1),
            (4, 5, 7, 6),
            (0, 1, 5, 4),
            (2, 6, 7, 3),
            (0, 4, 6, 2),
            (1, 3, 7, 5),
        ):
            self.faces.append(tuple(start + corner for corner in face))
            self.face_materials.append(slot)

    def loft(
        self,
        sections: np.ndarray,
        materials: Sequence[Sequence[bpy.types.Material]] | bpy.types.Material,
        caps: tuple[bool, bool] = (True, True),
    ) -> None:
        """Joins closed sections into a skin.

        Args:
            sections: (S, P, 3), each section going round the same way.
            materials: one for all, or materials[s][p] for the quad between the sections s and
                s + 1 and the points p and p + 1.
            caps: whether the first and the last section are closed.
        """
        count, around = sections.shape[:2]
        start = len(self.vertices)
        self.vertices.extend(map(tuple, sections.reshape(-1, 3).tolist()))

        def material_of(s: int, p: int) -> bpy.types.Material:
            return materials if isinstance(materials, bpy.types.Material) else materials[s][p]

        for s in range(count - 1):
            for p in range(around):
                following = (p + 1) % around
                here, there = start + s * around, start + (s + 1) * around
                self.faces.append((here + p, here + following, there + following, there + p))
                self.face_materials.append(self._slot(material_of(s, p)))
        if caps[0]:
            self.faces.append(tuple(range(start + around - 1, start - 1, -1)))
            self.face_materials.append(self._slot(material_of(0, 0)))
        if caps[1]:
            last = start + (count - 1) * around
            self.faces.append(tuple(range(last, last + around)))
            self.face_materials.append(self._slot(material_of(count - 2, 0)))

    def tube(
        self,
        points: Sequence[Point],
        radii: Sequence[float] | float,
        material: bpy.types.Material,
        sides: int = 10,
        flatten: float = 1.0,
    ) -> None:
        """Adds a tube along a line of points; flatten squeezes it in its second direction."""
        path = np.asarray(points, dtype=float)
        radius = np.broadcast_to(np.asarray(radii, dtype=float), len(path))
        tangents = np.gradient(path, axis=0)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        # One fixed helper direction keeps the sections from twisting against each other.
        mean = tangents.mean(axis=0)
        helper = np.eye(3)[np.argmin(np.abs(mean))]
        angles = np.arange(sides) * (2 * np.pi / sides)
        sections = np.empty((len(path), sides, 3))
        for index, tangent in enumerate(tangents):
            first = np.cross(helper, tangent)
            first /= np.linalg.norm(first)
            second = np.cross(tangent, first)
            ring = np.cos(angles)[:, None] * first + flatten * np.sin(angles)[:, None] * second
            sections[index] = path[index] + radius[index] * ring
        self.loft(sections, material)

    def capsule(
        self,
        start: Point,
        end: Point,
        radii: tuple[float, float],
        material: bpy.types.Material,
        sides: int = 12,
        flatten: float = 1.0,
    ) -> None:
        """Adds a tapered limb with round ends."""
        first, last = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        along = (last - first) / np.linalg.norm(last - first)
        angles = np.linspace(-np.pi / 2, 0, 4)
        path = [first + along * (radii[0] * np.sin(a)) for a in angles]
        path += [last - along * (radii[1] * np.sin(a)) for a in angles[::-1]]
        radius = [max(radii[0] * np.cos(a), 1e-3) for a in angles]
        radius += [max(radii[1] * np.cos(a), 1e-3) for a in angles[::-1]]
        self.tube(path, radius, material, sides, flatten)

    def ball(
        self,
        centre: Point,
        radii: Point,
        material: bpy.types.Material,
        sides: int = 14,
    ) -> None:
        """Adds an ellipsoid."""
        latitudes = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 1)
        angles = np.arange(sides) * (2 * np.pi / sides)
        ring = np.stack([np.cos(angles), np.sin(angles), np.ones(sides)], axis=1)
        sections = np.stack(
            [ring * [max(np.cos(a), 1e-3), max(np.cos(a), 1e-3), np.sin(a)] for a in latitudes]
        )
        self.loft(np.asarray(centre) + sections * np.asarray(radii, dtype=float), material)

    def mesh(self, name: str, smooth: bool = False) -> bpy.types.Mesh:
        """The collected faces as a Blender mesh."""
        mesh = bpy.data.meshes.new(name)
        mesh.from_pydata(self.vertices, [], self.faces)
        for material in self.materials:
            mesh.materials.append(material)
        mesh.polygons.foreach_set("material_index", np.array(self.face_materials, dtype=np.int32))
        mesh.polygons.foreach_set("use_smooth", np.full(len(self.faces), smooth))
        mesh.update()
        return mesh

    def build(self, name: str, class_id: int, smooth: bool = False) -> bpy.types.Object:
        """The collected faces as an object of one class, in the scene."""
        return place(self.mesh(name, smooth), class_id)


def place(
    mesh: bpy.types.Mesh,
    class_id: int,
    location: Point = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
    scale: float = 1.0,
    parent: bpy.types.Object | None = None,
) -> bpy.types.Object:
    """Puts a mesh into the scene; the same mesh may be placed many times."""
    thing = bpy.data.objects.new(mesh.name, mesh)
    thing.location = location
    thing.rotation_euler = (0.0, 0.0, yaw)
    thing.scale = (scale, scale, scale)
    thing.parent = parent
    bpy.context.scene.collection.objects.link(thing)
    return set_class(thing, class_id)
