"""Two Cycles passes a frame: light for the picture, and ids with depth for the ground truth."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from clip.camera import ClipCamera


class FrameRenderer:
    """Renders the scene that is open in Blender, on the CPU.

    Args:
        camera: intrinsics and drive.
        samples: light paths a pixel, before denoising.
        scratch: a folder for the passes on their way out of Blender.
    """

    def __init__(self, camera: ClipCamera, samples: int, scratch: Path) -> None:
        self.camera, self.samples, self.scratch = camera, samples, scratch
        self.scene = bpy.context.scene
        self.view_layer = bpy.context.view_layer
        self._day = self.scene.world
        self._night = bpy.data.worlds.new("nothing")
        self._night.use_nodes = True
        self._night.node_tree.nodes["Background"].inputs["Color"].default_value = (0, 0, 0, 1)
        self._ids = _id_material()
        self._eye = self._mount()
        self._settings()

    def _mount(self) -> bpy.types.Object:
        lens = bpy.data.cameras.new("camera")
        lens.sensor_fit = "HORIZONTAL"
        lens.sensor_width = 36.0
        lens.lens = self.camera.fx * lens.sensor_width / self.camera.width
        lens.clip_end = 2000.0
        eye = bpy.data.objects.new("camera", lens)
        self.scene.collection.objects.link(eye)
        self.scene.camera = eye
        return eye

    def _settings(self) -> None:
        render, cycles = self.scene.render, self.scene.cycles
        render.engine = "CYCLES"
        render.resolution_x, render.resolution_y = self.camera.width, self.camera.height
        render.resolution_percentage = 100
        render.use_persistent_data = True
        render.image_settings.file_format = "OPEN_EXR"
        render.image_settings.color_mode = "RGB"
        render.image_settings.color_depth = "32"
        cycles.device = "CPU"
        cycles.seed = 0
        cycles.use_adaptive_sampling = False
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 1
        cycles.transmission_bounces = 1
        cycles.use_light_tree = False
        # After the first bounce ambient occlusion stands in for light: half the time, same look.
        cycles.use_fast_gi, cycles.fast_gi_method = True, "REPLACE"
        cycles.ao_bounces_render = 1
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.sample_clamp_indirect = 6.0
        cycles.denoiser = "OPENIMAGEDENOISE"
        cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
        cycles.denoising_prefilter, cycles.denoising_quality = "FAST", "BALANCED"

    def aim(self, time: float) -> None:
        """Moves the camera to a time in seconds."""
        self._eye.location = self.camera.position(time)
        self._eye.rotation_euler = (np.pi / 2 - self.camera.pitch(time), 0.0, 0.0)

    def light(self) -> np.ndarray:
        """The picture as linear light, (H, W, 3) float32."""
        cycles = self.scene.cycles
        self.scene.world, self.view_layer.material_override = self._day, None
        cycles.samples = self.samples
        cycles.use_denoising = True
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        return self._render()

    def ids_and_depth(self) -> tuple[np.ndarray, np.ndarray]:
        """Class id of what each pixel's centre hits, and its depth along the optical axis.

        Returns:
            ids: (H, W) int, -1 where nothing is hit.
            depth: (H, W) float32 in metres, infinite where nothing is hit.
        """
        cycles = self.scene.cycles
        self.scene.world, self.view_layer.material_override = self._night, self._ids
        cycles.samples = 1
        cycles.use_denoising = False
        # One ray through the middle of each pixel: no id is ever mixed with another.
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
        passes = self._render()
        ids = np.rint(passes[..., 0]).astype(np.int32) - 1
        return ids, np.where(ids >= 0, passes[..., 1], np.inf).astype(np.float32)

    def _render(self) -> np.ndarray:
        target = self.scratch / "pass.exr"
        self.scene.render.filepath = str(target)
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(str(target), check_existing=False)
        image.colorspace_settings.name = "Non-Color"
        pixels = np.empty(self.camera.height * self.camera.width * 4, dtype=np.float32)
        image.pixels.foreach_get(pixels)
        bpy.data.images.remove(image)
        target.unlink()
        # Blender's first row is the lowest.
        return pixels.reshape(self.camera.height, self.camera.width, 4)[::-1, :, :3].copy()


def _id_material() -> bpy.types.Material:
    """Shines with (class id + 1, depth in metres, 0) instead of a colour."""
    material = bpy.data.materials.new("ids")
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    pair = tree.nodes.new("ShaderNodeCombineXYZ")
    index = tree.nodes.new("ShaderNodeObjectInfo")
    view = tree.nodes.new("ShaderNodeCameraData")
    tree.links.new(index.outputs["Object Index"], pair.inputs["X"])
    tree.links.new(view.outputs["View Z Depth"], pair.inputs["Y"])
    tree.links.new(pair.outputs[0], emission.inputs["Color"])
    tree.links.new(emission.outputs[0], output.inputs["Surface"])
    material.cycles.emission_sampling = "NONE"
    return material
