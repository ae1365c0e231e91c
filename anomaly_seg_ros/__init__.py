"""Open-set semantic segmentation for ROS 2."""
