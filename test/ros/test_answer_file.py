# SPDX-License-Identifier: Apache-2.0
"""A node's answers on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.ros.replay import Answer, AnswerFile


def answer(seed: int, shape: tuple[int, int]) -> Answer:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 19, shape, np.uint8)
    return Answer(labels, rng.random(shape, np.float32), np.zeros(shape, np.uint8), 1.0)


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    """Of any size, odd ones too, in any order."""
    put = {5: answer(0, (4, 6)), 3: answer(1, (7, 3)), 9: answer(2, (1, 1))}
    with AnswerFile(tmp_path) as answers:
        for stamp, one in put.items():
            answers.put(stamp, one)
        assert len(answers) == 3
        for stamp in (3, 9, 5, 3):
            assert stamp in answers
            labels, score = answers.get(stamp)
            np.testing.assert_array_equal(labels, put[stamp].labels)
            np.testing.assert_array_equal(score, put[stamp].unit_score)
            assert (labels.dtype, score.dtype) == (np.uint8, np.float32)
        assert 4 not in answers


def test_the_last_answer_counts(tmp_path: Path) -> None:
    with AnswerFile(tmp_path) as answers:
        answers.put(1, answer(0, (4, 6)))
        answers.put(1, answer(1, (2, 3)))
        assert len(answers) == 1
        np.testing.assert_array_equal(answers.get(1)[0], answer(1, (2, 3)).labels)


def test_nothing_is_left(tmp_path: Path) -> None:
    with AnswerFile(tmp_path) as answers:
        answers.put(1, answer(0, (4, 6)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"answers in .*nowhere"):
        AnswerFile(tmp_path / "nowhere")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    """One, not another when the file is closed with what could not be written."""
    with AnswerFile(tmp_path) as answers:
        answers._file.close()
        answers._file = Path("/dev/full").open("r+b")  # noqa: SIM115 - closed with the answers
        with pytest.raises(OutputError, match="No space left on device"):
            answers.put(1, answer(0, (4, 6)))
