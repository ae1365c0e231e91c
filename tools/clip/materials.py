"""Procedural materials: every colour and bump is computed from noise, none from a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import bpy

Colour = tuple[float, float, float]
Socket = bpy.types.NodeSocket


class Graph:
    """A thin hand on a material's node tree, with its Principled BSDF as ``bsdf``."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.bsdf = self.tree.nodes["Principled BSDF"]
        self.output = self.tree.nodes["Material Output"]

    def node(self, kind: str, **inputs: object) -> bpy.types.Node:
        """Adds a node; inputs are values or sockets, ``Base_Color`` naming ``Base Color``."""
        node = self.tree.nodes.new(f"ShaderNode{kind}")
        for name, value in inputs.items():
            self.connect(node.inputs[name.replace("_", " ")], value)
        return node

    def connect(self, socket: Socket, value: object) -> None:
        """Links a socket to an input, or sets the input's value."""
        if isinstance(value, Socket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def world_position(self) -> Socket:
        """The point in the world: textures of things that stand still."""
        return self.node("NewGeometry").outputs["Position"]

    def object_position(self) -> Socket:
        """The point in the object's own frame: textures of things that move."""
        return self.node("TexCoord").outputs["Object"]

    def math(self, operation: str, *values: object) -> Socket:
        """One arithmetic step."""
        node = self.node("Math")
        node.operation = operation
        for socket, value in zip(node.inputs, values, strict=False):
            self.connect(socket, value)
        return node.outputs[0]

    def noise(
        self, vector: Socket, scale: float, detail: float = 3.0, roughness: float = 0.55
    ) -> Socket:
        """Fractal noise, about 0.3 to 0.7."""
        node = self.node(
            "TexNoise", Vector=vector, Scale=scale, Detail=detail, Roughness=roughness
        )
        return node.outputs[0]

    def ramp(self, factor: Socket, stops: Sequence[tuple[float, Colour]]) -> Socket:
        """A colour ramp through the stops."""
        node = self.node("ValToRGB", Fac=factor)
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, colour) in zip(elements, stops, strict=True):
            element.position, element.color = position, (*colour, 1.0)
        return node.outputs["Color"]

    def mix(self, factor: object, first: object, second: object, blend: str = "MIX") -> Socket:
        """Mixes two colours."""
        node = self.node("MixRGB")
        node.blend_type = blend
        for name, value in (("Fac", factor), ("Color1", first), ("Color2", second)):
            if isinstance(value, tuple):
                value = (*value, 1.0)
            self.connect(node.inputs[name], value)
        return node.outputs["Color"]

    def threshold(self, value: Socket, low: float, high: float) -> Socket:
        """0 below low, 1 above high, linear between them."""
        node = self.node("MapRange", Value=value)
        node.inputs["From Min"].default_value = low
        node.inputs["From Max"].default_value = high
        return node.outputs["Result"]

    def bump(self, height: Socket, strength: float, distance: float) -> None:
        """Bends the surface's normal by a height field; distance in metres."""
        node = self.node("Bump", Height=height, Strength=strength, Distance=distance)
        self.connect(self.bsdf.inputs["Normal"], node.outputs["Normal"])

    def finish(self, **inputs: object) -> bpy.types.Material:
        """Sets the surface's inputs and gives the material."""
        for name, value in inputs.items():
            if isinstance(value, tuple):
                value = (*value, 1.0)
            self.connect(self.bsdf.inputs[name.replace("_", " ")], value)
        return self.material

    def simplify_indirect(self, colour: Colour) -> bpy.types.Material:
        """Lets light that bounces off see one plain colour, which Cycles shades far faster."""
        seen = self.node("LightPath").outputs["Is Camera Ray"]
        choice = self.node("MixShader", Fac=seen)
        simple = self.node("BsdfDiffuse", Color=(*colour, 1.0))
        self.connect(choice.inputs[1], simple.outputs[0])
        self.connect(choice.inputs[2], self.bsdf.outputs[0])
        self.connect(self.output.inputs["Surface"], choice.outputs[0])
        return self.material


def _between(first: Colour, second: Colour) -> Colour:
    return tuple((a + b) / 2 for a, b in zip(first, second, strict=True))


