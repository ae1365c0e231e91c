# SPDX-License-Identifier: Apache-2.0
"""From a score map to unknown objects: regions, their distance, and their identity over time.

The interface that the node and the tools build on:

* :func:`~anomaly_seg_ros.objects.regions.find_objects` turns the unit score of one frame into
  :class:`~anomaly_seg_ros.objects.regions.UnknownObject` records, by an
  :class:`~anomaly_seg_ros.objects.regions.ObjectRule`.
* :class:`~anomaly_seg_ros.objects.tracker.Tracker` gives the objects of successive frames ids.
* :class:`~anomaly_seg_ros.objects.ground_plane.GroundPlane` says how far a row of the road is.
* :mod:`~anomaly_seg_ros.objects.points` puts points on objects, by depth or by the road.

Everything here takes and returns arrays; nothing needs ROS or torch.
"""
