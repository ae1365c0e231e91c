"""The page: self-contained, escaped, complete, and whole or not there."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.gallery import FALSE_ALARMS, MISSES, FramePictures
from anomaly_seg_ros.evaluation.report import (
    ScoreCurves,
    headline_score,
    inline_image,
    render,
    write_report,
)
from anomaly_seg_ros.evaluation.results import (
    EvaluationResult,
    FrameCounts,
    LatencySummary,
    NodeFigures,
    ScoreFigures,
    SegmentationFigures,
)
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

RNG = np.random.default_rng(0)
LATENCIES = [12.0, 15.5, 40.0]
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


def full() -> dict:
    scores = {"msp": pixels(0.5), "max_logit": pixels(2.0)}
    result = EvaluationResult(
        model="default",
        dataset="Lost & Found",
        frames=FrameCounts(17, 16, 1),
        scores={n: ScoreFigures.from_metrics(s.compute()) for n, s in scores.items()},
        pixels={"anomaly": 1234, "in_distribution": 5678901},
        segmentation=SegmentationFigures(60.5, 93.25, {"road": 97.1, "train": float("nan")}),
        node=NodeFigures("msp", 3.1e-8, 12.0, 90.0, 30.0),
        latency_ms=LatencySummary.from_samples(LATENCIES),
        dropped={"node": 4},
        notes=["two frames had no mask"],
        configuration={"precision": "fp32", "size": (512, 1024), "bag": Path("/a/b")},
    )
    return {
        "result": result,
        "curves": {name: ScoreCurves.from_scores(score) for name, score in scores.items()},
        "pictures": [row(reason=FALSE_ALARMS), row("frame_2"), row("frame_3", mask=False)],
        "latencies": LATENCIES,
        "class_colours": {"road": (128, 64, 128)},
    }


def test_shows_everything_that_was_measured() -> None:
    evaluation = full()
    html = render(**evaluation)
    page = Page(html)
    assert {"Anomaly scores", FALSE_ALARMS, MISSES, "Known classes", "The node"} <= set(
        page.headings
    )
    for text in (
        "17 frames sent, 16 scored, 1 lost",
        "4 dropped by node",
        "1,234 anomalous and 5,678,901 in-distribution pixels",
        "two frames had no mask",
        "60.50 %",
        "3.1e-08",
        "median <b>15.5 ms</b>",
        "precision: fp32",
        "bag: /a/b",
        "&gt;= 0.95",
        "frame_3",
    ):
        assert text in html, text
    for name, figures in evaluation["result"].scores.items():
        assert f"<code>{name}</code>" in html
        assert f"{figures.AUROC:.2f}" in html
    assert len(page.ids) == len(set(page.ids))


def test_is_self_contained() -> None:
    html = render(**full())
    assert all(link is None or link.startswith("data:image/") for link in Page(html).links)
    assert not re.search(r"https?://|url\(|@import", html)


def test_images_are_small_and_described() -> None:
    images = [image for image in Page(render(**full())).images if image.get("src")]
    assert len(images) == 3 * 4 - 1, "input, overlay, heat map, and a mask where there is one"
    for image in images:
        assert "frame" in image["alt"]
        encoded = base64.b64decode(image["src"].split(",")[1])
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[1] == 640


def test_marks_the_best_figures() -> None:
    html = render(**full())
    best_row = html[html.index('data-score="max_logit"') :].split("</tr>")[0]
    assert best_row.count('class="best"') == 3
    assert html.count('class="best"') == 3


def test_leads_with_the_score_of_the_node_or_else_the_best() -> None:
    result = full()["result"]
    assert headline_score(result) == "msp"
    result.node = None
    assert headline_score(result) == "max_logit"
    result.scores = {"sml": ScoreFigures()}
    assert headline_score(result) == "sml"
    assert headline_score(EvaluationResult("m")) is None


def test_a_bin_that_would_flatten_all_others_is_cut_and_labelled() -> None:
    piled_up = PixelScores()
    score = np.r_[np.zeros(900), np.linspace(0, 1, 100)].astype(np.float32)[None]
    piled_up.update(score, (score > 0.5).astype(np.uint8))
    result = EvaluationResult("m", scores={"msp": ScoreFigures(1, 2, 3)})
    assert "↑ 95%" in render(result, {"msp": ScoreCurves.from_scores(piled_up)})
    assert "↑ " not in re.sub(r"<thead>.*</thead>", "", render(**full()), flags=re.DOTALL)


def test_text_from_outside_is_escaped() -> None:
    evaluation = full()
    evil = "<script>alert(1)</script>"
    evaluation["result"].model = evaluation["result"].dataset = evil
    evaluation["result"].notes = [evil]
    evaluation["result"].configuration = {evil: evil}
    evaluation["result"].scores[evil] = ScoreFigures(1, 2, 3)
    evaluation["curves"][evil] = ScoreCurves.from_scores(pixels())
    evaluation["pictures"] = [row(evil)]
    html = render(**evaluation)
    assert "<script>alert" not in html
    Page(html)


def test_a_bare_result_makes_a_page() -> None:
    html = render(EvaluationResult("m"), {})
    page = Page(html)
    assert not {"The node", "Known classes", "Anomaly scores"} & set(page.headings)


def test_undefined_figures_are_dashes() -> None:
    nothing = PixelScores()
    nothing.update(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8))
    result = EvaluationResult(
        "m",
        scores={"msp": ScoreFigures()},
        segmentation=SegmentationFigures(IoU={"train": float("nan")}),
        node=NodeFigures("msp"),
        latency_ms=LatencySummary(),
    )
    html = render(result, {"msp": ScoreCurves.from_scores(nothing)}, latencies=[5.0, 5.0])
    Page(html)
    assert not re.search(r"\bnan\b", html)
    assert "–" in html
    assert "Precision and recall" not in html
    assert "average precision, higher is better" not in html, "no tile without a figure"


def test_charts_need_pixels_of_both_kinds() -> None:
    assert "Precision and recall" in render(**full())
    assert "average precision, higher is better" in render(**full())
    nothing = {"msp": ScoreCurves.from_scores(PixelScores())}
    html = render(EvaluationResult("m", scores={"msp": ScoreFigures()}), nothing)
    assert "How the scores separate" not in html


def test_inline_image_keeps_colours_and_masks_exact() -> None:
    flat = np.full((20, 30, 3), (250, 120, 10), np.uint8)
    for lossless, tolerance in ((False, 6), (True, 0)):
        encoded = base64.b64decode(inline_image(flat, lossless).split(",")[1])
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - flat).max() <= tolerance


def test_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.html"
    write_report(**full(), path=path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match=r"cannot write .*report\.html"):
        write_report(**full(), path=path / "report.html")
