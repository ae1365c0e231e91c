# SPDX-License-Identifier: Apache-2.0
"""Starts the detector, and on request RViz and a bag.

    ros2 launch anomaly_seg_ros detector.launch.py image_topic:=/camera/image_raw rviz:=true

For several cameras include it once for each, with another ``namespace`` and in a ``GroupAction``
of its own, because launch passes arguments on to later includes otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.substitutions import LaunchConfiguration, TextSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from anomaly_seg_ros.ros.transport import profile_variables
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

PACKAGE = "anomaly_seg_ros"
# Node parameters with a launch argument of the same name. An empty argument leaves the value to
# the parameter file: defaults are in config/detector.yaml only.
PARAMETERS = {"model": str, "device": str, "image_transport": str, "autostart": bool}
# torch's idle threads would spin on cores that DDS and the executor need.
WAITING_THREADS = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
# Topics in detector.rviz, as named without a namespace.
RVIZ_TOPICS = ("overlay", "ood_heatmap", "ood_score", "open_set_mask")

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the detector"),
    DeclareLaunchArgument(
        "image_topic",
        default_value="image",
        description="input images (with compressed transport: without the '/compressed')",
    ),
    DeclareLaunchArgument(
        "camera_info_topic", default_value="camera_info", description="input camera calibration"
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="a name in docs/models.md or a weights file; empty: as in the parameter file",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:N; empty: as in the parameter file",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="transport of the input; empty: as in the parameter file",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=["", "true", "false"],
        description="configure and activate by itself; empty: as in the parameter file",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="parameter YAML over the package's config/detector.yaml; empty: that alone",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=["true", "false"], description="start RViz"
    ),
    DeclareLaunchArgument(
        "bag",
        default_value="",
        description="bag to play from when the detector is active; gives the time; empty: none",
    ),
    DeclareLaunchArgument("bag_rate", default_value="1.0", description="speed of the bag"),
    DeclareLaunchArgument(
        "large_images",
        default_value="true",
        choices=["true", "false"],
        description="shared memory for whole images, by the package's Fast DDS profile, unless "
        "the environment names a profile, transports or another middleware",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="least severe messages to log",
    ),
]


def parameter_overrides(arguments: dict[str, str]) -> dict[str, ParameterValue | bool]:
    """Returns the node parameters from the launch arguments that were given."""
    overrides: dict[str, ParameterValue | bool] = {
        # With a type, because launch would read "0" or "on" as YAML instead of text; and as a
        # substitution, because launch_ros refuses the plain text "true" for a bool.
        name: ParameterValue(TextSubstitution(text=arguments[name]), value_type=kind)
        for name, kind in PARAMETERS.items()
        if arguments[name]
    }
    if arguments["bag"]:
        overrides["use_sim_time"] = True
    return overrides


def absolute_namespace(context: LaunchContext, namespace: str) -> str:
    """Returns the namespace in which launch puts a node, without a trailing slash."""
    pushed = context.launch_configurations.get("ros_namespace")
    absolute = make_namespace_absolute(prefix_namespace(pushed, namespace or None))
    return (absolute or "").rstrip("/")


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Returns the actions for the given arguments."""
    arguments = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in ARGUMENTS
    }
    namespace, image_topic = arguments["namespace"], arguments["image_topic"]
    parameters = [arguments["params_file"]] if arguments["params_file"] else []
    # For processes that send images: the sender's segment must be large.
    if arguments["large_images"] == "true":
        senders_environment = profile_variables(os.environ)
    else:  # or the detector would choose the profile itself
        variable = "FASTDDS_BUILTIN_TRANSPORTS"
        senders_environment = {variable: os.environ.get(variable, "DEFAULT")}
    detector = LifecycleNode(
        package=PACKAGE,
        executable="detector",
        name="detector",
        namespace=namespace,
        parameters=[*parameters, parameter_overrides(arguments)],
        remappings=[("image", image_topic), ("camera_info", arguments["camera_info_topic"])],
        arguments=["--ros-args", "--log-level", arguments["log_level"]],
        additional_env={**WAITING_THREADS, **senders_environment},
        output="screen",
    )
    actions: list[LaunchDescriptionEntity] = [detector]
    if arguments["rviz"] == "true":
        absolute = absolute_namespace(context, namespace)
        inputs = image_topic if image_topic.startswith("/") else f"{absolute}/{image_topic}"
        topics = [f"/detector/{topic}" for topic in RVIZ_TOPICS]
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=namespace,
                arguments=[
                    "-d",
                    str(Path(get_package_share_directory(PACKAGE), "config", "detector.rviz")),
                ],
                remappings=[
                    ("/image", inputs),
                    *((topic, f"{absolute}{topic}") for topic in topics),
                ],
                parameters=[{"use_sim_time": bool(arguments["bag"])}],
            )
        )
    if arguments["bag"]:
        command = ["ros2", "bag", "play", arguments["bag"], "--clock", "100"]
        player = ExecuteProcess(
            cmd=[*command, "--rate", arguments["bag_rate"]],
            additional_env=senders_environment,
            output="screen",
        )
        # Otherwise the bag's first seconds would pass while the model loads. Registered before the
        # detector starts, because its first transition may come at once.
        when_active = OnStateTransition(
            target_lifecycle_node=detector,
            goal_state="active",
            entities=[player],
            handle_once=True,
        )
        actions.insert(0, RegisterEventHandler(when_active))
    return actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
