# SPDX-License-Identifier: Apache-2.0
"""Every figure that docs/results.md, the README and the model cards cite stands in its row.

A sentence names rows in *italics*, scores as ``code``, sets and metrics by their names, and links
the table, or an earlier sentence of its paragraph does. Its decimal figures are looked up there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from training.engine.config import CONFIGS
from training.study.experiments import read_study
from training.study.page import seeds_mean
from training.study.results import read_results

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results.md"
EVALUATION = REPOSITORY / "docs" / "evaluation.md"
CITING = [
    REPOSITORY / "README.md",
    EVALUATION,
    *sorted((REPOSITORY / "anomaly_seg_ros/weights").glob("*.md")),
]
STUDY = read_study(CONFIGS / "study.yaml")
SETS = {key: where["title"] for key, where in STUDY["sets"].items()}
METRICS = ("AP", "AUROC", "FPR95", "mIoU")
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?!\w|\.\d)")


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@functools.lru_cache
def sections(path: Path) -> dict[str, str]:
    """Anchor -> text below the heading, of the headings of all levels."""
    parts = re.split(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {anchor(heading): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and bullets on one line each, without code blocks, tables and definitions."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for part in re.split(r"\n\s*\n|\n(?=- )", text):
        if not re.match(r"\s*(\||\[[^]]+\]:|<!--)", part):
            yield " ".join(part.split())


def sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[\w)*`%][.?]) +(?=[A-Z*`])", paragraph)


def links(sentence: str, definitions: dict[str, str], page: Path) -> list[tuple[Path, str]]:
    """(page, anchor) of each link to a section in this repository."""
    targets = re.findall(r"\]\(([^)]+)\)", sentence)
    targets += [definitions.get(n, "") for n in re.findall(r"\[([^]]+)\](?![(\[])", sentence)]
    split = (target.split("#") for target in targets if re.match(r"[^:]*#", target))
    return [((page.parent / file).resolve() if file else page, name) for file, name in split]


def carried(sentence: str, table: tuple[Path, str]) -> set[str]:
    """The figures of a table that a sentence may cite, by the rows and columns it names."""
    path, name = table
    plain = re.sub(r"\*\*.*?\*\*", "", sentence)
    rows = re.findall(r"\*([^*]+)\*", plain)
    codes = re.findall(r"`([^`]+)`", plain)
    if path != RESULTS or name not in study_tables():
        lines = [line for line in sections(path)[name].splitlines() if line.startswith("|")]
        cells = [(line.split("|")[1], line) for line in lines]
        named = [line for first, line in cells if any(n in first for n in (*rows, *codes))]
        return set(FIGURE.findall(" ".join(named)))
    sets = [key for key, title in SETS.items() if title in sentence] or list(SETS)
    metrics = [metric for metric in METRICS if metric in sentence] or METRICS
    cited = []
    for row in (study_tables()[name][row] for row in rows if row in study_tables()[name]):
        if "mIoU" in metrics:
            cited += [seeds_mean(values) for values in row["mIoU"].values()]
        for score in set(row["scores"]).intersection(codes) or row["scores"]:
            cells = (row["scores"][score][key] for key in sets)
            cited += [printed(c[m]) for c in cells for m in metrics if m in c]
    return set(FIGURE.findall(" ".join(cited)))


def printed(figure: Mapping[str, Sequence[float]]) -> str:
    """Mean, spread, interval and difference of a figure, as on the page."""
    others = (*figure["interval"], *figure.get("difference", ()))
    return " ".join([seeds_mean(figure["seeds"]), *(f"{abs(value):.1f}" for value in others)])


@functools.lru_cache
def study_tables() -> dict[str, Mapping[str, Any]]:
    """Anchor -> rows, of the tables with results."""
    tables = read_results(RESULTS.with_suffix(".json"))["tables"]
    return {anchor(STUDY["tables"][key]["title"]): rows for key, rows in tables.items()}


def unsupported(page: Path, text: str, everything: bool) -> Iterator[str]:
    """Sentences with a figure that no row which they name holds.

    Args:
        page: Where the text stands.
        text: Markdown.
        everything: Also sentences that link no table.
    """
    definitions = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", page.read_text(), flags=re.M))
    for paragraph in paragraphs(text):
        tables: list[tuple[Path, str]] = []
        for sentence in sentences(paragraph):
            tables = links(sentence, definitions, page) or tables
            if not tables and not everything:
                continue
            words = re.sub(r"\]\([^)]*\)|`[^`]*`|(?<!\*)\*[^*]+\*(?!\*)", "", sentence)
            held = set().union(*(carried(sentence, table) for table in tables))
            for figure in FIGURE.findall(words):
                if figure not in held:
                    yield f"{figure}: {sentence}"


def test_each_figure_in_the_reading_of_the_tables_stands_in_a_row_it_names() -> None:
    text = sections(RESULTS)["what-the-rows-say"]
    assert not list(unsupported(RESULTS, text, everything=True))


@pytest.mark.parametrize("page", CITING, ids=lambda path: path.stem)
def test_the_figures_that_others_take_from_the_results_stand_there(page: Path) -> None:
    """In paragraphs that link a table, after the link."""
    text = page.read_text(encoding="utf-8")
    assert not list(unsupported(page, text, everything=False))


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("`energy` AP of *closed-set model* on ObstacleTrack is 59.1 ([Before]).", False),
        ("`energy` AP of *closed-set model* on ObstacleTrack is 59.2 ([Before]).", True),
        ("`energy` AP of *closed-set model* on RoadAnomaly is 59.1 ([Before]).", True),
        ("`energy` FPR95 of *closed-set model* on ObstacleTrack is 59.1 ([Before]).", True),
        ("`max_logit` AP of *closed-set model* on ObstacleTrack is 59.1 ([Before]).", True),
        ("`energy` AP of *erfnet_open_set* on ObstacleTrack is 59.1 ([Before]).", True),
        ("`energy` AP of *closed-set model* on ObstacleTrack is 59.1.", True),
        ("The probe is right in 0.980 of the cases with *none* ([Probe]).", False),
        ("The probe is right in 0.981 of the cases with *none* ([Probe]).", True),
    ],
)
def test_a_figure_of_another_row_score_set_or_metric_is_found(sentence: str, wrong: bool) -> None:
    assert bool(list(unsupported(RESULTS, sentence, everything=True))) is wrong


# Heading in docs/evaluation.md -> set.
MEASURED_SETS = {
    "RoadAnomaly": "road_anomaly",
    "SegmentMeIfYouCan ObstacleTrack": "obstacle",
    "Fishyscapes Lost & Found": "lost_and_found",
    "Fishyscapes Static": "static",
}
# Columns of the small table in the README.
SMALL_TABLE = ("lost_and_found", "static", "road_anomaly", "obstacle")
# Row of the table of shipped models -> model.
SHIPPED = {
    "shipped default model": "default",
    "deeplab_lite0_open_set": "deeplab_lite0_open_set",
    "closed-set model": "closed_set",
    "erfnet_open_set": "erfnet_open_set",
    "ERFNet, public": "erfnet",
}


def measured_figures() -> dict[tuple[str, str, str], list[float]]:
    """(set, score, model) -> AP, AUROC, FPR95 of the table of measurements."""
    text = sections(EVALUATION)["measured"]
    rows = [
        [cell.strip(" `*") for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    models = rows[0][1:]
    title, found = "", {}
    for first, *cells in rows[2:]:
        named = [name for heading, name in MEASURED_SETS.items() if first.startswith(heading)]
        title = named[0] if named else title
        for model, cell in zip(models, cells, strict=True):
            if " / " in cell:
                found[title, first, model] = [float(figure) for figure in cell.split(" / ")]
    return found


def test_the_measurements_and_the_results_agree_on_the_models_that_both_measure() -> None:
    """The node in lock-step there, the study here, which adds in another order."""
    measured = measured_figures()
    rows = read_results(RESULTS.with_suffix(".json"))["tables"]["shipped"]
    compared = 0
    for row, model in SHIPPED.items():
        # A row without a result is not on the page.
        for score, by_set in rows.get(row, {"scores": {}})["scores"].items():
            for key, cell in by_set.items():
                expected = measured.get((key, score, model), ())
                for metric, figure in zip(METRICS, expected, strict=False):
                    where = f"{row}, {score}, {key}, {metric}"
                    assert cell[metric]["seeds"] == pytest.approx([figure], abs=0.011), where
                    compared += 1
    assert compared > 100


def test_the_small_table_of_the_readme_stands_in_the_measurements() -> None:
    measured = measured_figures()
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [re.match(r"\| `(\w+)`, `(\w+)` \| (.*) \|$", line) for line in lines]
    found = [row.groups() for row in rows if row]
    assert {model for model, _, _ in found} == {model for *_, model in measured}
    for model, score, cells in found:
        for title, cell in zip(SMALL_TABLE, cells.split(" | "), strict=True):
            ap, _, fpr95 = measured[title, score, model]
            assert cell == f"{ap:.2f} / {fpr95:.2f}", (model, title)