@cache
def plain(colour: Colour, roughness: float = 0.7, metallic: float = 0.0) -> bpy.types.Material:
    """One colour with a little dirt, in the object's own frame."""
    graph = Graph("plain")
    dirt = graph.noise(graph.object_position(), 3.0, 5.0)
    shade = graph.ramp(dirt, [(0.25, tuple(0.72 * c for c in colour)), (0.6, colour)])
    graph.finish(Base_Color=shade, Roughness=roughness, Metallic=metallic)
    return graph.simplify_indirect(colour)


@cache
def asphalt(base: float = 0.12, cracks: bool = True) -> bpy.types.Material:
    """Road surface: stone grain, stains, worn wheel tracks, cracks."""
    graph = Graph("asphalt")
    position = graph.world_position()
    grain = graph.noise(position, 55.0, 4.0, 0.75)
    stains = graph.noise(position, 0.45, 6.0, 0.6)
    dark, light = 0.60 * base, 1.45 * base
    colour = graph.ramp(
        grain, [(0.32, (dark, dark, 1.04 * dark)), (0.68, (light, 0.99 * light, 0.96 * light))]
    )
    stain_colour = graph.ramp(stains, [(0.34, (0.62,) * 3), (0.62, (1.12,) * 3)])
    colour = graph.mix(1.0, colour, stain_colour, "MULTIPLY")
    # Tyres polish two tracks in each lane: dark bands along y, one every 1.6 m.
    x = graph.node("SeparateXYZ", Vector=position).outputs["X"]
    wave = graph.math("COSINE", graph.math("MULTIPLY", x, 2 * 3.14159 / 1.6))
    tracks = graph.math("MULTIPLY", graph.threshold(wave, -0.2, 1.0), 0.16)
    colour = graph.mix(tracks, colour, (0.35 * base,) * 3)
    if cracks:
        bent = graph.node("VectorMath")
        bent.operation = "ADD"
        wobble = graph.node("TexNoise", Vector=position, Scale=1.7, Detail=4.0)
        graph.connect(bent.inputs[0], position)
        graph.connect(bent.inputs[1], wobble.outputs["Color"])
        cells = graph.node("TexVoronoi", Vector=bent.outputs[0], Scale=0.33)
        cells.feature = "DISTANCE_TO_EDGE"
        line = graph.threshold(cells.outputs["Distance"], 0.008, 0.003)
        some = graph.threshold(graph.noise(position, 0.12, 2.0), 0.46, 0.54)
        colour = graph.mix(graph.math("MULTIPLY", line, some), colour, (0.02, 0.02, 0.02))
    graph.bump(grain, 0.5, 0.01)
    graph.finish(Base_Color=colour, Roughness=0.82)
    return graph.simplify_indirect((base, base, base))


@cache
def road_paint() -> bpy.types.Material:
    """White lane marking, worn down to grey in places."""
    graph = Graph("road paint")
    position = graph.world_position()
    wear = graph.threshold(graph.noise(position, 9.0, 8.0, 0.75), 0.38, 0.58)
    colour = graph.mix(wear, (0.17, 0.17, 0.17), (0.62, 0.62, 0.60))
    graph.finish(Base_Color=colour, Roughness=0.6)
    return graph.simplify_indirect((0.45, 0.45, 0.45))


@cache
def pavers(tone: Colour = (0.27, 0.255, 0.235), size: float = 0.32) -> bpy.types.Material:
    """Concrete slabs with dark joints."""
    graph = Graph("pavers")
    position = graph.world_position()
    bricks = graph.node("TexBrick", Vector=position, Scale=1.0)
    bricks.offset = 0.5
    for name, value in (
        ("Brick Width", size),
        ("Row Height", size),
        ("Mortar Size", 0.012),
        ("Color1", (*tone, 1.0)),
        ("Color2", (*(0.86 * c for c in tone), 1.0)),
        ("Mortar", (*(0.55 * c for c in tone), 1.0)),
    ):
        bricks.inputs[name].default_value = value
    dirt = graph.noise(position, 0.9, 8.0, 0.65)
    colour = graph.mix(
        1.0,
        bricks.outputs["Color"],
        graph.ramp(dirt, [(0.3, (0.6,) * 3), (0.65, (1.1,) * 3)]),
        "MULTIPLY",
    )
    graph.bump(bricks.outputs["Factor"], -0.5, 0.01)
    graph.finish(Base_Color=colour, Roughness=0.85)
    return graph.simplify_indirect(tuple(0.85 * c for c in tone))


