"""All targets by name."""

from __future__ import annotations

from tools.fuzzing import bags, checkpoints, configuration, images
from tools.fuzzing.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (images, bags, checkpoints, configuration)
    for target in module.TARGETS
}
AREAS = tuple(dict.fromkeys(target.area for target in TARGETS.values()))
