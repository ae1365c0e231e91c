# SPDX-License-Identifier: Apache-2.0
"""Targets: bags byte by byte, their metadata, and messages of any content in intact bags."""

from __future__ import annotations

import sqlite3
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import CameraIntrinsics, LoadedSample
from tools.fuzzing.target import Target

_STAMP = 10**18
_KINDS = (topics.IMAGE_TYPE, topics.COMPRESSED_IMAGE_TYPE, topics.CAMERA_INFO_TYPE)
_TOPICS = (topics.IMAGE, topics.COMPRESSED_IMAGE, topics.CAMERA_INFO)
# Contents of a bag's database where plain tables are expected.
_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i"
SQLITE_ATTACKS = {
    "endless view": f"""
        DROP TABLE message_definitions;
        CREATE VIEW message_definitions AS {_ENDLESS} AS id, 'a' AS topic_type,
            'ros2msg' AS encoding, 'b' AS encoded_message_definition,
            'c' AS type_description_hash FROM n;""",
    "virtual table": "CREATE VIRTUAL TABLE extra USING fts5(text);",
    "computed column": """
        CREATE TABLE extra(id INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(1000000000)));""",
    "trigger": "CREATE TRIGGER extra DELETE ON messages BEGIN SELECT 1; END;",
}


def _sample(name: str) -> LoadedSample:
    rng = np.random.default_rng(2)
    return LoadedSample(
        name=name,
        image=rng.integers(0, 256, (6, 8, 3), np.uint8),
        anomaly_mask=rng.integers(0, 2, (6, 8), np.uint8),
        labels=rng.integers(0, 19, (6, 8), np.uint8),
        disparity=rng.integers(0, 9, (6, 8), np.uint16),
        camera=CameraIntrinsics(5.0, 5.0, 4.0, 3.0, 0.2),
        fold="t5",
    )


@cache
def own_bag(storage: str = "mcap", compressed: bool = False) -> dict[str, bytes]:
    """The files of a bag of two frames, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        with BagWriter(path, storage=storage, compressed=compressed, dataset="clip") as writer:
            for name in ("a", "b"):
                writer.write(_sample(name))
        return {file.name: file.read_bytes() for file in path.iterdir()}


def _storage_file(files: dict[str, bytes]) -> bytes:
    return next(data for name, data in files.items() if name != "metadata.yaml")


@cache
def packed_bag(mode: CompressionMode) -> dict[str, bytes]:
    """The files of a bag of one image, compressed by zstd."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        _write_message(path, 0, image_messages()[0][1:], mode)
        return {file.name: file.read_bytes() for file in path.iterdir()}


def _write_message(
    path: Path, kind: int, data: bytes, mode: CompressionMode = CompressionMode.NONE
) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(_TOPICS[kind], _KINDS[kind], typestore=store)
        writer.write(connection, _STAMP, data)


def sqlite_attack(script: str) -> bytes:
    """The database of a bag after a script has run in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag.db3"
        path.write_bytes(_storage_file(own_bag("sqlite3")))
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
        return path.read_bytes()


@cache
def image_messages() -> tuple[bytes, ...]:
    """Serialised messages, the kind of message in front."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        found = []
        for compressed in (False, True):
            with BagWriter(path, compressed=compressed, overwrite=True) as writer:
                writer.write(_sample("a"))
            with Reader(path) as reader:
                kinds = [x for x in reader.connections if x.topic in _TOPICS]
                for connection, _, data in reader.messages(kinds):
                    found.append(bytes([_TOPICS.index(connection.topic)]) + bytes(data))
        return tuple(found)


def read_all(path: Path) -> None:
    """Reads and decodes every frame of a bag."""
    with BagReader(path) as reader:
        for frame in reader.frames():
            frame.to_rgb()


def _mcap(data: bytes, folder: Path) -> None:
    (folder / "bag.mcap").write_bytes(data)
    read_all(folder / "bag.mcap")


def _sqlite(data: bytes, folder: Path) -> None:
    (folder / "bag.db3").write_bytes(data)
    read_all(folder / "bag.db3")


def _metadata(data: bytes, folder: Path) -> None:
    for name, content in (own_bag() | packed_bag(CompressionMode.MESSAGE)).items():
        (folder / name).write_bytes(content)
    (folder / "metadata.yaml").write_bytes(data)
    read_all(folder)


def _message(data: bytes, folder: Path) -> None:
    kind = data[0] % len(_KINDS) if data else 0
    mode = CompressionMode.MESSAGE if data[:1] >= b"\x80" else CompressionMode.NONE
    _write_message(folder / "bag", kind, data[1:], mode)
    read_all(folder / "bag")


def _metadata_seeds() -> list[bytes]:
    plain = own_bag()["metadata.yaml"]
    packed = packed_bag(CompressionMode.MESSAGE)["metadata.yaml"]
    elsewhere = (b"../../outside/secret.yaml", b"/etc/passwd", b"..", b".")
    return [
        plain,
        packed,
        *(plain.replace(b"bag.mcap", name) for name in elsewhere),
        plain.replace(b'"name": "a"', b'"name": "../../a"'),
        b"[" * 600,
        b"a: &a [*a]",
    ]


TARGETS = (
    Target(
        "mcap",
        "MCAP files",
        _mcap,
        lambda: [
            _storage_file(own_bag()),
            _storage_file(own_bag(compressed=True)),
            _storage_file(packed_bag(CompressionMode.STORAGE)),
        ],
    ),
    Target(
        "sqlite3",
        "SQLite files",
        _sqlite,
        lambda: [
            _storage_file(own_bag("sqlite3")),
            *(sqlite_attack(script) for script in SQLITE_ATTACKS.values()),
        ],
    ),
    Target("bag_metadata", "metadata.yaml", _metadata, _metadata_seeds),
    Target("bag_message", "serialised messages", _message, lambda: list(image_messages())),
)