@cache
def rough(
    first: Colour, second: Colour, scale: float, bump: float = 0.02, roughness: float = 0.85
) -> bpy.types.Material:
    """Two colours mixed by noise, for stone, soil, bark, roofs and grass."""
    graph = Graph("rough")
    noise = graph.noise(graph.world_position(), scale, 6.0, 0.65)
    graph.bump(noise, 0.6, bump)
    graph.finish(
        Base_Color=graph.ramp(noise, [(0.35, first), (0.65, second)]), Roughness=roughness
    )
    return graph.simplify_indirect(_between(first, second))


@cache
def plaster(colour: Colour) -> bpy.types.Material:
    """Painted plaster with rain streaks and dirt near the ground."""
    graph = Graph("plaster")
    position = graph.world_position()
    stretch = graph.node("Mapping", Vector=position)
    stretch.inputs["Scale"].default_value = (1.6, 1.6, 0.14)
    streaks = graph.noise(stretch.outputs[0], 1.0, 6.0, 0.65)
    shade = graph.ramp(streaks, [(0.32, (0.70, 0.69, 0.67)), (0.58, (1.0, 1.0, 1.0))])
    shaded = graph.mix(1.0, colour, shade, "MULTIPLY")
    height = graph.node("SeparateXYZ", Vector=position).outputs["Z"]
    foot = graph.math("MULTIPLY", graph.threshold(height, 1.1, 0.1), 0.45)
    shaded = graph.mix(foot, shaded, tuple(0.45 * c for c in colour))
    graph.bump(graph.noise(position, 28.0, 4.0), 0.35, 0.01)
    graph.finish(Base_Color=shaded, Roughness=0.9)
    return graph.simplify_indirect(tuple(0.85 * c for c in colour))


@cache
def brick(
    first: Colour, second: Colour, mortar: Colour = (0.42, 0.40, 0.36)
) -> bpy.types.Material:
    """Bricks on upright walls along x or y."""
    graph = Graph("brick")
    position = graph.world_position()
    parts = graph.node("SeparateXYZ", Vector=position).outputs
    # On a wall one of x and y is constant, so their sum runs along either kind of wall.
    flat = graph.node("CombineXYZ", X=graph.math("ADD", parts["X"], parts["Y"]), Y=parts["Z"])
    bricks = graph.node("TexBrick", Vector=flat.outputs[0], Scale=1.0)
    for name, value in (
        ("Brick Width", 0.25),
        ("Row Height", 0.083),
        ("Mortar Size", 0.010),
        ("Color1", (*first, 1.0)),
        ("Color2", (*second, 1.0)),
        ("Mortar", (*mortar, 1.0)),
    ):
        bricks.inputs[name].default_value = value
    stains = graph.ramp(graph.noise(position, 0.6, 7.0), [(0.3, (0.6,) * 3), (0.65, (1.1,) * 3)])
    graph.bump(bricks.outputs["Factor"], -0.6, 0.01)
    graph.finish(
        Base_Color=graph.mix(1.0, bricks.outputs["Color"], stains, "MULTIPLY"), Roughness=0.9
    )
    return graph.simplify_indirect(_between(first, second))


@cache
def tiles(colour: Colour) -> bpy.types.Material:
    """Roof tiles in rows up the slope."""
    graph = Graph("tiles")
    position = graph.world_position()
    parts = graph.node("SeparateXYZ", Vector=position).outputs
    rows = graph.math("FRACT", graph.math("MULTIPLY", parts["Z"], 4.5))
    columns = graph.math("SINE", graph.math("MULTIPLY", parts["Y"], 26.0))
    shade = graph.ramp(rows, [(0.0, tuple(0.45 * c for c in colour)), (0.5, colour)])
    stains = graph.ramp(graph.noise(position, 1.3, 6.0), [(0.3, (0.5,) * 3), (0.7, (1.2,) * 3)])
    graph.bump(graph.math("ADD", rows, graph.math("MULTIPLY", columns, 0.4)), 0.7, 0.04)
    graph.finish(Base_Color=graph.mix(1.0, shade, stains, "MULTIPLY"), Roughness=0.75)
    return graph.simplify_indirect(tuple(0.75 * c for c in colour))


