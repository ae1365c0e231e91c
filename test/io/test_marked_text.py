# SPDX-License-Identifier: Apache-2.0
"""Only the text between the marks of a document changes."""

from __future__ import annotations

import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.io.marked_text import write_between


def test_only_the_part_between_the_marks_changes(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# Title\n\n<a>\nstale words\n<b>\nThe end.\n")
    for _ in range(2):
        write_between(path, "<a>", "<b>", "\nnew\n")
        assert path.read_text() == "# Title\n\n<a>\nnew\n<b>\nThe end.\n"


@pytest.mark.parametrize("text", ["# no marks\n", "<a>\n", None])
def test_documents_without_marks_are_refused(tmp_path, text):
    path = tmp_path / "page.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OutputError, match=r"page\.md"):
        write_between(path, "<a>", "<b>", "")
