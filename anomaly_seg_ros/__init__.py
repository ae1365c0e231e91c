"""Open-set semantic segmentation for ROS 2."""

from anomaly_seg_ros.system.crash_log import guard_program

guard_program()
