"""Which Fast DDS profile a process should start with, so that large images get through.

By default Fast DDS has 0.5 MiB of shared memory for what is sent to other processes, and drops
what does not fit: most frames of 2 MP are lost. The profiles in ``config/`` have 64 MiB.

No ROS here: the launch file and the tools ask before they start anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.resources import config_path

PROFILE = "fastdds_large_images.xml"
LOCALHOST_PROFILE = "fastdds_large_images_localhost.xml"
# Of Fast DDS 2 (Humble to Jazzy) and of Fast DDS 3 (Kilted).
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# Whoever sets one of these has decided about the transport.
DECIDED_BY = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")
FAST_DDS = ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")  # empty: the default of ROS


def profile_path(environment: Mapping[str, str]) -> Path:
    """The profile that keeps to the network range which the environment allows.

    Raises:
        ResourceError: The package was installed without its ``config/``.
    """
    discovery_range = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    localhost = discovery_range == "LOCALHOST" and not environment.get("ROS_STATIC_PEERS")
    localhost = localhost or environment.get("ROS_LOCALHOST_ONLY") == "1"
    return config_path(LOCALHOST_PROFILE if localhost else PROFILE)


def profile_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a process that sends or receives images.

    Args:
        environment: That the process would have.

    Returns:
        Empty with another middleware than Fast DDS, and where the environment names a profile or
        transports already.

    Raises:
        ResourceError: The package was installed without its ``config/``.
    """
    if environment.get("RMW_IMPLEMENTATION", "") not in FAST_DDS:
        return {}
    if any(environment.get(name) for name in DECIDED_BY):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(profile_path(environment)))


def use_profile() -> None:
    """Let this process and those that it starts use the profile; before ``rclpy.init``.

    Raises:
        ResourceError: The package was installed without its ``config/``.
    """
    os.environ.update(profile_variables(os.environ))