@cache
def window_glass(inside: Colour) -> bpy.types.Material:
    """A pane seen from the street: a dim room behind a mirror."""
    graph = Graph("window glass")
    rooms = graph.noise(graph.world_position(), 0.8, 2.0)
    colour = graph.ramp(rooms, [(0.35, tuple(0.4 * c for c in inside)), (0.65, inside)])
    graph.finish(Base_Color=colour, Roughness=0.04, Specular_IOR_Level=0.5)
    return graph.simplify_indirect(tuple(0.7 * c for c in inside))


@cache
def car_paint() -> bpy.types.Material:
    """Clear-coated paint in the colour of the object that carries it."""
    graph = Graph("car paint")
    colour = graph.node("ObjectInfo").outputs["Color"]
    height = graph.node("SeparateXYZ", Vector=graph.object_position()).outputs["Z"]
    dust = graph.math("MULTIPLY", graph.threshold(height, 0.75, 0.2), 0.35)
    return graph.finish(
        Base_Color=graph.mix(dust, colour, (0.16, 0.14, 0.12)),
        Roughness=0.35,
        Metallic=0.25,
        Coat_Weight=0.5,
        Coat_Roughness=0.05,
    )


@cache
def lamp(colour: Colour, strength: float) -> bpy.types.Material:
    """A light that glows but is too weak to be worth sampling as a light source."""
    material = Graph("lamp").finish(
        Base_Color=colour, Roughness=0.15, Emission_Color=colour, Emission_Strength=strength
    )
    material.cycles.emission_sampling = "NONE"
    return material


@cache
def leaves(first: Colour, second: Colour) -> bpy.types.Material:
    """Foliage: each leaf its own shade, and some light shining through."""
    graph = Graph("leaves")
    chance = graph.node("NewGeometry").outputs["Random Per Island"]
    colour = graph.ramp(chance, [(0.0, first), (1.0, second)])
    through = graph.node("BsdfTranslucent", Color=colour)
    graph.finish(Base_Color=colour, Roughness=0.6, Specular_IOR_Level=0.3)
    both = graph.node("MixShader", Fac=0.35)
    graph.connect(both.inputs[1], graph.bsdf.outputs[0])
    graph.connect(both.inputs[2], through.outputs[0])
    graph.connect(graph.output.inputs["Surface"], both.outputs[0])
    return graph.material


@cache
def cardboard() -> bpy.types.Material:
    """Brown corrugated board."""
    graph = Graph("cardboard")
    position = graph.object_position()
    flutes = graph.math(
        "SINE",
        graph.math("MULTIPLY", graph.node("SeparateXYZ", Vector=position).outputs["Z"], 160.0),
    )
    shade = graph.ramp(
        graph.noise(position, 4.0, 6.0), [(0.3, (0.27, 0.165, 0.08)), (0.7, (0.42, 0.27, 0.14))]
    )
    graph.bump(flutes, 0.2, 0.003)
    graph.finish(Base_Color=shade, Roughness=0.85)
    return graph.simplify_indirect((0.34, 0.21, 0.11))


@cache
def fur(back: Colour, belly: Colour) -> bpy.types.Material:
    """An animal's coat, darker on the back than below."""
    graph = Graph("fur")
    position = graph.object_position()
    height = graph.node("SeparateXYZ", Vector=position).outputs["Z"]
    shade = graph.mix(graph.threshold(height, 0.62, 0.85), belly, back)
    hairs = graph.noise(position, 45.0, 5.0, 0.7)
    graph.bump(hairs, 0.6, 0.01)
    speckle = graph.ramp(hairs, [(0.3, (0.65,) * 3), (0.7, (1.15,) * 3)])
    graph.finish(
        Base_Color=graph.mix(1.0, shade, speckle, "MULTIPLY"),
        Roughness=0.85,
        Specular_IOR_Level=0.2,
    )
    return graph.simplify_indirect(_between(back, belly))
