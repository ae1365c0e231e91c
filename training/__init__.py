# SPDX-License-Identifier: Apache-2.0
"""Training of anomaly-aware segmenters; runs from a source checkout."""

from anomaly_seg_ros.system.crash_log import guard_program

guard_program()
