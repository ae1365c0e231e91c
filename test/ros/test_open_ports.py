# SPDX-License-Identifier: Apache-2.0
"""What a running detector listens on, as the kernel tells: DDS's UDP ports and nothing else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.transport import (
    DECIDED_BY,
    PREFIXES,
    PROFILE,
    profile_variables,
)
from anomaly_seg_ros.system.resources import config_path

TIMEOUT_S = 200.0  # of a busy machine
ACTIVE = "active, listening"
# By the RTPS specification, 9.6.2: 250 ports for a domain; Fast DDS takes more below 7400.
PORT_BASE, PORTS_OF_A_DOMAIN = 7400, 250
FAST_DDS_PORTS = range(PORT_BASE - 400, PORT_BASE)

pytestmark = [
    pytest.mark.ros,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="no /proc/net"),
]


class Socket(NamedTuple):
    """A socket of a process: tcp, tcp6, udp or udp6, and what it is bound to."""

    protocol: str
    address: str
    port: int


def sockets_of(pid: int) -> list[Socket]:
    """All internet sockets of a process."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    inodes = set(re.findall(r"socket:\[(\d+)\]", " ".join(links)))
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                address, port = fields[1].split(":")
                octets = bytes.fromhex(address)[::-1]  # of IPv4; little-endian machines
                found.append(Socket(protocol, ".".join(map(str, octets)), int(port, 16)))
    return found


@contextmanager
def active_detector(model: Path, folder: Path) -> Iterator[int]:
    """The id of a process whose node is active."""
    log = folder / "node.log"
    node = NodeProcess("/ports", {"model": str(model), "backend": "torch"}, log)
    with node:
        deadline = time.monotonic() + TIMEOUT_S
        while ACTIVE not in log.read_text(encoding="utf-8"):
            node.check_alive()
            assert time.monotonic() < deadline, f"not within {TIMEOUT_S:.0f} s: {ACTIVE}"
            time.sleep(0.1)
        yield node._process.pid


def ports_of_dds() -> set[int]:
    """All that DDS may listen on in this domain."""
    first = PORT_BASE + PORTS_OF_A_DOMAIN * int(os.environ["ROS_DOMAIN_ID"])
    return {*FAST_DDS_PORTS, *range(first, first + PORTS_OF_A_DOMAIN)}


def is_ephemeral(port: int) -> bool:
    """Whether the kernel chose the port, as it does for sockets that only send."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(low) <= port <= int(high)


@pytest.mark.parametrize("discovery_range", ["SUBNET", "LOCALHOST"])
def test_nothing_but_dds_listens(tiny_model, tmp_path, monkeypatch, discovery_range):
    for name in DECIDED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", discovery_range)
    for name, value in profile_variables(os.environ).items():
        monkeypatch.setenv(name, value)
    with active_detector(tiny_model, tmp_path) as pid:
        sockets = sockets_of(pid)
    assert {socket.protocol for socket in sockets} == {"udp"}
    listening = [socket for socket in sockets if not is_ephemeral(socket.port)]
    assert listening
    assert {socket.port for socket in listening} <= ports_of_dds()
    if discovery_range == "LOCALHOST":
        assert {socket.address for socket in listening} == {"127.0.0.1"}


def test_the_localhost_profile_alone_leaves_the_loopback_interface_only(
    tiny_model, tmp_path, monkeypatch
):
    for name in DECIDED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SYSTEM_DEFAULT")
    for name, prefix in PREFIXES.items():
        monkeypatch.setenv(name, str(config_path(f"{prefix}{PROFILE}_localhost.xml")))
    with active_detector(tiny_model, tmp_path) as pid:
        sockets = sockets_of(pid)
    assert {(socket.protocol, socket.address) for socket in sockets} == {("udp", "127.0.0.1")}
