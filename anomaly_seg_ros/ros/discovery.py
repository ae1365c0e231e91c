"""What keeps the nodes of this machine from finding each other, in words, before anybody waits.

No ROS here: it is asked before ROS is started, which would end the process, or wait, instead.
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
# By the RTPS specification, 9.6.2: the first port of a domain, and of its participants.
_PORT_BASE, _PORTS_OF_A_DOMAIN, _FIRST_PARTICIPANT = 7400, 250, 10
# So many participants of a machine look for each other with LOCALHOST, by rmw_fastrtps.
_LOCALHOST_PARTICIPANTS = 32
_LOOPBACK, _GROUP = "127.0.0.1", "239.255.0.1"
_ANSWER_S = 0.5  # for a datagram that the kernel hands over at once


def check_discovery(environment: Mapping[str, str]) -> None:
    """Whether a node with this environment could find others on this machine.

    Args:
        environment: Of the process.

    Raises:
        DiscoveryError: It could not; what to do.
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
    """What two nodes must have in common to find each other, and what this one has."""
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
    """The DDS domain.

    Raises:
        DiscoveryError: ROS_DOMAIN_ID is not one.
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
    """How many of a machine's first DDS participants in a domain are taken, 0 if unknown."""
    first = _PORT_BASE + _PORTS_OF_A_DOMAIN * domain + _FIRST_PARTICIPANT
    try:
        lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return 0
    ports = {int(line.split()[1].split(":")[1], 16) for line in lines}
    return len(ports & {first + 2 * number for number in range(_LOCALHOST_PARTICIPANTS)})


def _unheard(address: str, interface: int | None = None) -> str | None:
    """Why a datagram to this address does not come back; None if it does.

    Args:
        address: One's own, or a group.
        interface: Index of the one through which a group is reached.
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
    """To be made before the node's DDS participant, which takes its share of the memory.

    Args:
        environment: Of the process.

    Attributes:
        shortage: What the shared memory lacked at the start, or empty.
        note: What else is worth knowing of the transport, or empty.
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
        """What the shared memory lacks now, or lacked at the start; empty if nothing."""
        return self.shortage or full_memory(self._needed)

    def values(self) -> dict[str, object]:
        """For ``/diagnostics``."""
        values = {
            "fast_dds_profile": self._profile,
            "shared_memory_free_mb": f"{shared_memory_free() / 1e6:.0f}",
            "shared_memory_needed_mb": f"{self._needed / 1e6:.0f}",
        }
        return values | {"note": self.note} if self.note else values
