# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes: an answer or one of our errors, and nothing run, written or let in."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tools.fuzzing.mutation import mutated
from tools.fuzzing.registry import TARGETS
from tools.fuzzing.target import Attack, scratch_folder

EXAMPLES = 60


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_only_our_errors_leave_a_reader(name: str) -> None:
    if name == "parameters":
        pytest.importorskip("rclpy")
    if name == "dump_hdf5":
        pytest.importorskip("h5py")
    target = TARGETS[name]
    seeds = target.seeds()
    with scratch_folder() as folder:
        attack = Attack(target, folder)
        accepted = [attack(seed) for seed in seeds]

        @settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=EXAMPLES,
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(seeds))
        def attempt(data: bytes) -> None:
            attack(data)

        attempt()
    # A target whose valid seeds are refused would test nothing behind the first check.
    if name not in ("metadata", "safetensors", "torch_pickle", "torch_file", "image_counts"):
        assert any(accepted)
