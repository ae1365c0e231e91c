# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files beside it: what users, scripts and robots meet of this package.

``python test/golden/write.py [NAME...]`` (all without a name; ``--list`` shows them).

They are made through what keeps its name when the inside is rearranged: the executables of
setup.py, ``python -m anomaly_seg_ros.cli.X`` and ``training.X``, make, files by path, and the ROS
graph. Nothing here imports the package. ``test_golden.py`` makes them again and compares; write
them anew only for a change of behaviour that is meant, and say so in the commit.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
CLIP = "assets/demo_clip"
VARIES = "<varies>"
# Below these keys of a document only the keys stay.
TIMES_AND_MACHINES = (
    *("latency_ms", "peak_memory", "versions", "machine", "seconds", "bag", "threads"),
)
# Notes that tell of this machine only.
_OF_MACHINE = "/dev/shm"
# The network as other machines have it, too: small, eager, float32.
PLAIN = (
    *("--device", "cpu", "--backend", "torch", "--precision", "fp32"),
    *("--inference-size", "256", "512"),
)
TRAINING = (
    *("calibrate", "closed_set", "contact_sheet", "fine_tune", "flow.fit_pointwise"),
    *("pseudo_label", "recipe", "study", "train_flow", "train_style"),
)
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Golden:
    """One golden file.

    Attributes:
        make: Makes its content in an empty folder.
        of_machine: Whether its bytes depend on the CPU and the packages that compute.
        data: Whether it reads the real frames (see ``../shared/data/README.md``).
    """

    make: Callable[[Path], Any]
    of_machine: bool = False
    data: bool = False


class NoDataError(Exception):
    """The real frames are not on this machine."""


# Names.


def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    captured: dict[str, Any] = {}
    with mock.patch("setuptools.setup", lambda **arguments: captured.update(arguments)):
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return captured


def entry_points() -> dict[str, str]:
    """Executable -> ``module:function``."""
    scripts = setup_arguments()["entry_points"]["console_scripts"]
    return dict(re.split(r"\s*=\s*", script) for script in scripts)


def tools() -> list[str]:
    """The executables that are also ``python -m anomaly_seg_ros.cli.X``."""
    return sorted(set(entry_points()) - {"detector"})


def detector_command() -> list[str]:
    """The node, as the installed script starts it."""
    module, function = entry_points()["detector"].split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-c", code]


def make_surfaces(folder: Path) -> Any:
    """Executables, make targets, launch arguments, installed files, configuration keys."""
    import yaml

    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.MULTILINE)
    configs = sorted((REPOSITORY / "training" / "configs").glob("*.yaml"))
    taxonomies = sorted((REPOSITORY / "config" / "taxonomies").glob("*.yaml"))
    documents = {
        f"{path.relative_to(REPOSITORY)}": dict(_flat(yaml.safe_load(path.read_text())))
        for path in (*configs, REPOSITORY / "config" / "detector.yaml")
    }
    return {
        "executables": sorted(entry_points()),
        "make targets": {
            target: sorted(set(re.findall(r"\b([A-Z][A-Z_]+)=", text))) for target, text in targets
        },
        "what make runs": sorted(set(re.findall(r"-m ([a-z_]+\.[a-z_.]+)", makefile))),
        "launch arguments": _launch_arguments(),
        "shared files": sorted(
            f"{folder}/{Path(path).name}"
            for folder, files in setup_arguments()["data_files"]
            for path in files
            if CLIP not in folder
        ),
        "weights": sorted(
            path.name for path in (REPOSITORY / "anomaly_seg_ros" / "weights").glob("*.*")
        ),
        "taxonomies": {
            path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in taxonomies
        },
        "configuration": documents,
    }


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _launch_arguments() -> dict[str, Any]:
    """By the text: launch itself is on an apt ROS only."""
    text = (REPOSITORY / "launch" / "detector.launch.py").read_text(encoding="utf-8")
    return {
        ast.literal_eval(call.args[0]): {
            keyword.arg: ast.literal_eval(keyword.value)
            for keyword in call.keywords
            if keyword.arg != "description"
        }
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument"
    }


