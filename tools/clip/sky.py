"""Daylight: a sky with clouds, and the sun."""

from __future__ import annotations

import bpy
import numpy as np

SKY_STRENGTH, SUN_STRENGTH = 0.20, 4.5
CLOUD_LIGHT, CLOUD_SEEN = (1.46, 1.40, 1.33), (1.50, 1.58, 1.68)
EXPOSURE = 0.8
"""What a camera set for this light multiplies it by, before its tone curve."""


def build_sky(elevation: float, azimuth: float) -> None:
    """Puts sky and sun into the scene.

    Args:
        elevation: of the sun above the horizon, in radians.
        azimuth: of the sun, in radians from forward (+y) to the right (+x).
    """
    _world(elevation, azimuth)
    lamp = bpy.data.lights.new("sun", "SUN")
    lamp.energy, lamp.angle = SUN_STRENGTH, np.radians(0.6)
    lamp.color = (1.0, 0.93, 0.82)
    sun = bpy.data.objects.new("sun", lamp)
    # A lamp shines along its own -z.
    sun.rotation_euler = (np.pi / 2 - elevation, 0.0, np.pi - azimuth)
    bpy.context.scene.collection.objects.link(sun)


def _world(elevation: float, azimuth: float) -> None:
    world = bpy.data.worlds.new("day")
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    sky = nodes.new("ShaderNodeTexSky")
    sky.sky_type = "MULTIPLE_SCATTERING"
    sky.sun_disc = False
    sky.sun_elevation, sky.sun_rotation = elevation, azimuth
    dimmed = nodes.new("ShaderNodeVectorMath")
    dimmed.operation = "SCALE"
    dimmed.inputs["Scale"].default_value = SKY_STRENGTH
    links.new(sky.outputs[0], dimmed.inputs[0])

    direction = nodes.new("ShaderNodeTexCoord")
    flat = nodes.new("ShaderNodeMapping")
    flat.inputs["Scale"].default_value = (1.0, 1.0, 3.2)
    links.new(direction.outputs["Generated"], flat.inputs["Vector"])
    noise = nodes.new("ShaderNodeTexNoise")
    for name, value in (("Scale", 2.3), ("Detail", 9.0), ("Roughness", 0.58)):
        noise.inputs[name].default_value = value
    links.new(flat.outputs[0], noise.inputs["Vector"])
    cover = nodes.new("ShaderNodeMapRange")
    for name, value in (
        ("From Min", 0.40),
        ("From Max", 0.72),
        ("To Min", 0.45),
        ("To Max", 0.95),
    ):
        cover.inputs[name].default_value = value
    links.new(noise.outputs[0], cover.inputs["Value"])

    # Seen, the sky is blue between white clouds; its light on the street is kept neutral, as a
    # camera's white balance would have it.
    seen = nodes.new("ShaderNodeLightPath").outputs["Is Camera Ray"]
    thinner = nodes.new("ShaderNodeMath")
    thinner.operation, thinner.use_clamp = "MULTIPLY_ADD", True
    thinner.inputs[1].default_value = -0.40
    links.new(seen, thinner.inputs[0])
    links.new(cover.outputs["Result"], thinner.inputs[2])
    cloud = nodes.new("ShaderNodeMixRGB")
    cloud.inputs["Color1"].default_value = (*CLOUD_LIGHT, 1.0)
    cloud.inputs["Color2"].default_value = (*CLOUD_SEEN, 1.0)
    links.new(seen, cloud.inputs["Fac"])

    both = nodes.new("ShaderNodeMixRGB")
    links.new(thinner.outputs[0], both.inputs["Fac"])
    links.new(dimmed.outputs[0], both.inputs["Color1"])
    links.new(cloud.outputs["Color"], both.inputs["Color2"])
    links.new(both.outputs["Color"], nodes["Background"].inputs["Color"])
    # Cycles samples the sky by its brightness; it changes too slowly to need a finer map.
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 256
    bpy.context.scene.world = world
