"""Command-line tools, one file each; what they share."""

from __future__ import annotations

import sys
from collections.abc import Callable

from anomaly_seg_ros.errors import AnomalySegError


def run_tool(tool: str, body: Callable[[], None]) -> int:
    """Runs a tool's body and turns its end into an exit code.

    Args:
        tool: Name for the error line.
        body: Does the work; cleans up after itself when an exception passes through.

    Returns:
        0 done; 1 a user's error, printed as ``tool: error: ...``; 130 interrupted by Ctrl-C.
    """
    try:
        body()
    except AnomalySegError as error:
        print(f"{tool}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
    return 0
