# SPDX-License-Identifier: Apache-2.0
"""Entry points of ``ros2 run anomaly_seg_ros`` and the installed scripts.

Imports nothing that may be missing, so that an error while importing a tool is reported like any
other.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from anomaly_seg_ros.system import crash_log


def _entry(module: str) -> Callable[[], int | None]:
    def main() -> int | None:
        crash_log.install_hooks()
        return import_module(module).main()

    return main


compare = _entry("anomaly_seg_ros.cli.compare")
convert_model = _entry("anomaly_seg_ros.cli.convert_model")
dataset_to_bag = _entry("anomaly_seg_ros.cli.dataset_to_bag")
demo = _entry("anomaly_seg_ros.cli.demo")
detector = _entry("anomaly_seg_ros.ros.detector")
evaluate = _entry("anomaly_seg_ros.cli.evaluate")
evaluate_bag = _entry("anomaly_seg_ros.cli.evaluate_bag")
evaluate_folder = _entry("anomaly_seg_ros.cli.evaluate_folder")
export_model = _entry("anomaly_seg_ros.cli.export_model")
inject_faults = _entry("anomaly_seg_ros.cli.inject_faults")
inspect_model = _entry("anomaly_seg_ros.cli.inspect_model")
live = _entry("anomaly_seg_ros.cli.live")
segment = _entry("anomaly_seg_ros.cli.segment")
