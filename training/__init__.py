"""Turns closed-set segmenters into anomaly-aware ones; runs from a checkout."""

from anomaly_seg_ros.system.crash_log import guard_program

guard_program()
