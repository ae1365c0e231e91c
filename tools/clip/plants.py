"""Trees and hedges made of single leaves, so that light and labels pass between them."""

from __future__ import annotations

import bpy
import numpy as np

from clip import materials
from clip.meshes import MeshBuilder

BARK = ((0.05, 0.04, 0.03), (0.13, 0.11, 0.085))
GREENS = (
    ((0.030, 0.075, 0.012), (0.085, 0.150, 0.030)),
    ((0.022, 0.058, 0.014), (0.065, 0.115, 0.028)),
    ((0.050, 0.085, 0.014), (0.125, 0.165, 0.035)),
)


def leaf_quads(centres: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """One leaf at each centre, turned at random but rather facing up; (N, 4, 3)."""
    count = len(centres)
    normal = rng.normal(size=(count, 3)) + np.array([0.0, 0.0, 0.7])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    first = np.cross(normal, rng.normal(size=(count, 3)))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(normal, first)
    length = size * rng.uniform(0.7, 1.4, (count, 1))
    tip, side = first * length, second * length * 0.55
    return np.stack([centres - tip, centres + side, centres + tip, centres - side], axis=1)


def tree_mesh(seed: int, height: float, crown: float, leaf_count: int = 14000) -> bpy.types.Mesh:
    """A street tree: bare trunk, boughs, round crown.

    Args:
        seed: chooses the tree.
        height: of the crown's top, in metres.
        crown: the crown's radius, in metres.
        leaf_count: how many leaves it carries.
    """
    rng = np.random.default_rng(seed)
    bark = materials.rough(*BARK, 11.0, 0.05)
    builder = MeshBuilder()
    middle = height - 1.15 * crown
    lean = rng.normal(0, 0.10, 2)
    trunk = [(0, 0, -0.1), (0.0, 0.0, 0.4), (*(0.5 * lean), 0.5 * middle), (*lean, middle)]
    builder.tube(trunk, [0.21, 0.15, 0.125, 0.09], bark, 9)
    fork = np.array([*(0.9 * lean), 0.8 * middle])
    clusters = []
    for _ in range(46):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        reach = crown * rng.uniform(0.35, 0.92) * np.array([1.0, 1.0, 1.1])
        clusters.append(np.array([*lean, middle + 0.1 * crown]) + direction * reach)
    for centre in clusters[::3]:
        bend = (fork + centre) / 2 + [0, 0, -0.25]
        builder.tube([fork, bend, centre], [0.06, 0.04, 0.012], bark, 6)
    centres = np.concatenate(
        [
            centre + rng.normal(0, 0.24 * crown, (leaf_count // len(clusters), 3)) * [1, 1, 0.75]
            for centre in clusters
        ]
    )
    green = materials.leaves(*GREENS[seed % len(GREENS)])
    builder.quads(leaf_quads(centres, 0.085, rng), green)
    return builder.mesh(f"tree {seed}")


def hedge_mesh(seed: int, length: float, height: float, width: float) -> bpy.types.Mesh:
    """A clipped hedge along y, starting at the origin."""
    rng = np.random.default_rng(seed)
    builder = MeshBuilder()
    soil = materials.rough((0.012, 0.02, 0.006), (0.03, 0.045, 0.012), 9.0)
    inner = (0.75 * width, length - 0.2, height - 0.12)
    builder.box((0, length / 2, height / 2 - 0.06), inner, soil)
    count = int(900 * length * height)
    centres = rng.uniform((-width / 2, 0, 0), (width / 2, length, height), (count, 3))
    # Leaves crowd at the clipped surface.
    axis = rng.integers(0, 3, count)
    low, high = np.array([-width / 2, 0, 0]), np.array([width / 2, length, height])
    end = np.where(rng.random(count) < 0.5, low[axis], high[axis])
    centres[np.arange(count), axis] = end + rng.normal(0, 0.04, count)
    centres[:, 2] = np.maximum(centres[:, 2], 0.03)
    builder.quads(leaf_quads(centres, 0.045, rng), materials.leaves(*GREENS[seed % 2]))
    return builder.mesh(f"hedge {seed}")
