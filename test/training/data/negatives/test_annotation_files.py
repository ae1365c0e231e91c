"""What is wrong with a file of annotations: not there, of another kind, or damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from anomaly_seg_ros.errors import DatasetError
from training.data.negatives import CocoObjects
from training.data.negatives.annotation_files import read_annotations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON .*cut short"),
        (b'{"a": [1, 2', "not JSON .*cut short"),
        (b'{"a": "tex', "not JSON .*cut short"),
        (b'{"a" 1}', r"not JSON \(.*column 6 \(char 5\)\)$"),
        (gzip.compress(b"{}", mtime=0), "a packed file"),
        (b"PK\x03\x04", "a packed file"),
        (b'{"a": "\xe4"}', "not JSON .*utf-8"),
        (b"[" * 10**5, "not JSON .nested too deeply"),
        (b"1" * 10**4, "not JSON"),
    ],
)
def test_faults(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json: {message}") as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"b\.json: no such file"):
        read_annotations(tmp_path / "b.json")
    with pytest.raises(DatasetError, match="Is a directory"):
        read_annotations(tmp_path)


def test_what_editors_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')  # a byte order mark
    assert read_annotations(path) == {"a": 1}
    path.write_bytes(b'{"a": "\xe4"}')
    assert read_annotations(path, lenient=True) == {"a": "\ufffd"}


def test_the_panoptic_annotations_of_coco(tiny_coco: Path) -> None:
    path = tiny_coco / "annotations" / "instances_train2017.json"
    entry = '{"segments_info": [], "file_name": "a.png", "image_id": 1}'
    path.write_text(f'{{"images": [1], "categories": [1], "annotations": [{entry}]}}')
    with pytest.raises(DatasetError, match="panoptic format; the instances are needed"):
        CocoObjects(tiny_coco)
