"""Leaving torch's process group without crashing on the way out."""

from __future__ import annotations

import gc

from torch import distributed


def leave_process_group() -> None:
    """Leaves the default process group and ends its threads.

    Gloo's threads let go of an all-reduce's tensors a moment after the one who waited for it goes
    on. A thread that does so while the interpreter is ending aborts the process ("terminate
    called without an active exception"), after all its work was done. The threads end with the
    group, and the group ends when nothing refers to it: DistributedDataParallel does, and such
    models stand in reference cycles.
    """
    gc.collect()
    distributed.destroy_process_group()
    gc.collect()
