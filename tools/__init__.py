# SPDX-License-Identifier: Apache-2.0
"""Programs for those who work on this package; they run from a checkout."""

from anomaly_seg_ros.system.crash_log import guard_program

guard_program()
