# SPDX-License-Identifier: Apache-2.0
"""Draws the rooms of the project and who imports whom, as docs/images/architecture.svg.

    python -m tools.draw_architecture

A room is a folder of the package, one of its loose modules, or training, tools or benchmarks. It
stands above all that it imports. Arrows that a longer way implies are left out, and those to
``errors``, which nearly all have. ``test/tools/test_draw_architecture.py`` fails when the picture
is no longer that of the code.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "images" / "architecture.svg"
PACKAGE = "anomaly_seg_ros"
OUTSIDE = ("training", "tools", "benchmarks")
GROUND = "errors"

_WIDTH, _BOX, _HEIGHT, _GAP, _FLOOR = 1180, 176, 70, 16, 112
_COLOURS = {PACKAGE: "#e8f0f8", "training": "#fbe6e6", "tools": "#efe8f8", "benchmarks": "#e6f5e8"}


def room_of(module: str) -> str | None:
    """The room of a dotted module name; None for what is no room, such as the front door."""
    top, *rest = module.split(".")
    if top in OUTSIDE:
        return top
    return rest[0] if top == PACKAGE and rest else None


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = (path for top in (PACKAGE, *OUTSIDE) for path in (REPOSITORY / top).rglob("*.py"))
    parts = {path: path.relative_to(REPOSITORY).with_suffix("").parts for path in paths}
    return {".".join(parts[path]).removesuffix(".__init__"): path for path in parts}


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module, path in modules().items():
        if (room := room_of(module)) is None:
            continue
        targets = {room_of(name) for name in imports(path)}
        found.setdefault(room, set()).update(targets - {room, None})
    return {room: targets & found.keys() for room, targets in found.items()}


def floors(uses: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> floor, 1 at the bottom.

    Raises:
        ValueError: Rooms import each other in a circle; the message names them.
    """
    placed: dict[str, int] = {}
    while left := uses.keys() - placed.keys():
        ready = {room for room in left if uses[room] <= placed.keys()}
        if not ready:
            raise ValueError(f"rooms import each other in a circle: {', '.join(sorted(left))}")
        placed |= {room: 1 + max((placed[t] for t in uses[room]), default=0) for room in ready}
    return placed


def reachable(uses: Mapping[str, set[str]], room: str) -> set[str]:
    """Rooms that a room reaches by any way."""
    return uses[room].union(*(reachable(uses, target) for target in uses[room]))


def drawn_arrows(uses: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows that no longer way implies, without those to the ground."""
    return [
        (room, target)
        for room in sorted(uses)
        for target in sorted(uses[room] - {GROUND})
        if not any(target in reachable(uses, other) for other in uses[room] - {target})
    ]


def says(room: str) -> str:
    """The first sentence of a room's docstring."""
    where = REPOSITORY if room in OUTSIDE else REPOSITORY / PACKAGE
    path = where / room / "__init__.py"
    path = path if path.exists() else where / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    text = re.sub(r":\w+:`~?\.*(?:\w+\.)*(\w+)`", r"\1", text).replace("``", "")
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].split("; ")[0].rstrip(".:")


def svg() -> str:
    """The picture."""
    uses = arrows()
    level = floors(uses)
    top = max(level.values())
    corner: dict[str, tuple[float, float]] = {}
    for floor in range(top, 0, -1):
        rooms = sorted(room for room in level if level[room] == floor)
        # Near those that use it, so that arrows run short ways.
        centre = {
            room: [corner[user][0] for user in uses if room in uses[user] and user in corner]
            for room in rooms
        }
        rooms.sort(key=lambda room: sum(centre[room]) / len(centre[room]) if centre[room] else 0)
        free = _WIDTH - len(rooms) * _BOX
        gap = min(free / (len(rooms) + 1), 90)
        left = (_WIDTH - len(rooms) * _BOX - (len(rooms) - 1) * gap) / 2
        for index, room in enumerate(rooms):
            corner[room] = (left + index * (_BOX + gap), _GAP + (top - floor) * _FLOOR)
    height = 2 * _GAP + (top - 1) * _FLOOR + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#7a8794"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for room, target in drawn_arrows(uses):
        (x0, y0), (x1, y1) = corner[room], corner[target]
        x0, y0, x1 = x0 + _BOX / 2, y0 + _HEIGHT, x1 + _BOX / 2
        bend = min((y1 - y0) / 2, 60)
        lines.append(
            f'<path d="M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} '
            f'{x1:.0f} {y1:.0f}" fill="none" stroke="#7a8794" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in corner.items():
        colour = _COLOURS[room if room in OUTSIDE else PACKAGE]
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5" '
            f'fill="{colour}" stroke="#34495e"/>'
        )
        lines.append(f'<text x="{x + 8:.0f}" y="{y + 18:.0f}" font-weight="bold" font-size="13">'
                     f"{escape(room)}</text>")  # fmt: skip
        for row, text in enumerate(textwrap.wrap(says(room), 33, max_lines=3, placeholder=" ...")):
            lines.append(
                f'<text x="{x + 8:.0f}" y="{y + 34 + 13 * row:.0f}" font-size="10" '
                f'fill="#445">{escape(text)}</text>'
            )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    """Writes the picture."""
    PICTURE.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
