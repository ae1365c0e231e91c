# SPDX-License-Identifier: Apache-2.0
"""Starts the fault replay of a source checkout; the replay itself is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``tools.fault_replay`` and returns its exit code; 1 where it cannot be imported."""
    try:
        replay = import_module("tools.fault_replay.__main__")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tools":
            raise
        print(
            "inject_faults: error: the fault replay is part of the source checkout and is not "
            "installed; run `python -m tools.fault_replay --out FOLDER` in the checkout",
            file=sys.stderr,
        )
        return 1
    return replay.main(argv)


if __name__ == "__main__":
    sys.exit(main())
