# SPDX-License-Identifier: Apache-2.0
"""The pages: self-contained, escaped, complete, and whole or not there."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_benchmark import full_benchmark, write_measured

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.pictures import FALSE_ALARMS, MISSES, FramePictures
from anomaly_seg_ros.evaluation.plots import ScoreCurves, binned_pr_curve
from anomaly_seg_ros.evaluation.report import (
    headline_score,
    inline_image,
    render_benchmark,
    render_run,
    write_benchmark_report,
    write_run_report,
)
from anomaly_seg_ros.evaluation.results import (
    Benchmark,
    FlickerFigures,
    Latency,
    NodeFigures,
    ObjectFigures,
    Replay,
    Run,
    ScoreFigures,
    Segmentation,
    read_benchmark,
)
from anomaly_seg_ros.evaluation.summary import pooled_figures
from anomaly_seg_ros.evaluation.tables import benchmark_tables
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

RNG = np.random.default_rng(0)
LATENCIES = [12.0, 15.5, 40.0]
PNG = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
VOID_ELEMENTS = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects what the tests ask about; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.links: list[str | None] = []
        self.ids: list[str | None] = []
        self.cells: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[key] for key in ("href", "src", "srcset") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <path/> and <line/> of the charts

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())
        if self.open and self.open[-1] == "td":
            self.cells.append(data.strip())


def pixels(shift: float = 1.0) -> PixelScores:
    mask = (RNG.random((80, 80)) < 0.1).astype(np.uint8)
    collected = PixelScores()
    collected.update((RNG.normal(size=mask.shape) + shift * mask).astype(np.float32), mask)
    return collected


def picture(width: int = 900) -> np.ndarray:
    return RNG.integers(0, 256, (width // 3, width, 3), dtype=np.uint8)


def row(name: str = "frame_1", reason: str = MISSES, mask: bool = True) -> FramePictures:
    return FramePictures(
        name, picture(), picture(), picture(), picture() if mask else None, reason, "7 missed"
    )


def bare(**more) -> Run:
    return Run("m", "bag", "", "in-process", 0, {}, **more)


def full() -> dict:
    scores = {"msp": pixels(0.5), "max_logit": pixels(2.0)}
    run = Run(
        model="default",
        dataset="bag",
        data="Lost & Found",
        via="node",
        frames=16,
        scores={n: pooled_figures(s.compute()) for n, s in scores.items()},
        pixels={"anomaly": 1234, "in_distribution": 5678901},
        segmentation=Segmentation(60.5, 93.25, {"road": 97.1, "train": None}),
        notes=["two frames had no mask"],
        replay=Replay(
            sent=17,
            lost=1,
            node=NodeFigures("msp", 3.1e-8, 12.0, 90.0, 30.0),
            latency_ms=Latency.from_samples(LATENCIES),
            objects=ObjectFigures("msp", 50, 16, 40, 31, 6, 0.5, 100),
            flicker=FlickerFigures(2.5, 0.75, 15),
            dropped={"node": 4},
            configuration={"precision": "fp32", "size": (512, 1024), "bag": Path("/a/b")},
        ),
    )
    return {
        "run": run,
        "curves": {name: ScoreCurves.from_scores(score) for name, score in scores.items()},
        "pictures": [row(reason=FALSE_ALARMS), row("frame_2"), row("frame_3", mask=False)],
        "latencies": LATENCIES,
        "class_colours": {"road": (128, 64, 128)},
    }


def test_shows_everything_that_was_measured() -> None:
    evaluation = full()
    html = render_run(**evaluation)
    page = Page(html)
    assert {"Anomaly scores", FALSE_ALARMS, MISSES, "Known classes", "The node"} <= set(
        page.headings
    )
    for text in (
        "Found 31 of 40 unknown objects, 0.4 false alarms a frame, at 65 frames/s.",
        "from 100 pixels and a mean of 0.5",
        "17 frames sent, 16 scored, 1 lost",
        "4 dropped by node",
        "1,234 anomalous and 5,678,901 in-distribution pixels",
        "two frames had no mask",
        "60.50 %",
        "3.1e-08",
        "the mask changes in 2.50 % of the pixels, the label in 0.75 %",
        "median <b>15.5 ms</b>",
        "precision: fp32",
        "bag: /a/b",
        "&gt;= 0.95",
        "frame_3",
    ):
        assert text in html, text
    for name, figures in evaluation["run"].scores.items():
        assert f"<code>{name}</code>" in html
        assert f"{figures.AUROC:.2f}" in html
    assert len(page.ids) == len(set(page.ids))


def test_is_self_contained() -> None:
    html = render_run(**full())
    assert all(link is None or link.startswith("data:image/") for link in Page(html).links)
    assert not re.search(r"https?://|url\(|@import", html)


def test_leads_to_every_frame_where_there_is_a_film() -> None:
    html = render_run(**full(), frame_browser="frames.html")
    assert [link for link in Page(html).links if link and not link.startswith("data:")] == [
        "frames.html"
    ]
    assert "Step through all 16 frames" in html


def test_images_are_small_and_described() -> None:
    images = [image for image in Page(render_run(**full())).images if image.get("src")]
    assert len(images) == 3 * 4 - 1, "input, overlay, heat map, and a mask where there is one"
    for image in images:
        assert "frame" in image["alt"]
        encoded = base64.b64decode(image["src"].split(",")[1])
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[1] == 640


def test_marks_the_best_figures() -> None:
    html = render_run(**full())
    best_row = html[html.index('data-score="max_logit"') :].split("</tr>")[0]
    assert best_row.count('class="best"') == 3
    assert html.count('class="best"') == 3


def test_leads_with_the_score_of_the_node_or_else_the_best() -> None:
    run = full()["run"]
    assert headline_score(run) == "msp"
    run.replay = None
    assert headline_score(run) == "max_logit"
    run.scores = {"sml": ScoreFigures()}
    assert headline_score(run) == "sml"
    assert headline_score(bare()) is None


def test_a_bin_that_would_flatten_all_others_is_cut_and_labelled() -> None:
    piled_up = PixelScores()
    score = np.r_[np.zeros(900), np.linspace(0, 1, 100)].astype(np.float32)[None]
    piled_up.update(score, (score > 0.5).astype(np.uint8))
    run = bare(scores={"msp": ScoreFigures(1, 2, 3)})
    assert "↑ 95%" in render_run(run, {"msp": ScoreCurves.from_scores(piled_up)})
    assert "↑ " not in re.sub(r"<thead>.*</thead>", "", render_run(**full()), flags=re.DOTALL)


def test_text_from_outside_is_escaped() -> None:
    evaluation = full()
    evil = "<script>alert(1)</script>"
    run = evaluation["run"]
    run.model = run.data = evil
    run.notes = [evil]
    run.replay.configuration = {evil: evil}
    run.scores[evil] = ScoreFigures(1, 2, 3)
    evaluation["curves"][evil] = ScoreCurves.from_scores(pixels())
    evaluation["pictures"] = [row(evil)]
    html = render_run(**evaluation)
    assert "<script>alert" not in html
    Page(html)


def test_a_bare_result_makes_a_page() -> None:
    html = render_run(bare(), {})
    page = Page(html)
    assert not {"The node", "Known classes", "Anomaly scores"} & set(page.headings)


def test_undefined_figures_are_dashes() -> None:
    nothing = PixelScores()
    nothing.update(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8))
    run = bare(scores={"msp": ScoreFigures()}, segmentation=Segmentation(IoU={"train": None}))
    run.replay = Replay(node=NodeFigures("msp"))
    html = render_run(run, {"msp": ScoreCurves.from_scores(nothing)}, latencies=[5.0, 5.0])
    Page(html)
    assert not re.search(r"\b(nan|None)\b", html)
    assert "–" in html
    assert "Precision and recall" not in html
    assert "average precision, higher is better" not in html, "no tile without a figure"


def test_charts_need_pixels_of_both_kinds() -> None:
    assert "Precision and recall" in render_run(**full())
    assert "average precision, higher is better" in render_run(**full())
    nothing = {"msp": ScoreCurves.from_scores(PixelScores())}
    html = render_run(bare(scores={"msp": ScoreFigures()}), nothing)
    assert "How the scores separate" not in html


def test_inline_image_keeps_colours_and_masks_exact() -> None:
    flat = np.full((20, 30, 3), (250, 120, 10), np.uint8)
    for lossless, tolerance in ((False, 6), (True, 0)):
        encoded = base64.b64decode(inline_image(flat, lossless).split(",")[1])
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - flat).max() <= tolerance


def test_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.html"
    write_run_report(**full(), path=path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match=r"cannot write .*report\.html"):
        write_run_report(**full(), path=path / "report.html")


def measured_benchmark(folder: Path) -> Benchmark:
    rng = np.random.default_rng(0)
    masks = (rng.random((3, 20, 30)) < 0.1).astype(np.uint8)
    scores = {
        name: (rng.normal(size=masks.shape) + shift * masks).astype(np.float32)
        for name, shift in (("msp", 0.5), ("max_logit", 2.0))
    }
    return read_benchmark(write_measured(folder, "m", masks, scores))


def test_shows_every_table_and_closes_every_tag() -> None:
    benchmark = full_benchmark()
    page = Page(render_benchmark(benchmark))
    for table in benchmark_tables(benchmark):
        assert table.key in page.ids
        for row in table.rows:
            assert {cell.text for cell in row.cells} <= set(page.cells)
    assert len(page.ids) == len(set(page.ids))


def test_the_benchmark_is_self_contained(tmp_path: Path) -> None:
    benchmark = measured_benchmark(tmp_path)
    html = write_benchmark_report(
        benchmark, tmp_path, {("m", "drawn"): [("first", PNG)]}
    ).read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|<script", html)
    links = Page(html).links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert sum(link.startswith("data:") for link in links) == 1


def test_draws_a_curve_a_score_where_there_are_counts(tmp_path: Path) -> None:
    benchmark = measured_benchmark(tmp_path)
    with_counts = write_benchmark_report(benchmark, tmp_path).read_text("utf-8")
    assert re.findall(r'<path class="line[^>]*data-score="(\w+)"', with_counts) == [
        *("msp", "max_logit")
    ]
    assert "Precision and recall" not in render_benchmark(benchmark)


def test_the_curve_follows_the_exact_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    masks = (rng.random((3, 60, 80)) < 0.1).astype(np.uint8)
    score = (rng.normal(size=masks.shape) + 2 * masks).astype(np.float32)
    write_measured(tmp_path, "m", masks, {"msp": score})
    recall, precision = binned_pr_curve(ImageCounts.load(tmp_path / "images/m__drawn.npz"), "msp")
    exact = PixelScores()
    exact.update(score[0], masks[0])
    exact.update(score[1], masks[1])
    exact.update(score[2], masks[2])
    expected = np.interp(recall, *exact.pr_curve(10**6))
    clear = recall > 0.05
    np.testing.assert_allclose(precision[clear], expected[clear], atol=0.02)
    assert recall[-1] == 1
    assert 50 < recall.size <= 200


def test_text_from_outside_is_escaped_in_the_benchmark() -> None:
    evil = "<script>alert(1)</script>"
    benchmark = full_benchmark()
    for run in benchmark.runs:
        run.model = run.model + evil
        run.data = run.data + evil
        run.notes = [evil]
        run.model_configuration = {evil: evil}
        run.scores = {name + evil: figures for name, figures in run.scores.items()}
    html = render_benchmark(benchmark, pictures={(evil, evil): [(evil, PNG)]})
    assert "<script" not in html
    Page(html)


def test_an_empty_benchmark_makes_a_page() -> None:
    Page(render_benchmark(Benchmark()))


def test_only_pngs_are_shown() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        render_benchmark(full_benchmark(), pictures={("m", "d"): [("x", b"GIF89a")]})


def test_the_benchmark_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_benchmark_report(full_benchmark(), tmp_path / "made")
    assert [file.name for file in path.parent.iterdir()] == ["benchmark.html"]
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(OutputError, match=r"cannot write .*benchmark\.html"):
        write_benchmark_report(full_benchmark(), path)
