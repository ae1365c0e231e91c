# SPDX-License-Identifier: Apache-2.0
"""Tables in every form: complete, escaped, and the best figures marked."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from tiny_benchmark import SCORES, full_benchmark, replayed_run

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation import tables
from anomaly_seg_ros.evaluation.results import (
    Benchmark,
    NodeFigures,
    Replay,
    Run,
    ScoreFigures,
    Segmentation,
)
from anomaly_seg_ros.evaluation.table_formats import (
    Cell,
    Column,
    Row,
    Table,
    latex_text,
    markdown_name,
    to_latex,
    to_markdown,
    to_text,
)

EVIL = r"a_b & 50% | <i>$x^2$</i> {#~\*`"


def by_key(benchmark: Benchmark) -> dict[str, Table]:
    return {table.key: table for table in tables.benchmark_tables(benchmark)}


def best(table: Table) -> set[tuple[str, str]]:
    return {(row.labels[-1], cell.text) for row in table.rows for cell in row.cells if cell.best}


def test_the_papers_table_has_a_row_a_score_and_two_columns_a_set() -> None:
    table = by_key(full_benchmark())["pooled"]
    assert [row.labels for row in table.rows] == [
        (model, score) for model in ("default", "erfnet") for score in SCORES
    ]
    assert table.groups == [("fs_lost_and_found", 2), ("road_anomaly", 2), ("val", 1)]
    assert [cell.text for cell in table.rows[0].cells] == [
        *("20.12", "40.50", "23.12", "37.50", "60.00")
    ]
    # The highest AP and the lowest FPR95 of each set; the mIoU of the better model.
    marked = [[cell.best for cell in row.cells] for row in table.rows]
    assert marked == [[False] * 5] * 2 + [[False] * 4 + [True], [True] * 5]


def test_sections_stand_only_where_there_are_figures() -> None:
    assert set(by_key(full_benchmark())) == {
        *("pooled", "conventions", "per-image", "components", "closed-set", "open-set"),
        *("distance-1", "distance-2", "calibration", "objects"),
    }
    run = Run("m", "folder", "d", "in-process", 1, {}, scores={"msp": ScoreFigures(AP=3.0)})
    (table,) = tables.benchmark_tables(Benchmark([run]))
    assert (table.key, table.columns) == ("pooled", (Column("AP ↑", "d"),))
    assert tables.benchmark_tables(Benchmark()) == []


def test_a_model_without_anomaly_data_has_its_miou() -> None:
    run = Run("m", "cityscapes", "val", "in-process", 1, {}, Segmentation(60.0, 90.0, {}))
    table = by_key(Benchmark([run]))["pooled"]
    assert table.rows == (Row(("m", ""), (Cell("60.00"),)),)


def test_distances_are_rows_and_the_best_is_sought_along_them() -> None:
    table = by_key(full_benchmark())["distance-1"]
    assert [row.labels for row in table.rows] == [("5–10 m",), ("10–15 m",)]
    assert [cell.text for cell in table.rows[0].cells] == ["50.00", "9.00", "55.00", "9.00"]
    assert best(table) == {("5–10 m", "55.00")}
    assert {cell.text for cell in table.rows[1].cells} == {tables.UNDEFINED}


def test_ways_of_running_a_model_are_told_apart() -> None:
    benchmark = full_benchmark()
    node = Run(
        "erfnet", "folder", "road_anomaly", "node", 7, {}, scores={"msp": ScoreFigures(1.0)}
    )
    benchmark.put(node)
    labels = {row.labels[0] for row in by_key(benchmark)["pooled"].rows}
    assert labels == {"default", "erfnet (in-process)", "erfnet (node)"}


def test_best_needs_a_rival_that_is_worse() -> None:
    benchmark = full_benchmark()
    # Open-set figures exist for one model: closed mIoU is one number, shown twice.
    table = by_key(benchmark)["open-set"]
    assert best(table) == {("max_logit", "41.50"), ("max_logit", "18.50")}


def test_csv_has_every_figure_at_full_precision() -> None:
    benchmark = full_benchmark()
    benchmark.runs[0].model = 'quoted, "name"'
    text = tables.format_csv(benchmark)
    assert text.count("\r\n") == text.count("\n") == 1 + 2 * (2 * 2 + 1)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 10
    first = rows[0]
    assert first["model"] == 'quoted, "name"'
    assert float(first["AP"]) == benchmark.runs[0].scores["msp"].AP
    assert first["distance.5-10m.anomaly"] == "40"
    assert first["distance.10-15m.AP"] == first["calibration.ECE"] == ""
    assert float(first["open_set.gap"]) == 19.5
    closed = next(row for row in rows if row["data"] == "val")
    assert (closed["score"], closed["segmentation.IoU.road"]) == ("", "97.0")


def table_with(text: str) -> Table:
    cells = (Cell("1.0", best=True), Cell("–"))
    return Table(
        "k", text, ("model", "score"), (Column("x", text), Column("y", text)),
        (Row((text, text), cells), Row((text, "s"), cells)), text,
    )  # fmt: skip


def test_markdown_is_a_table_whatever_the_names_hold() -> None:
    lines = to_markdown(table_with(EVIL)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "**1.0**" in rows[2]
    assert not re.search(r"(?<!\\)[<*`]", rows[2].replace("**1.0**", ""))
    assert markdown_name("max_logit") == "`max_logit`"


def test_latex_is_balanced_whatever_the_names_hold() -> None:
    latex = to_latex(table_with(EVIL))
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [len(re.findall(r"(?<!\\)&", row)) for row in body] == [3, 3]
    bare = re.sub(r"\\[\\{}&%$#_]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[%$#~]|(?<![a-z])\^", bare)
    assert r"\textbf{1.0}" in latex
    assert r"\multicolumn{2}{c}" in latex
    assert r"\cmidrule(lr){3-4}" in latex
    assert latex_text("a_b\\") == r"a\_b\textbackslash{}"


def test_text_columns_are_in_line() -> None:
    text = to_text(by_key(full_benchmark())["pooled"])
    lines = text.splitlines()
    ruler = next(line for line in lines if line.startswith("---"))
    ends = [match.end() for match in re.finditer("-+", ruler)]
    for line in lines[lines.index(ruler) + 1 :][:4]:
        # A figure ends one before its column does; there stands a star or a space.
        assert all(line.ljust(ends[-1])[end - 2].isdigit() for end in ends[2:])
    assert "35.12*" in text


def test_the_table_of_a_replayed_bag() -> None:
    text = tables.format_run(replayed_run())
    lines = text.splitlines()
    assert lines[0] == "default on lost_and_found: 17 frames sent, 16 scored, 1 lost"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("m")}
    assert rows == {"msp": ["3.21", "88.10", "40.00*"], "max_logit": ["12.50*", "91.25*", "41.50"]}
    assert lines[4].index("3.21") + 3 == lines[5].index("12.50") + 4, "decimals are in line"
    for part in ("mIoU 60.00 %", "3.1e-08", "median 25.0 ms", "node: 2", "note: one frame"):
        assert part in text


def test_a_dash_stands_for_what_is_not_defined() -> None:
    run = Run("m", "bag", "", "in-process", 0, {}, scores={"msp": ScoreFigures()})
    run.replay = Replay(node=NodeFigures("msp"))
    text = tables.format_run(run)
    assert re.search(r"^msp +– +– +–$", text, re.MULTILINE)
    assert not re.search("nan|None", text)


def test_a_long_group_name_widens_its_columns() -> None:
    lines = to_text(table_with("n" * 60)).splitlines()
    widths = {len(line.rstrip(" *")) for line in lines[2:4]}
    assert max(widths) - min(widths) <= 2


def test_files_are_written_beside_the_benchmark(tmp_path: Path) -> None:
    benchmark = full_benchmark()
    benchmark.runs[0].notes = ["only | half"]
    paths = tables.write_tables(benchmark, tmp_path / "out")
    assert [path.name for path in paths] == ["benchmark.md", "benchmark.tex", "benchmark.csv"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(
        path.name for path in paths
    )
    markdown = paths[0].read_text(encoding="utf-8")
    assert r"only \| half" in markdown
    assert "scikit-learn's average" in markdown
    assert b"\r\r" not in paths[2].read_bytes()
    with pytest.raises(OutputError, match=r"cannot write .*benchmark\.md"):
        tables.write_tables(benchmark, paths[0])
