# SPDX-License-Identifier: Apache-2.0
"""Measurements beside peers and floors; they run from a checkout."""

from anomaly_seg_ros.system.crash_log import guard_program

guard_program()
