# SPDX-License-Identifier: Apache-2.0
"""All targets by name, and their areas."""

from __future__ import annotations

from dataclasses import replace

from tools.fuzzing import bags, checkpoints, configuration, images
from tools.fuzzing.target import Target

AREAS = {
    "decoder": images.TARGETS,
    "bags": bags.TARGETS,
    "checkpoints": checkpoints.TARGETS,
    "configuration": configuration.TARGETS,
}
TARGETS: dict[str, Target] = {
    target.name: replace(target, area=area)
    for area, targets in AREAS.items()
    for target in targets
}
