"""What stands between a node and other processes: when it starts, and while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.ros.transport import (
    PROFILE_VARIABLES,
    full_memory,
    memory_needed,
    memory_shortage,
    missing_profile,
    shared_memory_free,
)


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
