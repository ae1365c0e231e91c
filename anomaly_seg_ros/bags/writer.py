# SPDX-License-Identifier: Apache-2.0
"""Writes samples as a rosbag2 that ``ros2 bag play`` plays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.datasets.base import CameraIntrinsics, LoadedSample, Sample
from anomaly_seg_ros.errors import ImageError, OutputError, ParameterError

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
START_TIME_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00:00 UTC

# Metadata version 8 is the newest that Humble, Iron and Jazzy all read; 9 stores the offered QoS
# profiles as a list, where Humble expects a string.
_METADATA_VERSION: Literal[8] = 8
_INFINITE = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
_OFFERED_QOS = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _INFINITE,
    _INFINITE,
    QosLiveliness.AUTOMATIC,
    _INFINITE,
    False,
)


class BagWriter:
    """Writes samples in order, as a context manager; the bag appears when the block ends well.

    Until then it grows in a hidden folder beside the target. That folder is removed when the
    block ends by an exception, Ctrl-C included.

    Args:
        path: The bag's folder; its parents are made if needed.
        storage: "mcap" or "sqlite3".
        compressed: Write the frames as JPEG (CompressedImage) instead of rgb8.
        frame_rate: Frames a second; stamps advance by its inverse.
        frame_id: The frame_id of all messages.
        jpeg_quality: 1 to 100, with ``compressed``.
        dataset: Name of the data set, kept in the bag's metadata.
        taxonomy: Name of the taxonomy whose trainIds the labels hold, kept there, too; see
            :attr:`Dataset.taxonomy_name <anomaly_seg_ros.datasets.base.Dataset.taxonomy_name>`.
        classes: Its classes, kept there for readers that do not have the taxonomy.
        start_time_ns: Stamp of the first frame.
        overwrite: Replace an existing bag. Only a bag or an empty folder is ever replaced.

    Attributes:
        frames: Number of frames written so far.

    Raises:
        ParameterError: An option is out of range.
        OutputError: The target exists, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        storage: str = "mcap",
        compressed: bool = False,
        frame_rate: float = 10.0,
        frame_id: str = "camera_optical_frame",
        jpeg_quality: int = 95,
        dataset: str = "",
        taxonomy: str = "",
        classes: Sequence[str] = (),
        start_time_ns: int = START_TIME_NS,
        overwrite: bool = False,
    ) -> None:
        if storage not in STORAGES:
            raise ParameterError(f"storage: expected one of {', '.join(STORAGES)}, got {storage}")
        if not 0 < frame_rate <= 1e6:
            raise ParameterError(f"frame_rate: must be in (0, 1e6] Hz, got {frame_rate}")
        if not 1 <= jpeg_quality <= 100:
            raise ParameterError(f"jpeg_quality: must be 1 to 100, got {jpeg_quality}")
        self.path = Path(path).absolute()
        if storage == "sqlite3" and set(str(self.path)) & set("?#%"):
            # rosbags hands the path to SQLite as an unescaped URI: it would write elsewhere.
            raise OutputError(f"{path}: a sqlite3 bag cannot have ?, # or % in its path; use mcap")
        self.frames = 0
        self._storage = STORAGES[storage]
        self._compressed = compressed
        self._frame_rate = frame_rate
        self._frame_id = frame_id
        self._jpeg_quality = jpeg_quality
        self._dataset = dataset
        self._taxonomy = taxonomy
        self._classes = classes
        self._start_time_ns = start_time_ns
        self._overwrite = overwrite
        self._samples: list[dict[str, Any]] = []
        self._connections: dict[str, Any] = {}
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._check_target()

    def __enter__(self) -> BagWriter:
        with _output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._aside = Path(
                tempfile.mkdtemp(
                    prefix=f".{self.path.name}.", suffix=".partial", dir=self.path.parent
                )
            )
        try:
            with _output_errors(self.path):
                # rosbags names the storage file after its folder: it needs the final name.
                self._writer = Writer(
                    self._aside / self.path.name,
                    version=_METADATA_VERSION,
                    storage_plugin=self._storage,
                )
                self._writer.open()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Closing flushes: on a full disk it fails again, which must not hide the first error.
            with suppress(OSError, sqlite3.Error):
                self._writer.abort()
            self._discard()

    def write(self, sample: Sample | LoadedSample) -> int:
        """Appends one sample.

        Args:
            sample: Read from its files here if it is not loaded yet.

        Returns:
            The frame's stamp in nanoseconds.

        Raises:
            ImageError: A file of the sample is unreadable, or its size is not the image's.
            OutputError: The bag cannot be written (no space left, for example).
        """
        loaded = sample.load() if isinstance(sample, Sample) else sample
        stamp_ns = self._start_time_ns + round(self.frames * 1e9 / self._frame_rate)
        header = self._header(stamp_ns)
        height, width = loaded.image.shape[:2]
        if self._compressed:
            message = self._message(
                topics.COMPRESSED_IMAGE_TYPE,
                header=header,
                format="jpeg",
                data=self._jpeg(loaded.image),
            )
            self._put(topics.COMPRESSED_IMAGE, message, stamp_ns)
        else:
            self._put_image(topics.IMAGE, header, loaded.image, "rgb8", stamp_ns)
        self._put(
            topics.CAMERA_INFO, self._camera_info(header, height, width, loaded.camera), stamp_ns
        )
        for topic, array, encoding in (
            (topics.ANOMALY_MASK, loaded.anomaly_mask, "mono8"),
            (topics.LABELS, loaded.labels, "mono8"),
            (topics.DISPARITY, loaded.disparity, "mono16"),
        ):
            if array is None:
                continue
            if array.shape != (height, width):
                raise ImageError(
                    f"{loaded.name}: {topic} is {array.shape}, image {(height, width)}"
                )
            self._put_image(topic, header, array, encoding, stamp_ns)
        self._samples.append(
            {
                "name": loaded.name,
                "stamp_ns": stamp_ns,
                "baseline_m": loaded.camera.baseline_m if loaded.camera else None,
                "fold": loaded.fold,
            }
        )
        self.frames += 1
        return stamp_ns

    def _check_target(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self._overwrite:
            raise OutputError(f"{self.path}: exists already (choose another name, or overwrite)")
        is_bag = (self.path / "metadata.yaml").is_file()
        if (
            not self.path.is_dir()
            or self.path.is_symlink()
            or not (is_bag or _is_empty(self.path))
        ):
            raise OutputError(f"{self.path}: is not a bag, so it is not overwritten")

    def _finish(self) -> None:
        if not self.frames:
            raise OutputError(f"{self.path}: no frame to write")
        with _output_errors(self.path):
            self._writer.set_custom_data(topics.DATASET_KEY, self._dataset)
            if self._taxonomy:
                self._writer.set_custom_data(topics.TAXONOMY_KEY, self._taxonomy)
            if self._classes:
                self._writer.set_custom_data(topics.CLASSES_KEY, json.dumps(self._classes))
            self._writer.set_custom_data(topics.MASK_VALUES_KEY, topics.MASK_VALUES)
            self._writer.set_custom_data(topics.FRAME_RATE_KEY, repr(float(self._frame_rate)))
            self._writer.set_custom_data(topics.SAMPLES_KEY, json.dumps(self._samples))
            self._writer.close()
            self._check_target()  # again: it may have appeared meanwhile
            if self.path.exists():
                self.path.rename(self._aside / "replaced")
            (self._aside / self.path.name).rename(self.path)

    def _discard(self) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)

    def _put(self, topic: str, message: Any, stamp_ns: int) -> None:
        with _output_errors(self.path):
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    message.__msgtype__,
                    typestore=self._store,
                    offered_qos_profiles=[_OFFERED_QOS],
                )
            data = self._store.serialize_cdr(message, message.__msgtype__)
            self._writer.write(self._connections[topic], stamp_ns, data)

    def _put_image(
        self, topic: str, header: Any, array: np.ndarray, encoding: str, stamp_ns: int
    ) -> None:
        pixels = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        message = self._message(
            topics.IMAGE_TYPE,
            header=header,
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=pixels.reshape(-1).view(np.uint8),
        )
        self._put(topic, message, stamp_ns)

    def _message(self, kind: str, **fields: Any) -> Any:
        return self._store.types[kind](**fields)

    def _header(self, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=self._frame_id)

    def _camera_info(
        self, header: Any, height: int, width: int, camera: CameraIntrinsics | None
    ) -> Any:
        # CameraInfo.msg marks an uncalibrated camera by zeros in all matrices.
        k, r, p = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 4))
        if camera is not None:
            k[:] = (camera.fx, 0, camera.cx), (0, camera.fy, camera.cy), (0, 0, 1)
            r[:], p[:, :3] = np.eye(3), k
        return self._message(
            topics.CAMERA_INFO_TYPE,
            header=header,
            height=height,
            width=width,
            distortion_model="plumb_bob" if camera else "",
            d=np.zeros(5 if camera else 0),
            k=k.ravel(),
            r=r.ravel(),
            p=p.ravel(),
            binning_x=0,
            binning_y=0,
            roi=self._message(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0,
                y_offset=0,
                height=0,
                width=0,
                do_rectify=False,
            ),
        )

    def _jpeg(self, image: np.ndarray) -> np.ndarray:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality])
        return data


def bag_size(path: str | Path) -> int:
    """Total size of the files of a bag folder in bytes."""
    return sum(file.stat().st_size for file in Path(path).iterdir() if file.is_file())


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turns errors of the file system, SQLite and rosbags into OutputError."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = "; free some space or write elsewhere" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{path}: cannot write ({reason}{hint})") from error
    except (sqlite3.Error, WriterError) as error:
        raise OutputError(f"{path}: cannot write ({error})") from error
