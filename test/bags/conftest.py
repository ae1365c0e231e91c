"""Samples to write and a writer of foreign bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.datasets import Camera, LoadedSample

CAMERA = Camera(fx=500.0, fy=501.0, cx=16.5, cy=12.5, baseline_m=0.25)


@pytest.fixture
def samples() -> list[LoadedSample]:
    """Five full samples of 24x32 pixels with random content."""
    rng = np.random.default_rng(5)
    return [
        LoadedSample(
            name=f"street_{i}",
            image=rng.integers(0, 256, (24, 32, 3), np.uint8),
            anomaly_mask=rng.choice(np.array([0, 1, 255], np.uint8), (24, 32)),
            labels=rng.integers(0, 19, (24, 32), np.uint8),
            disparity=rng.integers(0, 65536, (24, 32), np.uint16),
            camera=CAMERA,
            fold=f"t{i % 2}",
        )
        for i in range(5)
    ]


class ForeignBag:
    """Writes messages as another recorder would: own topics, own order, any distribution."""

    def __init__(self, path: Path, store: Stores, plugin: StoragePlugin) -> None:
        self.path = path
        self.store = get_typestore(store)
        self.writer = Writer(path, version=8, storage_plugin=plugin)
        self.writer.open()
        self.connections = {}
        self.log_time = 10**18

    def header(self, stamp_ns: int):
        types = self.store.types
        stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id="cam")

    def image(
        self, topic: str, stamp_ns: int, array: np.ndarray, encoding: str, step=None
    ) -> None:
        data = np.ascontiguousarray(array)
        message = self.store.types["sensor_msgs/msg/Image"](
            header=self.header(stamp_ns),
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=data.strides[0] if step is None else step,
            data=data.reshape(-1).view(np.uint8),
        )
        self.put(topic, message)

    def compressed(self, topic: str, stamp_ns: int, data: bytes, kind: str) -> None:
        self.put(
            topic,
            self.store.types["sensor_msgs/msg/CompressedImage"](
                header=self.header(stamp_ns), format=kind, data=np.frombuffer(data, np.uint8)
            ),
        )

    def camera_info(self, topic: str, stamp_ns: int, fx: float) -> None:
        types = self.store.types
        roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        k = np.array([fx, 0, 1, 0, fx, 1, 0, 0, 1], np.float64)
        message = types["sensor_msgs/msg/CameraInfo"](
            header=self.header(stamp_ns), height=4, width=6, distortion_model="plumb_bob",
            d=np.zeros(5), k=k, r=np.eye(3).ravel(), p=np.zeros(12), binning_x=0, binning_y=0,
            roi=roi,
        )  # fmt: skip
        self.put(topic, message)

    def string(self, topic: str, text: str) -> None:
        self.put(topic, self.store.types["std_msgs/msg/String"](data=text))

    def put(self, topic: str, message) -> None:
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        self.log_time += 1000
        self.writer.write(
            self.connections[topic], self.log_time, self.store.serialize_cdr(message, kind)
        )

    def close(self) -> Path:
        self.writer.close()
        return self.path


@pytest.fixture
def foreign(tmp_path):
    """A factory of open foreign bags."""

    def make(store=Stores.ROS2_HUMBLE, plugin=StoragePlugin.SQLITE3) -> ForeignBag:
        return ForeignBag(tmp_path / "foreign", store, plugin)

    return make
