# SPDX-License-Identifier: Apache-2.0
"""Leaves torch's process group without a crash at exit."""

from __future__ import annotations

import gc

from torch import distributed


def leave_process_group() -> None:
    """Leaves the default process group and ends its threads.

    Gloo's threads release the tensors of an all-reduce a moment after the waiting thread goes on.
    If that happens while the interpreter exits, the process aborts ("terminate called without an
    active exception") although all its work is done. The threads end with the group, and the group
    ends once nothing refers to it; DistributedDataParallel does, and such models are in reference
    cycles.
    """
    gc.collect()
    distributed.destroy_process_group()
    gc.collect()
