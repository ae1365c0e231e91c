"""The running node, over real DDS."""

from __future__ import annotations

from detector_harness import DetectorHarness, street

from anomaly_seg_ros.ros.publishers import FRAME_TOPICS


def test_smoke(start_detector):
    d = start_detector()
    d.listen(*FRAME_TOPICS)
    d.wait_connected()
    d.segment(street(64, 96), 1.5)
    for t in FRAME_TOPICS:
        if t.startswith("debug") or t == "camera_info":
            continue
        print(t, d.wait_for(t, 1.5).header)
    d.spin_for(0.3)
    for k in ("model", "input", "latency"):
        print(d.diagnostic(k))
