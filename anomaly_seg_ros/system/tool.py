# SPDX-License-Identifier: Apache-2.0
"""Runs a command-line tool and ends it with an exit code and one line for an error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.system.crash_log import report_crash


def run_tool(tool: str, body: Callable[[], None]) -> int:
    """Runs a tool's body and turns its end into an exit code.

    Args:
        tool: Name for the error line.
        body: Does the work, and cleans up after itself when an exception passes through.

    Returns:
        0 if done; 1 for an error, printed as ``tool: error: ...`` (with the file of the traceback
        unless it is a user's error); 130 if interrupted by Ctrl-C.
    """
    try:
        body()
    except AnomalySegError as error:
        print(f"{tool}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the tool ends here, and reports everything
        report_crash(tool, error)
        return 1
    return 0
