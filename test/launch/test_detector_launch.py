# SPDX-License-Identifier: Apache-2.0
"""The launch file, driven for real: needs launch, launch_ros and launch_testing (from apt)."""

from __future__ import annotations

import ast
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from tiny import save_tiny_model

from anomaly_seg_ros.ros.transport import DECIDED_BY

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_FILE = REPOSITORY / "launch" / "detector.launch.py"
PACKAGE = "anomaly_seg_ros"
TIMEOUT_S = 90.0


# Without launch: what the text alone tells.


def declared_arguments() -> dict[str, dict[str, object]]:
    """Launch argument -> the literal keywords of its declaration."""
    calls = [
        node
        for node in ast.walk(ast.parse(LAUNCH_FILE.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "DeclareLaunchArgument"
    ]
    return {
        ast.literal_eval(call.args[0]): {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        for call in calls
    }


def test_every_argument_is_described():
    arguments = declared_arguments()
    assert set(arguments) == {
        "namespace", "image_topic", "camera_info_topic", "model", "device", "image_transport",
        "autostart", "params_file", "rviz", "bag", "bag_rate", "large_images", "log_level",
    }  # fmt: skip
    assert all(keywords["description"] for keywords in arguments.values())


def test_arguments_of_parameters_leave_the_default_to_the_yaml():
    text = (REPOSITORY / "config" / "detector.yaml").read_text(encoding="utf-8")
    in_both = set(yaml.safe_load(text)["/**"]["ros__parameters"]) & set(declared_arguments())
    assert in_both == {"model", "device", "image_transport", "autostart"}
    assert {
        name: declared_arguments()[name]["default_value"] for name in in_both
    } == dict.fromkeys(in_both, "")


# With launch.


class Observer(Node):
    """Asks a launched detector from outside."""

    def __init__(self, context: Context) -> None:
        super().__init__("observer", context=context)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)

    def wait(self, condition: Callable[[], object], what: str) -> object:
        """The condition's value, once it is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {TIMEOUT_S:.0f} s: {what}"
            self._spinner.spin_once(timeout_sec=0.1)
        return value

    def call(self, kind: type, name: str, request: object) -> object:
        """Call a service."""
        client = self.create_client(kind, name)
        self.wait(client.service_is_ready, name)
        future = client.call_async(request)
        self.wait(future.done, f"answer of {name}")
        self.destroy_client(client)
        return future.result()

    def wait_for_state(self, node: str, state: str) -> None:
        """Until the lifecycle node is in this state."""
        self.wait(
            lambda: (
                self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label
                == state
            ),
            f"{node} is {state}",
        )

    def parameters(self, node: str, *names: str) -> list[object]:
        """String and bool parameters of a node, whichever is set."""
        request = GetParameters.Request(names=list(names))
        values = self.call(GetParameters, f"{node}/get_parameters", request).values
        return [value.string_value if value.type == 4 else value.bool_value for value in values]


@pytest.fixture
def observer() -> Iterator[Observer]:
    context = Context()
    rclpy.init(context=context)
    node = Observer(context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def launched(monkeypatch) -> Callable[..., object]:
    """Runs the launch file, calls ``check`` meanwhile; gives launch_testing's process info."""
    pytest.importorskip("launch", reason="ROS 2's launch is not installed (it comes from apt)")
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (it comes from apt)")
    pytest.importorskip("launch_testing", reason="launch_testing is not installed (from apt)")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch.actions import GroupAction, IncludeLaunchDescription, RegisterEventHandler
    from launch.event_handlers import OnProcessExit
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_testing.proc_info_handler import ActiveProcInfoHandler

    from launch import LaunchDescription, LaunchService

    try:
        get_package_prefix(PACKAGE)
    except (PackageNotFoundError, LookupError):
        pytest.skip(f"{PACKAGE} is not built with colcon, or install/setup.bash is not sourced")
    # The installed script asks for `python3`: the one that runs this test.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)

    def run(cameras: list[dict[str, str]], check: Callable[[], None]) -> ActiveProcInfoHandler:
        processes = ActiveProcInfoHandler()
        source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
        service = LaunchService(noninteractive=True)
        includes = [
            # Scoped: arguments of one camera would carry over to the next.
            GroupAction([IncludeLaunchDescription(source, launch_arguments=arguments.items())])
            for arguments in cameras
        ]
        exits = OnProcessExit(on_exit=lambda event, _: processes.append(event))
        service.include_launch_description(
            LaunchDescription([RegisterEventHandler(exits), *includes])
        )

        def check_and_stop() -> None:
            try:
                check()
            finally:
                service.shutdown()  # sends SIGINT

        # launch insists on the main thread.
        with ThreadPoolExecutor(1) as pool:
            checked = pool.submit(check_and_stop)
            service.run()
            checked.result()
        return processes

    return run


@pytest.fixture
def unconfigured(tmp_path) -> Path:
    """A parameter file that needs no weights: the node stays unconfigured."""
    path = tmp_path / "detector.yaml"
    path.write_text("/**:\n  ros__parameters:\n    autostart: false\n    precision: fp32\n")
    return path


@pytest.mark.ros
def test_starts_the_node_with_its_arguments_and_ends_with_code_0(launched, observer, unconfigured):
    def check() -> None:
        observer.wait_for_state("/front/detector", "unconfigured")
        names = ("model", "device", "precision", "autostart", "image_transport", "use_sim_time")
        values = observer.parameters("/front/detector", *names)
        assert values == ["0", "1", "fp32", False, "raw", False]

    # A model named "0" and a device named "1" would become numbers without a value type.
    arguments = {"namespace": "front", "model": "0", "device": "1"}
    processes = launched([arguments | {"params_file": str(unconfigured)}], check)
    assertions = pytest.importorskip("launch_testing.asserts")
    assertions.assertExitCodes(processes)
    assert len(list(processes)) == 1


@pytest.mark.ros
def test_several_cameras_by_namespace(launched, observer, unconfigured):
    def check() -> None:
        for camera, autostart in (("left", True), ("right", False)):
            observer.wait_for_state(f"/{camera}/detector", "unconfigured")
            assert observer.parameters(f"/{camera}/detector", "autostart") == [autostart]

    common = {"params_file": str(unconfigured), "model": "/nowhere"}
    left = common | {"namespace": "left", "autostart": "true"}
    right = common | {"namespace": "right"}
    processes = launched([left, right], check)
    assert [process.returncode for process in processes] == [0, 0]


def environment_of_detector() -> dict[str, str]:
    """Of the process that this one has started, as the kernel tells."""
    (found,) = (
        process
        for process in Path("/proc").glob("[0-9]*")
        if f"PPid:\t{os.getpid()}\n" in (process / "status").read_text()
        and b"/detector\0" in (process / "cmdline").read_bytes()
    )
    pairs = (found / "environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@pytest.mark.ros
@pytest.mark.parametrize(
    ("argument", "already_set", "expected"),
    [
        (None, {}, "fastdds_large_images_localhost.xml"),
        (None, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, "fastdds_large_images.xml"),
        ("false", {}, ""),
        (None, {"FASTRTPS_DEFAULT_PROFILES_FILE": "/my.xml"}, "my.xml"),
    ],
)
def test_large_images_choose_the_transport_of_the_node(
    launched, observer, unconfigured, monkeypatch, argument, already_set, expected
):
    for name in DECIDED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name, value in already_set.items():
        monkeypatch.setenv(name, value)

    def check() -> None:
        observer.wait_for_state("/detector", "unconfigured")
        environment = environment_of_detector()
        profile = environment.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
        assert Path(profile).name == expected
        assert environment["OMP_WAIT_POLICY"] == os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        if "large_images" in expected:
            assert Path(profile).is_file()
            later = environment["FASTDDS_DEFAULT_PROFILES_FILE"]
            assert later == profile.replace("fastdds_", "fastdds3_")

    arguments = {"params_file": str(unconfigured)}
    if argument is not None:
        arguments["large_images"] = argument
    (process,) = launched([arguments], check)
    assert process.returncode == 0


@pytest.mark.ros
def test_the_bag_plays_once_the_detector_is_active(
    launched, observer, unconfigured, monkeypatch, tmp_path
):
    """Not while the model is loaded, and not again after a pause."""
    played = tmp_path / "played"
    command = tmp_path / "bin" / "ros2"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {played}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)

    def change(transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        assert observer.call(ChangeState, "/detector/change_state", request).success

    def check() -> None:
        observer.wait_for_state("/detector", "unconfigured")
        assert observer.parameters("/detector", "use_sim_time") == [True]
        change(Transition.TRANSITION_CONFIGURE)
        assert not played.exists()
        change(Transition.TRANSITION_ACTIVATE)
        observer.wait(played.exists, "the bag is played")
        change(Transition.TRANSITION_DEACTIVATE)
        change(Transition.TRANSITION_ACTIVATE)

    model = save_tiny_model(tmp_path / "tiny.safetensors")
    arguments = {"params_file": str(unconfigured), "model": str(model), "bag": "/a bag"}
    launched([arguments | {"bag_rate": "0.5"}], check)
    assert played.read_text() == "bag play /a bag --clock 100 --rate 0.5\n"


@pytest.mark.parametrize(
    ("pushed", "namespace", "absolute"),
    [
        (None, "", ""),
        (None, "/", ""),
        (None, "front", "/front"),
        (None, "/front/", "/front"),
        ("robot", "", "/robot"),
        ("/robot", "front", "/robot/front"),
        ("/robot", "/front", "/front"),
    ],
)
def test_rviz_looks_where_the_detector_is(pushed, namespace, absolute):
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (it comes from apt)")
    from launch import LaunchContext

    context = LaunchContext()
    if pushed is not None:
        context.launch_configurations["ros_namespace"] = pushed
    found = runpy.run_path(str(LAUNCH_FILE))["absolute_namespace"](context, namespace)
    assert found == absolute
