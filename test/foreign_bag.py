# SPDX-License-Identifier: Apache-2.0
"""A writer of foreign bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore


class ForeignBag:
    """Writes messages as another recorder would: own topics, own order, any distribution."""

    def __init__(
        self,
        path: Path,
        store: Stores = Stores.ROS2_HUMBLE,
        plugin: StoragePlugin = StoragePlugin.SQLITE3,
    ) -> None:
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
