"""Every figure that docs/results.md, the README and the model cards cite stands in its row.

A sentence names rows in *italics*, scores as ``code``, sets and metrics by their names, and links
the table, or an earlier sentence of its paragraph does. Its decimal figures are looked up there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from training.study.tables import Line, read_table

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results.md"
EVALUATION = REPOSITORY / "docs" / "evaluation.md"
CITING = [
    REPOSITORY / "README.md",
    EVALUATION,
    *sorted((REPOSITORY / "anomaly_seg_ros/weights").glob("*.md")),
]
STUDY = yaml.safe_load((REPOSITORY / "training" / "configs" / "study.yaml").read_text())
SETS = [where["title"] for where in STUDY["sets"].values()]
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
    text = sections(path)[name]
    plain = re.sub(r"\*\*.*?\*\*", "", sentence)
    rows = re.findall(r"\*([^*]+)\*", plain)
    codes = re.findall(r"`([^`]+)`", plain)
    if path != RESULTS:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [(line.split("|")[1], line) for line in lines]
        named = [line for first, line in cells if any(n in first for n in (*rows, *codes))]
        return set(FIGURE.findall(" ".join(named)))
    lines = list(read_table(text))
    sets = [title for title in SETS if title in sentence] or SETS
    metrics = [metric for metric in METRICS if metric in sentence] or METRICS
    scores = {line.score for line in lines}.intersection(codes) or {line.score for line in lines}
    cited = []
    for line in (line for line in lines if line.row in rows):
        cited += [line.miou] if "mIoU" in metrics else []
        if line.score in scores:
            cells = (line.cells[title] for title in sets)
            cited += [cell[metric] for cell in cells for metric in metrics if metric in cell]
    return set(FIGURE.findall(" ".join(cited)))


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
    text = sections(RESULTS)["reading-the-tables"]
    assert not list(unsupported(RESULTS, text, everything=True))
    assert len(FIGURE.findall(text)) > 100


@pytest.mark.parametrize("page", CITING, ids=lambda path: path.stem)
def test_the_figures_that_others_take_from_the_results_stand_there(page: Path) -> None:
    """In paragraphs that link a table, after the link."""
    text = page.read_text(encoding="utf-8")
    assert not list(unsupported(page, text, everything=False))


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("`energy` AP of *before* on ObstacleTrack is 59.1 ([Losses]).", False),
        ("`energy` AP of *before* on ObstacleTrack is 59.2 ([Losses]).", True),
        ("`energy` AP of *before* on RoadAnomaly is 59.1 ([Losses]).", True),
        ("`energy` FPR95 of *before* on ObstacleTrack is 59.1 ([Losses]).", True),
        ("`max_logit` AP of *before* on ObstacleTrack is 59.1 ([Losses]).", True),
        ("`energy` AP of *uniform* on ObstacleTrack is 59.1 ([Losses]).", True),
        ("`energy` AP of *before* on ObstacleTrack is 59.1.", True),
        ("mIoU of *before* is 52.0 ([Losses]).", False),
        ("The probe is right in 0.980 of the cases with *none* ([Probe]).", False),
        ("The probe is right in 0.981 of the cases with *none* ([Probe]).", True),
    ],
)
def test_a_figure_of_another_row_score_set_or_metric_is_found(sentence: str, wrong: bool) -> None:
    assert bool(list(unsupported(RESULTS, sentence, everything=True))) is wrong


# Heading in docs/evaluation.md -> set.
MEASURED_SETS = {
    "RoadAnomaly": "RoadAnomaly",
    "SegmentMeIfYouCan ObstacleTrack": "ObstacleTrack",
    "Fishyscapes Lost & Found": "Lost & Found",
    "Fishyscapes Static": "Static",
}
# Columns of the small table in the README.
SMALL_TABLE = ("Lost & Found", "Static", "RoadAnomaly", "ObstacleTrack")
# Model -> its rows without training.
UNTRAINED = {
    "default": ["shipped default model"],
    "closed_set": ["closed-set model", "closed-set default model", "before"],
    "erfnet_open_set": ["erfnet_open_set"],
    "erfnet": ["ERFNet, public", "ERFNet", "before"],
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
    """The node in lock-step there, the study here; the measurements have one digit more."""
    measured = measured_figures()
    compared = 0
    for heading, text in sections(RESULTS).items():
        models = ["erfnet"] if heading.startswith("erfnet") else list(UNTRAINED)
        for line in read_table(text) if "| score |" in text else ():
            for model in [m for m in models if line.row in UNTRAINED[m]][:1]:
                for title, cell in line.cells.items():
                    expected = measured.get((title, line.score, model))
                    for metric, figure in zip(METRICS, expected or (), strict=False):
                        if metric in cell:
                            where = f"{heading}, {line.row}, {line.score}, {title}, {metric}"
                            assert float(cell[metric]) == pytest.approx(figure, abs=0.0551), where
                            compared += 1
    assert compared > 300


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


def figures(table: str, row: str, score: str, metric: str) -> list[float]:
    """Means on the four sets."""
    definitions = dict(re.findall(r"^\[([^]]+)\]: #(\S+)$", RESULTS.read_text(), flags=re.M))
    lines: list[Line] = list(read_table(sections(RESULTS)[definitions[table]]))
    (line,) = (line for line in lines if (line.row, line.score) == (row, score))
    return [float(line.cells[title][metric].split()[0]) for title in SETS]


def rows(table: str) -> list[str]:
    definitions = dict(re.findall(r"^\[([^]]+)\]: #(\S+)$", RESULTS.read_text(), flags=re.M))
    return list(dict.fromkeys(x.row for x in read_table(sections(RESULTS)[definitions[table]])))


def lower(table: str, row: str, than: str, score: str, metric: str) -> list[bool]:
    """On each set, whether a row's figure is below another row's."""
    pairs = zip(*(figures(table, name, score, metric) for name in (row, than)), strict=True)
    return [a < b for a, b in pairs]


def outliers_gain_most_on_obstacle_track() -> bool:
    before = figures("Losses", "before", "energy", "AP")
    losses = [name for name in rows("Losses") if name not in NO_OUTLIERS]
    gains = [
        [b - a for a, b in zip(before, figures("Losses", loss, "energy", "AP"), strict=True)]
        for loss in losses
    ]
    return len(losses) == 7 and all(max(gain) == gain[1] for gain in gains)


def styles_lower_fpr95(count_by_set: tuple[int, int, int, int]) -> bool:
    styles = [name for name in rows("Style") if name != "none"]
    each = [lower("Style", style, "none", "energy", "FPR95") for style in styles]
    return len(styles) == 4 and tuple(map(sum, zip(*each, strict=True))) == count_by_set


def styles_lower_ap(sets: tuple[int, ...], most: str) -> bool:
    """Every style, on these sets, and one of them most."""
    styles = [name for name in rows("Style") if name != "none"]
    aps = {name: figures("Style", name, "energy", "AP") for name in styles}
    none = figures("Style", "none", "energy", "AP")
    return all(
        max(ap[i] for ap in aps.values()) < none[i]
        and min(aps, key=lambda name, i=i: aps[name][i]) == most
        for i in sets
    )


def max_min_logit_loses_ap(table: str, row: str) -> bool:
    of, others = (figures(table, row, score, "AP") for score in ("max_min_logit", "energy"))
    return all(a < b for a, b in zip(of, others, strict=True))


def hybrid_ap_is_below_the_better_part() -> bool:
    hybrid, *parts = (
        figures("Before and after", "shipped default model", score, "AP")
        for score in ("dense_hybrid", "energy", "outlier_head")
    )
    return all(h < max(both) for h, *both in zip(hybrid, *parts, strict=True))


def ap_falls_with_k(set_index: int) -> bool:
    rows = ("K = 3", "K = 5", "K = 7", "all classes")
    aps = [figures("K", row, "energy", "AP")[set_index] for row in rows]
    return aps == sorted(aps, reverse=True)


NO_OUTLIERS = ("before", "cross-entropy only")
CLAIMS: dict[str, Callable[[], bool]] = {
    "Each outlier loss gains more AP there than on any other set": (
        outliers_gain_most_on_obstacle_track
    ),
    "ObstacleTrack and Static order `energy` AP alike": lambda: all(
        map(ap_falls_with_k, (1, 2, 3))
    ),
    "RoadAnomaly does not": lambda: not ap_falls_with_k(0),
    "AP falls on all four sets": lambda: max_min_logit_loses_ap("Losses", "top-K OvR"),
    "The *shipped default model* loses AP by it on all sets": lambda: max_min_logit_loses_ap(
        "Before and after", "shipped default model"
    ),
    "It suits *PEBAL* better: FPR95 falls on all four sets": lambda: all(
        after < before
        for after, before in zip(
            figures("Losses", "PEBAL", "max_min_logit", "FPR95"),
            figures("Losses", "PEBAL", "energy", "FPR95"),
            strict=True,
        )
    ),
    "On RoadAnomaly and Static every style lowers AP, most of all *Lab histogram*": (
        lambda: styles_lower_ap((0, 3), "Lab histogram")
    ),
    "Every style raises it on RoadAnomaly and Static": lambda: styles_lower_fpr95((0, 4, 3, 0)),
    "FPR95 of `outlier_head` falls on all four sets": lambda: all(
        lower("Shortcuts", "decoys", "neither", "outlier_head", "FPR95")
    ),
    "lies below the better part on every set": hybrid_ap_is_below_the_better_part,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_about_several_rows_holds(claim: str) -> None:
    assert claim in " ".join(RESULTS.read_text().split())
    assert CLAIMS[claim]()
