# SPDX-License-Identifier: Apache-2.0
"""The node that one writes after a tutorial: rclpy, cv_bridge and the same network.

Correct, and no slower than its kind: no copy is made for the sake of it, gradients are off, and
image messages are filled as ROS 2's own cv_bridge does. Naive is that

- everything happens in the subscription's callback, in the executor's thread, so that frames
  wait in the queue (depth 10) while one is at work;
- normalisation runs in float32 on the CPU, on the whole (resized) picture;
- the network runs in eager PyTorch, float32, with its BatchNorms and its usual memory format;
- all logits are upsampled to the frame's size first, and score and argmax run there;
- everything is computed whether or not somebody subscribes, and each map goes through NumPy.

``python -m benchmarks.online.naive_node --ros-args -r __ns:=/naive -p model:=default``
"""

from __future__ import annotations

from contextlib import suppress

import cv2
import numpy as np
import rclpy
import torch
import torch.nn.functional as F
from cv_bridge import CvBridge
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from anomaly_seg_ros import scores
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.devices import select_device

QUEUE = 10


class NaiveNode(Node):
    """Publishes ``~/labels``, ``~/ood_score`` and ``~/open_set_mask`` as the detector does."""

    def __init__(self, **node_arguments: object) -> None:
        super().__init__("naive", **node_arguments)
        model = self.declare_parameter("model", "default").value
        device = self.declare_parameter("device", "auto").value
        height = self.declare_parameter("inference_height", 0).value
        width = self.declare_parameter("inference_width", 0).value
        self.device = select_device(device)
        network, self.metadata = load_model(model)
        self.network = network.eval().to(self.device)
        self.size = (height, width) if height else self.metadata.inference_size
        self.mean = np.array(self.metadata.mean, np.float32)
        self.std = np.array(self.metadata.std, np.float32)
        self.bridge = CvBridge()
        self.labels = self.create_publisher(Image, "~/labels", QUEUE)
        self.ood_score = self.create_publisher(Image, "~/ood_score", QUEUE)
        self.open_set_mask = self.create_publisher(Image, "~/open_set_mask", QUEUE)
        self.create_subscription(Image, "image", self.on_image, QUEUE)

    @torch.no_grad()
    def on_image(self, message: Image) -> None:
        """Segments a frame and publishes its three outputs."""
        rgb = self.bridge.imgmsg_to_cv2(message, "rgb8")
        resized = cv2.resize(rgb, self.size[::-1])
        normalised = (resized.astype(np.float32) / 255 - self.mean) / self.std
        batch = torch.from_numpy(normalised.transpose(2, 0, 1)).unsqueeze(0).to(self.device)
        output = self.upsampled(self.network(batch), rgb.shape[:2])

        labels = output.logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        name = self.metadata.default_score
        raw = scores.compute(name, output, self.metadata.statistics)[0].cpu().numpy()
        unit = self.metadata.calibration_of(name).to_unit(raw)
        mask = np.where(unit >= 0.5, 255, 0).astype(np.uint8)

        self.labels.publish(self.to_message(labels, "mono8", message))
        self.ood_score.publish(self.to_message(unit, "32FC1", message))
        self.open_set_mask.publish(self.to_message(mask, "mono8", message))

    def upsampled(self, output: NetworkOutput, size: tuple[int, int]) -> NetworkOutput:
        """All logits at the frame's size (height, width)."""

        def enlarge(maps: torch.Tensor | None) -> torch.Tensor | None:
            if maps is None:
                return None
            return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

        return NetworkOutput(output.pre_logits, enlarge(output.logits), enlarge(output.ood_logits))

    def to_message(self, array: np.ndarray, encoding: str, source: Image) -> Image:
        """As ``cv2_to_imgmsg`` of ROS 2; PyPI's cv-bridge fails there on NumPy 2.3 and later."""
        message = Image(height=array.shape[0], width=array.shape[1], encoding=encoding)
        message.data.frombytes(array.tobytes())
        message.step = len(message.data) // message.height
        message.header = source.header
        return message


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(NaiveNode())
    rclpy.try_shutdown()
