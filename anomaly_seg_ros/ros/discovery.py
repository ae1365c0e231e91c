# SPDX-License-Identifier: Apache-2.0
"""Detects what keeps the nodes of this machine from finding each other.

No ROS here: these checks run before ROS is started, which would end the process or wait forever.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.ros.transport import (
    PROFILE_VARIABLES,
    full_memory,
    is_localhost,
    localhost_only,
    memory_needed,
    memory_shortage,
    missing_profile,
    shared_memory_free,
    uses_fast_dds,
)

LARGEST_DOMAIN = 232  # a port of a larger one would be above 65535
# From the RTPS specification, 9.6.2: the first port of a domain, and of its participants.
_PORT_BASE, _PORTS_OF_A_DOMAIN, _FIRST_PARTICIPANT = 7400, 250, 10
# rmw_fastrtps: with LOCALHOST so many participants of a machine look for each other.
_LOCALHOST_PARTICIPANTS = 32
_LOOPBACK, _GROUP = "127.0.0.1", "239.255.0.1"
_ANSWER_S = 0.5  # for a datagram that the kernel delivers at once


def check_discovery(environment: Mapping[str, str]) -> None:
    """Checks that a node with this environment can find others on this machine.

    Args:
        environment: The environment of the process.

    Raises:
        DiscoveryError: It cannot; says what to do.
    """
    domain = domain_id(environment)
    off = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "OFF"
    if off and not localhost_only(environment):
        raise DiscoveryError(
            "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF keeps nodes from finding each other: "
            "set it to LOCALHOST or SUBNET"
        )
    elsewhere = environment.get("ROS_STATIC_PEERS") or environment.get("ROS_DISCOVERY_SERVER")
    if not is_localhost(environment) or elsewhere:
        return
    if (reason := _unheard(_LOOPBACK)) is not None:
        raise DiscoveryError(
            f"nothing sent to {_LOOPBACK} arrives ({reason}), and discovery is limited to this "
            "machine: if the loopback interface is down, ip link set lo up; otherwise look at "
            "the firewall, or set ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET"
        )
    if uses_fast_dds(environment) and participants(domain) >= _LOCALHOST_PARTICIPANTS:
        raise DiscoveryError(
            f"{_LOCALHOST_PARTICIPANTS} or more ROS processes run on this machine in domain "
            f"{domain}; further ones would not find each other: end some, or set another "
            "ROS_DOMAIN_ID"
        )


def discovery_hints(environment: Mapping[str, str]) -> str:
    """Names the settings that two nodes must share to find each other, with this one's values."""
    words = [f"ROS_DOMAIN_ID={domain_id(environment)}"]
    words += [
        f"{name}={environment[name]}"
        for name in (
            "ROS_AUTOMATIC_DISCOVERY_RANGE",
            "ROS_LOCALHOST_ONLY",
            "ROS_STATIC_PEERS",
            "RMW_IMPLEMENTATION",
            "ROS_DISCOVERY_SERVER",
            "ROS_SECURITY_ENABLE",
        )
        if environment.get(name)
    ]
    text = f"other nodes are found with the same settings only, here {', '.join(words)}"
    if not is_localhost(environment) and _no_multicast():
        text += "; no network interface here carries multicast, which finds other machines"
    return text


def domain_id(environment: Mapping[str, str]) -> int:
    """Returns the DDS domain.

    Raises:
        DiscoveryError: ROS_DOMAIN_ID is not a valid one.
    """
    text = environment.get("ROS_DOMAIN_ID") or "0"
    try:
        domain = int(text, 8 if text.isdecimal() and text.startswith("0") else 0)  # as rcl does
    except ValueError:
        domain = -1
    if not 0 <= domain <= LARGEST_DOMAIN:
        raise DiscoveryError(
            f"ROS_DOMAIN_ID={text}: expected a whole number from 0 to {LARGEST_DOMAIN}"
        )
    return domain


def participants(domain: int) -> int:
    """Counts the ports in use of a domain's first 32 DDS participants; 0 if unknown."""
    first = _PORT_BASE + _PORTS_OF_A_DOMAIN * domain + _FIRST_PARTICIPANT
    try:
        lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return 0
    ports = {int(line.split()[1].split(":")[1], 16) for line in lines}
    return len(ports & {first + 2 * number for number in range(_LOCALHOST_PARTICIPANTS)})


def _unheard(address: str, interface: int | None = None) -> str | None:
    """Returns why a datagram to this address does not come back, or None if it does.

    Args:
        address: An own address, or a group.
        interface: Index of the interface through which to reach a group.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(_ANSWER_S)
        try:
            receiver.bind(("", 0))
            if interface is not None:
                group = struct.pack("=4s4si", socket.inet_aton(address), bytes(4), interface)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, group)
            sender.sendto(b"?", (address, receiver.getsockname()[1]))
            receiver.recv(1)
        except TimeoutError:
            return f"no datagram within {_ANSWER_S:g} s"
        except OSError as error:
            return str(error.strerror)
    return None


def _no_multicast() -> bool:
    interfaces = (index for index, name in socket.if_nameindex() if name != "lo")
    return all(_unheard(_GROUP, index) is not None for index in interfaces)


class TransportWatch:
    """Watches what stands between this node and other processes.

    Create it before the node's DDS participant, which takes its share of the memory.

    Args:
        environment: The environment of the process.

    Attributes:
        shortage: The lack of shared memory at the start in words, or empty.
        note: Another remark about the transport, or empty.
        discovery_trouble: What keeps other processes from being found, or empty.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.shortage = memory_shortage(environment)
        self.note = missing_profile(environment)
        self.discovery_trouble = ""
        try:
            check_discovery(environment)
        except DiscoveryError as error:
            self.discovery_trouble = str(error)
        self._needed = memory_needed(environment)
        profiles = (environment.get(name) for name in PROFILE_VARIABLES)
        self._profile = next((Path(path).name for path in profiles if path), "none")

    def memory_shortage(self) -> str:
        """Describe the lack of shared memory now or at the start; empty if there is none."""
        return self.shortage or full_memory(self._needed)

    def values(self) -> dict[str, object]:
        """Return the values for ``/diagnostics``."""
        values: dict[str, object] = {
            "fast_dds_profile": self._profile,
            "shared_memory_free_mb": f"{shared_memory_free() / 1e6:.0f}",
            "shared_memory_needed_mb": f"{self._needed / 1e6:.0f}",
        }
        return values | {"note": self.note} if self.note else values
