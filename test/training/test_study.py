from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from anomaly_seg_ros.errors import CheckpointError, ParameterError
from training.config import CONFIGS, load_config, to_dataclass
from training.flow.joint import FlowOptions
from training.losses import build_loss
from training.study import Row, read_rows, run_row
from training.study_measure import MeasureOptions
from training.study_tables import write_tables

STUDY = {
    "sets": {"street": {"title": "Street", "adapter": "folder", "root": "street"}},
    "common": {"default": ["steps=10"]},
    "tables": {
        "losses": {
            "title": "Losses",
            "model": "default",
            "scores": ["energy", "dense_hybrid"],
            "seeds": {"top-K": [1, 2]},
            "rows": {"before": None, "top-K": ["loss.name=top_k_ovr"]},
        },
        "again": {
            "title": "Again",
            "model": "default",
            "scores": ["energy"],
            "rows": {"the same": ["loss.name=top_k_ovr"]},
        },
    },
}


def result(ap: float) -> dict:
    return {
        "asked": ["energy"],
        "sets": {"street": {"energy": {"AP": ap, "AUROC": 0.5, "FPR95": 0.25}}},
        "mIoU": 0.5,
    }


def test_equal_trainings_share_a_folder() -> None:
    tables = read_rows(STUDY)
    first, second = (row for row in tables["losses"] if row.name == "top-K")
    assert first.folder != second.folder
    assert tables["again"][0].folder == first.folder
    assert set(tables["again"][0].scores) == {"energy", "dense_hybrid"}


def test_a_finished_row_is_not_run_again(tmp_path: Path) -> None:
    row = Row("x", "no such model", ("steps=1",), 1, ("energy",))
    (tmp_path / row.folder).mkdir()
    (tmp_path / row.folder / "result.json").write_text(json.dumps(result(0.1)))
    run_row(row, STUDY, tmp_path, tmp_path, "cpu")


def test_a_finished_row_is_run_again_for_another_score(tmp_path: Path) -> None:
    row = Row("x", "no such model", None, 0, ("energy", "odin"))
    (tmp_path / row.folder).mkdir()
    (tmp_path / row.folder / "result.json").write_text(json.dumps(result(0.1)))
    with pytest.raises(CheckpointError, match="no such model"):
        run_row(row, STUDY, tmp_path, tmp_path, "cpu")


def test_tables_show_percent_means_and_deviations(tmp_path: Path) -> None:
    tables = read_rows(STUDY)
    before, first, second = tables["losses"]
    path = tmp_path / "results.md"
    path.write_text("intro\n")
    results = {before.folder: result(0.1), first.folder: result(0.2), second.folder: result(0.4)}
    write_tables(path, STUDY, tables, results)
    lines = path.read_text().splitlines()
    assert lines[0] == "intro"
    assert "| before | `energy` | 10.0 / 25.0 | 50.0 |" in lines
    assert "| top-K (2 seeds) | `energy` | **30.0 ± 14.1** / 25.0 ± 0.0 | 50.0 ± 0.0 |" in lines
    # No model offers DenseHybrid here: no row for it.
    assert "dense_hybrid" not in path.read_text()


def test_tables_are_replaced_and_the_text_around_them_stays(tmp_path: Path) -> None:
    tables = read_rows(STUDY)
    path = tmp_path / "results.md"
    path.write_text("before\n")
    for ap in (0.1, 0.9):
        write_tables(path, STUDY, tables, {tables["losses"][0].folder: result(ap)})
    text = path.read_text() + "after\n"
    assert text.count("### Losses") == 1
    assert "90.0" in text
    assert "10.0" not in text


def test_a_table_of_an_unknown_model() -> None:
    table = {**STUDY["tables"]["again"], "model": "erfnet"}
    with pytest.raises(ParameterError, match="erfnet"):
        read_rows({**STUDY, "tables": {"again": table}})


def test_an_unknown_score() -> None:
    table = {**STUDY["tables"]["again"], "scores": ["energi"]}
    with pytest.raises(ParameterError, match="energi"):
        read_rows({**STUDY, "tables": {"again": table}})


def test_an_override_that_yaml_reads_as_a_mapping() -> None:
    rows = yaml.safe_load("top-K:\n- loss.options={k: 3}")
    table = {**STUDY["tables"]["again"], "rows": rows}
    with pytest.raises(ParameterError, match="quote"):
        read_rows({**STUDY, "tables": {"again": table}})


def test_a_row_of_another_model() -> None:
    table = {**STUDY["tables"]["losses"], "models": {"before": "erfnet"}}
    before, *trained = read_rows({**STUDY, "tables": {"losses": table}})["losses"]
    assert before.model == "erfnet"
    assert before.folder == "erfnet-untrained"
    assert {row.model for row in trained} == {"default"}


def test_every_row_of_the_shipped_study_is_a_valid_configuration() -> None:
    study = yaml.safe_load((CONFIGS / "study.yaml").read_text())
    assert to_dataclass(MeasureOptions, study["measure"]).miou_every > 0
    trained = 0
    for rows in read_rows(study).values():
        for row in rows:
            if row.overrides is not None:
                config = load_config(CONFIGS / "fine_tune.yaml", None, row.overrides)
                build_loss(config["loss"]["name"], config["loss"]["options"])
                to_dataclass(FlowOptions, config["flow"]["options"])
                assert json.dumps(config)
                trained += 1
    assert trained > 10


def test_the_flow_of_the_study_is_made_by_one_command() -> None:
    """The one that docs/results.md and study.yaml name, with keys that exist."""
    docs = Path(__file__).parents[2] / "docs" / "results.md"
    commands = []
    for path in (docs, CONFIGS / "study.yaml"):
        text = path.read_text().replace("\\\n#", "").replace("\\\n", "")
        (command,) = re.findall(r"python -m training\.train_flow --run-dir runs/flow (.*)", text)
        commands.append(command.split())
    assert commands[0] == commands[1]
    _, size, _, *overrides = commands[0]
    config = load_config(CONFIGS / "flow.yaml", None, [f"size={size}", *overrides])
    assert (config["size"], config["steps"], config["lr"]) == ("small", 700, 2e-3)


def test_the_shipped_fine_tuning_is_a_valid_configuration() -> None:
    config = load_config(CONFIGS / "fine_tune.yaml", CONFIGS / "default_model.yaml")
    assert build_loss(config["loss"]["name"], config["loss"]["options"]).needs_outlier_head