def make_options(folder: Path) -> Any:
    """Every option of every tool and entry: default, choices, number of values."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    modules = {
        *(f"anomaly_seg_ros.cli.{tool}" for tool in tools()),
        *(f"training.{entry}" for entry in TRAINING),
        *re.findall(r"-m ((?:tools|benchmarks)\.[a-z_.]+)", makefile),
    }
    found = json.loads(_calls("options", sorted(modules), folder))
    return {module: found.get(module) for module in sorted(modules)}


# Wrong calls.


def make_errors(folder: Path) -> Any:
    """Tool and arguments -> exit code and the error."""
    from golden.wrong_calls import WRONG_CALLS, WRONG_NODES, write_inputs

    write_inputs(folder, REPOSITORY / CLIP)
    _tool("dataset_to_bag", "--root", CLIP, "--limit", "1", "--out", str(folder / "bag"))
    calls = [
        {
            "entry": f"training.{tool[9:]}" if tool.startswith("training.") else f"{CLI}.{tool}",
            "arguments": words.split(),
        }
        for tool, words in WRONG_CALLS
    ]
    calls += [
        {
            "entry": entry_points()["detector"],
            "arguments": ["--ros-args", *words.split()],
            "environment": environment,
        }
        for words, environment in WRONG_NODES
    ]
    names = [f"{tool} {words}" for tool, words in WRONG_CALLS]
    names += [
        " ".join(["detector", *words.split(), *map("=".join, environment.items())])
        for words, environment in WRONG_NODES
    ]
    return dict(zip(names, json.loads(_calls("errors", calls, folder)), strict=True))


CLI = "anomaly_seg_ros.cli"


# Figures.


def make_metrics(folder: Path) -> Any:
    """Two frames of the clip through a node; cheap, and the same wherever float32 is."""
    _tool("evaluate_folder", *PLAIN, "--data", CLIP, "--limit", "2", "--out", str(folder / "out"))
    return _evaluation(folder / "out", folder)


def make_demo(folder: Path) -> Any:
    """What ``make demo`` writes: the whole clip with the node's defaults."""
    _tool("demo", "--out", str(folder / "out"))
    return {"machine": machine(), **_evaluation(folder / "out", folder)}


def _evaluation(out: Path, folder: Path) -> dict[str, Any]:
    metrics = json.loads((out / "metrics.json").read_text())
    return {"files": _files(out), "metrics.json": _portable_document(metrics, folder)}


def data_folder() -> Path:
    """Where the real frames are.

    Raises:
        NoDataError: They are not here.
    """
    folder = Path(os.environ.get("ANOMALY_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "anomaly").is_dir():
        raise NoDataError(f"no real data at {folder}; set ANOMALY_SEG_DATA to its folder")
    return folder


def make_benchmark(folder: Path) -> Any:
    """Every score on two frames of two development sets, and of the clip with its distances."""
    anomaly = data_folder() / "anomaly"
    out = folder / "out"
    data = [
        f"lost_and_found={anomaly / 'fishyscapes_lostandfound'}",
        f"obstacles={anomaly / 'smiyc_obstacle'}",
        f"clip={REPOSITORY / CLIP}",
    ]
    arguments = ["--models", "default", "erfnet_open_set", "--limit", "2", "--threads", "2"]
    _tool("evaluate", *PLAIN, *arguments, "--out", str(out), "--data", *data)
    document = json.loads((out / "benchmark.json").read_text())
    return {
        "files": _files(out),
        "benchmark.csv": (out / "benchmark.csv").read_text().splitlines()[0].split(","),
        "benchmark.json": _portable_document(document, folder),
    }


# The node.


def make_node(folder: Path) -> Any:
    """Parameters, topics, services and refusals of a node as it starts, and of two cameras."""
    with _node_module().detector(detector_command(), folder) as client:
        found = {"parameters": client.parameters(), "active": client.graph()}
        found["QoS overrides"] = client.qos_overrides()
        found["refused while active"] = {
            f"{name}: {value!r}": client.set(**{name: value}) for name, value in REFUSED
        }
        client.change_state("deactivate")
        client.change_state("cleanup")
        found["accepted while unconfigured"] = client.set(
            cameras=["front", "rear"], image_transport="compressed", qos_reliability="reliable"
        )
        client.change_state("configure")
        client.change_state("activate")
        found["two cameras, compressed"] = client.graph()
    return found


REFUSED: tuple[tuple[str, Any], ...] = (
    ("threshold", 1.5),
    ("threshold", "high"),
    ("threshold", float("nan")),
    ("target_tpr", -0.1),
    ("jpeg_quality", 0),
    ("score_method", "energie"),
    ("on_out_of_memory", "pray"),
    ("treshold", 0.5),
    ("model", "closed_set"),
    ("backend", "torch"),
    ("cameras", ["front"]),
    ("image_transport", "compressed"),
    ("qos_depth", 3),
    ("autostart", False),
)
# Name -> parameters of the node, cameras, frames, whether the frames are compressed.
NODE_RUNS: dict[str, tuple[dict[str, str], tuple[str, ...], int, bool]] = {
    "defaults": ({}, ("",), 6, False),
    "torch, float32": (
        {"backend": "torch", "precision": "fp32", "num_threads": "2", "score_method": "energy"},
        ("",),
        6,
        False,
    ),
    "two cameras, compressed, tiled": (
        {
            "backend": "torch",
            "precision": "fp32",
            "num_threads": "2",
            "image_transport": "compressed",
            "cameras": "[front, rear]",
            "inference_mode": "tiled",
            "tile_height": "512",
            "tile_width": "512",
        },
        ("front", "rear"),
        2,
        True,
    ),
}


def make_digests(folder: Path) -> Any:
    """Every output of the node, frame by frame, and every message of the bags replayed."""
    found: dict[str, Any] = {"machine": machine(), "bags": {}, "runs": {}}
    bags = {}
    for compressed in (False, True):
        bag = folder / ("compressed" if compressed else "raw")
        words = ["--compressed"] if compressed else []
        _tool("dataset_to_bag", "--root", CLIP, "--limit", "6", *words, "--out", str(bag))
        bags[compressed], found["bags"][bag.name] = _read_bag(bag)
    for name, (parameters, cameras, count, compressed) in NODE_RUNS.items():
        given = {"qos_reliability": "reliable", **parameters}
        with _node_module().detector(detector_command(), folder, given) as client:
            answers = client.digests(bags[compressed][:count], cameras)
            keys = client.diagnostic_keys()
        found["runs"][name] = {"answers": answers, "diagnostics": keys}
    return found


def _read_bag(bag: Path) -> tuple[list[tuple[Any, Any]], dict[str, Any]]:
    """(image, camera info) messages, and topic -> stamp -> digest."""
    from rclpy.serialization import deserialize_message
    from rosbags.highlevel import AnyReader
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    kinds = {f"sensor_msgs/msg/{k.__name__}": k for k in (CameraInfo, CompressedImage, Image)}
    images, infos, digests = [], [], {}
    with AnyReader([bag]) as reader:
        for connection, time, raw in reader.messages():
            # rosbags writes the header of ROS 2's CDR, which is what rclpy reads.
            message = deserialize_message(bytes(raw), kinds[connection.msgtype])
            stamp = f"{message.header.stamp.sec}.{message.header.stamp.nanosec:09d}"
            of_topic = digests.setdefault(f"{connection.topic} {connection.msgtype}", {})
            of_topic[f"{stamp}, recorded at {time}"] = _node_module().digest(message)
            if connection.topic.startswith("/camera/image_raw"):
                images.append(message)
            elif connection.topic == "/camera/camera_info":
                infos.append(message)
    return list(zip(images, infos, strict=True)), digests


def _node_module() -> Any:
    """Needs rclpy, which not all of the others do."""
    from golden import node

    return node


def machine() -> dict[str, Any]:
    """What the last bits of a network, and the bytes of JPEGs, depend on."""
    cpu = platform.processor()
    if (told := Path("/proc/cpuinfo")).exists():
        # The name alone is the same for many: virtual machines shorten it.
        names = ("model name", "cpu family", "model", "stepping")
        lines = re.findall(r"^([a-z ]+?)\s*: (.*)$", told.read_text(), re.MULTILINE)
        of_cpu = dict(lines)
        cpu = ", ".join(of_cpu[name] for name in names if name in of_cpu) or cpu
    packages = {}
    for name in ("torch", "openvino", "opencv-python-headless", "numpy"):
        try:
            packages[name] = version(name)
        except ModuleNotFoundError:
            packages[name] = None
    return {"cpu": cpu, "cores": os.cpu_count(), **packages}


# What all of them share.


def _environment() -> dict[str, str]:
    # It is a default of the training entries.
    left = {k: v for k, v in os.environ.items() if k != "ANOMALY_SEG_DATA"}
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **left,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [left.get("PYTHONPATH")])]),
    }


