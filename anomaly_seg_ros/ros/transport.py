# SPDX-License-Identifier: Apache-2.0
"""Choosing the Fast DDS profile that a process starts with, so that large images get through.

By default Fast DDS sends through 0.5 MiB of shared memory and drops what does not fit: best-effort
frames of 2 MP are mostly lost, reliable ones wait for the writer's next heartbeat, every three
seconds. The profiles in ``config/`` have larger segments, of a size that suits the free space in
``/dev/shm``, and a heartbeat every 100 ms.

No ROS here: the launch file, the tools and the node call this before they start anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.system.resources import config_path

PROFILE, SMALL_PROFILE = "large_images", "small_memory"
# Fast DDS 2 (Humble to Jazzy) and Fast DDS 3 (Kilted): the variable, and how file names begin.
PREFIXES = {
    "FASTRTPS_DEFAULT_PROFILES_FILE": "fastdds_",
    "FASTDDS_DEFAULT_PROFILES_FILE": "fastdds3_",
}
PROFILE_VARIABLES = tuple(PREFIXES)
# Setting one of these means that the user has chosen the transport.
DECIDED_BY = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")
FAST_DDS = ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")  # empty: the default of ROS

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Fast DDS makes its segments
# What one process takes for its segment, its ports and Fast DDS's tables, as measured.
LARGE_BYTES = 72_000_000
_DEFAULT_BYTES = 1_000_000
_TABLES = 1.07  # relative to the segment
# Large segments are used if a camera or a player, the node, a viewer and one more process fit.
LARGE_PROCESSES = 4
_REMEDY = "give a container --shm-size=1g; where killed processes filled it: fastdds shm clean"


def shared_memory_free(folder: Path = SHARED_MEMORY) -> int:
    """Returns the bytes that a process can take there; 0 if it cannot create files."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    if status.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
        return 0
    return status.f_bavail * status.f_frsize


def uses_fast_dds(environment: Mapping[str, str]) -> bool:
    """Tells whether ROS would use Fast DDS."""
    return environment.get("RMW_IMPLEMENTATION", "") in FAST_DDS


def localhost_only(environment: Mapping[str, str]) -> bool:
    """Tells whether the older variable is set, which makes rcl ignore the newer ones."""
    return environment.get("ROS_LOCALHOST_ONLY") == "1"


def is_localhost(environment: Mapping[str, str]) -> bool:
    """Tells whether discovery is limited to this machine, apart from static peers."""
    # rcl reads unknown words as LOCALHOST.
    wanted = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
    known = ("SUBNET", "SYSTEM_DEFAULT", "OFF")
    return localhost_only(environment) or wanted not in known


def profile_name(environment: Mapping[str, str], free: int) -> str:
    """Chooses the profile for the environment's network range and the free memory.

    Args:
        environment: The environment of the process.
        free: Bytes free in /dev/shm.
    """
    name = PROFILE if free >= LARGE_PROCESSES * LARGE_BYTES else SMALL_PROFILE
    other_hosts = environment.get("ROS_STATIC_PEERS") and not localhost_only(environment)
    return f"{name}_localhost" if is_localhost(environment) and not other_hosts else name


def profile_variables(environment: Mapping[str, str], free: int | None = None) -> dict[str, str]:
    """Returns the variables to add for a process that sends or receives images.

    Args:
        environment: The environment that the process would have.
        free: Bytes free in /dev/shm; None measures.

    Returns:
        Empty with another middleware than Fast DDS, or if the environment already names a profile
        or transports.

    Raises:
        ResourceError: The package was installed without its ``config/``.
    """
    if not uses_fast_dds(environment):
        return {}
    if any(environment.get(name) for name in DECIDED_BY):
        return {}
    name = profile_name(environment, shared_memory_free() if free is None else free)
    return {
        variable: str(config_path(f"{prefix}{name}.xml")) for variable, prefix in PREFIXES.items()
    }


def use_profile() -> str:
    """Makes this process and its children use the profile; call it before ``rclpy.init``.

    Returns:
        A problem with it in one line, or empty.

    Raises:
        ResourceError: The package was installed without its ``config/``.
    """
    os.environ.update(profile_variables(os.environ))
    return memory_shortage(os.environ) or missing_profile(os.environ)


def memory_needed(environment: Mapping[str, str]) -> int:
    """Returns the bytes of /dev/shm that a process with this environment takes at its start."""
    if not uses_fast_dds(environment):
        return 0
    path = next((environment[name] for name in PROFILE_VARIABLES if environment.get(name)), None)
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return _DEFAULT_BYTES
        sizes = re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", text)
        return max((round(_TABLES * int(size)) for size in sizes), default=_DEFAULT_BYTES)
    # With LOCALHOST, rmw_fastrtps ignores this variable and sets up its own transports.
    transports = environment.get("FASTDDS_BUILTIN_TRANSPORTS", "").upper()
    without = transports.startswith("UDP") and not is_localhost(environment)
    return 0 if without else _DEFAULT_BYTES


def memory_shortage(environment: Mapping[str, str], free: int | None = None) -> str:
    """Describes what /dev/shm lacks for a process that is about to start.

    Args:
        environment: The environment of the process, with its profile.
        free: Bytes free in /dev/shm; None measures.

    Returns:
        One line with the remedy; empty if there is enough.
    """
    free = shared_memory_free() if free is None else free
    needed = memory_needed(environment)
    if free < needed:
        return f"{_has(free)}, a process needs {_mb(needed)}: images go over UDP; {_REMEDY}"
    wanted = LARGE_PROCESSES * LARGE_BYTES
    if SMALL_PROFILE in environment.get(PROFILE_VARIABLES[0], "") and free < wanted:
        return f"{_has(free)}, {_mb(wanted)} are wanted: small segments are used; {_REMEDY}"
    return ""


def missing_profile(environment: Mapping[str, str]) -> str:
    """Warns if the user chose transports without a profile; empty otherwise."""
    chosen = environment.get("FASTDDS_BUILTIN_TRANSPORTS")
    profile = any(environment.get(name) for name in PROFILE_VARIABLES)
    if not chosen or profile or not uses_fast_dds(environment):
        return ""
    return (
        f"FASTDDS_BUILTIN_TRANSPORTS={chosen} keeps the package's Fast DDS profile away: reliable "
        "images that do not fit into the transport's buffers may come three seconds late"
    )


def full_memory(needed: int) -> str:
    """Describes what /dev/shm lacks for a process that starts now, beside this running one.

    Args:
        needed: Bytes that each process takes.
    """
    free = shared_memory_free()
    if free >= needed:
        return ""
    return f"{_has(free)}: processes that start now send images over UDP; {_REMEDY}"


def _has(free: int) -> str:
    state = f"has {_mb(free)} free" if free else "is full, missing or read-only"
    return f"{SHARED_MEMORY} {state}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
