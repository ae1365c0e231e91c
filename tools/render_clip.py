#!/usr/bin/env python3
"""Renders the demo clip: a drive along a made-up street, with exact ground truth.

It needs Blender's Python module and OpenCV, which the package itself does not need::

    python3.11 -m venv .blender && .blender/bin/pip install bpy==5.0.1 opencv-python-headless tqdm
    .blender/bin/python tools/render_clip.py --out assets/demo_clip
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDERS = {"images": "jpg", "labels": "png", "anomaly_mask": "png", "disparity": "png"}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="render_clip", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the clip")
    parser.add_argument("--frames", type=int, default=40, help="number of frames (%(default)s)")
    parser.add_argument("--start", type=int, default=0, help="first frame (%(default)s)")
    parser.add_argument("--step", type=int, default=1, help="render each n-th frame only")
    parser.add_argument(
        "--samples", type=int, default=32, help="light paths a pixel (%(default)s)"
    )
    parser.add_argument("--quality", type=int, default=88, help="of the JPEG files (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 = one a core (%(default)s)")
    arguments = parser.parse_args(argv)
    for name, least in (("frames", 1), ("start", 0), ("step", 1), ("samples", 1), ("threads", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if not 1 <= arguments.quality <= 100:
        parser.error("--quality must be from 1 to 100")
    return arguments


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what Blender prints on the process's own standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _paths(out: Path, frame: int) -> dict[str, Path]:
    return {name: out / name / f"{frame:03d}.{end}" for name, end in FOLDERS.items()}


def _render(arguments: argparse.Namespace) -> None:
    import bpy
    from tqdm import tqdm

    from clip.camera import ClipCamera
    from clip.developing import develop, disparity, encode_image, encode_map, labels_and_mask
    from clip.rendering import FrameRenderer
    from clip.scene import build_scene
    from clip.sky import EXPOSURE

    camera = ClipCamera()
    for name in FOLDERS:
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    last = arguments.start + arguments.frames
    frames = [
        frame
        for frame in range(arguments.start, last, arguments.step)
        if not all(path.exists() for path in _paths(arguments.out, frame).values())
    ]
    _write(arguments.out / "camera.json", (json.dumps(camera.to_json(), indent=2) + "\n").encode())
    if not frames:
        print("render_clip: all frames are there already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        with _quiet():
            move = build_scene()
            renderer = FrameRenderer(camera, arguments.samples, Path(scratch))
            if arguments.threads:
                bpy.context.scene.render.threads_mode = "FIXED"
                bpy.context.scene.render.threads = arguments.threads
        for frame in tqdm(frames, unit="frame", desc="rendering"):
            time = frame / camera.frame_rate
            with _quiet():
                move(time)
                renderer.aim(time)
                light = renderer.light()
                ids, depth = renderer.ids_and_depth()
            labels, mask = labels_and_mask(ids)
            paths = _paths(arguments.out, frame)
            image = develop(light, EXPOSURE, seed=frame)
            _write(paths["images"], encode_image(image, arguments.quality))
            _write(paths["labels"], encode_map(labels))
            _write(paths["anomaly_mask"], encode_map(mask))
            _write(paths["disparity"], encode_map(disparity(depth, camera)))


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; gives its exit status."""
    arguments = _arguments(argv)
    try:
        _render(arguments)
    except ModuleNotFoundError as error:
        print(
            f"render_clip: error: Python module {error.name!r} is not installed; this tool needs "
            "'pip install bpy==5.0.1 opencv-python-headless tqdm' in an environment of "
            "CPython 3.11",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"render_clip: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