def _run(command: Sequence[str], folder: Path, given: str | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        input=given,
        text=True,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _tool(name: str, *arguments: str) -> None:
    _run([sys.executable, "-m", f"{CLI}.{name}", *arguments], REPOSITORY)


def _calls(what: str, calls: Any, folder: Path) -> str:
    text = _run([sys.executable, str(FOLDER / "calls.py"), what], folder, json.dumps(calls))
    return _portable(text, folder)


def _portable(text: str, folder: Path) -> str:
    """Without the paths of this machine; and argparse quotes choices, or not, by its version."""
    for path in (folder.resolve(), folder):
        text = text.replace(str(path), "<folder>")
    text = text.replace(str(REPOSITORY), "<repo>")
    return re.sub(r"\(choose from .*?\)", "(choose from ...)", text)


def _portable_document(content: Any, folder: Path, varies: bool = False) -> Any:
    if isinstance(content, Mapping):
        return {
            key: _portable_document(value, folder, varies or key in TIMES_AND_MACHINES)
            for key, value in content.items()
        }
    if varies:
        return VARIES
    if isinstance(content, list):
        items = [_portable_document(item, folder) for item in content]
        return [x for x in items if not (isinstance(x, str) and _OF_MACHINE in x)]
    return _portable(content, folder) if isinstance(content, str) else content


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


GOLDENS = {
    "surfaces": Golden(make_surfaces),
    "options": Golden(make_options),
    "errors": Golden(make_errors),
    "node": Golden(make_node),
    "metrics": Golden(make_metrics),
    "demo": Golden(make_demo, of_machine=True),
    "benchmark": Golden(make_benchmark, data=True),
    "digests": Golden(make_digests, of_machine=True),
}


def path_of(name: str) -> Path:
    """The file of a golden."""
    return FOLDER / f"{name}.json"


def text_of(content: Any) -> str:
    """As it stands in the file."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(GOLDENS)
    if unknown:
        parser.error(f"no golden {', '.join(sorted(unknown))}: {', '.join(GOLDENS)}")
    for name in arguments.names or GOLDENS:
        if arguments.list:
            print(f"{name}: {GOLDENS[name].make.__doc__}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path_of(name).write_text(text_of(GOLDENS[name].make(Path(folder))), encoding="utf-8")
        print(f"written: {path_of(name)}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(FOLDER.parent)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    sys.exit(main())
