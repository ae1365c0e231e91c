"""The page: self-contained, escaped, complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_benchmark import full_benchmark, write_measured

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.figures import Benchmark, read_benchmark
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.suite_report import pr_curve, render, write_report
from anomaly_seg_ros.evaluation.tables import benchmark_tables
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

VOID = {"meta", "img", "br"}
PNG = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()


class Page(HTMLParser):
    """Collects what the tests ask about; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str | None] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[key] or "" for key in ("href", "src") if key in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <path/> and <line/> of the charts

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data.strip())


def measured(folder: Path) -> Benchmark:
    rng = np.random.default_rng(0)
    masks = (rng.random((3, 20, 30)) < 0.1).astype(np.uint8)
    scores = {
        name: (rng.normal(size=masks.shape) + shift * masks).astype(np.float32)
        for name, shift in (("msp", 0.5), ("max_logit", 2.0))
    }
    return read_benchmark(write_measured(folder, "m", masks, scores))


def test_shows_every_table_and_closes_every_tag() -> None:
    benchmark = full_benchmark()
    page = Page(render(benchmark))
    for table in benchmark_tables(benchmark):
        assert table.key in page.ids
        for row in table.rows:
            assert {cell.text for cell in row.cells} <= set(page.cells)
    assert len(page.ids) == len(set(page.ids))


def test_is_self_contained(tmp_path: Path) -> None:
    benchmark = measured(tmp_path)
    html = write_report(benchmark, tmp_path, {("m", "drawn"): [("first", PNG)]}).read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|<script", html)
    links = Page(html).links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert sum(link.startswith("data:") for link in links) == 1


def test_draws_a_curve_a_score_where_there_are_counts(tmp_path: Path) -> None:
    benchmark = measured(tmp_path)
    with_counts = write_report(benchmark, tmp_path).read_text("utf-8")
    assert re.findall(r'<path class="line[^>]*data-score="(\w+)"', with_counts) == [
        *("msp", "max_logit")
    ]
    assert "Precision and recall" not in render(benchmark)


def test_the_curve_follows_the_exact_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    masks = (rng.random((3, 60, 80)) < 0.1).astype(np.uint8)
    score = (rng.normal(size=masks.shape) + 2 * masks).astype(np.float32)
    write_measured(tmp_path, "m", masks, {"msp": score})
    recall, precision = pr_curve(ImageCounts.load(tmp_path / "images/m__drawn.npz"), "msp")
    exact = PixelScores()
    exact.update(score[0], masks[0])
    exact.update(score[1], masks[1])
    exact.update(score[2], masks[2])
    expected = np.interp(recall, *exact.pr_curve(10**6))
    clear = recall > 0.05
    np.testing.assert_allclose(precision[clear], expected[clear], atol=0.02)
    assert recall[-1] == 1
    assert 50 < recall.size <= 200


def test_text_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    benchmark = full_benchmark()
    for run in benchmark.runs:
        run.model = run.model + evil
        run.data = run.data + evil
        run.notes = [evil]
        run.model_configuration = {evil: evil}
        run.scores = {name + evil: figures for name, figures in run.scores.items()}
    html = render(benchmark, pictures={(evil, evil): [(evil, PNG)]})
    assert "<script" not in html
    Page(html)


def test_an_empty_benchmark_makes_a_page() -> None:
    Page(render(Benchmark()))


def test_only_pngs_are_shown() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        render(full_benchmark(), pictures={("m", "d"): [("x", b"GIF89a")]})


def test_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_report(full_benchmark(), tmp_path / "made")
    assert [file.name for file in path.parent.iterdir()] == ["benchmark.html"]
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(OutputError, match=r"cannot write .*benchmark\.html"):
        write_report(full_benchmark(), path)
