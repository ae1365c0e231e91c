# SPDX-License-Identifier: Apache-2.0
"""What the loader processes of a training share."""

from __future__ import annotations

from torch.utils.data import get_worker_info


def share_of(limit: float) -> float:
    """Part of a limit, for all loader processes together, that is this process's own."""
    worker = get_worker_info()
    return limit / worker.num_workers if worker else limit
