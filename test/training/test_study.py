from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny import tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.errors import CheckpointError, ParameterError
from training.engine.config import CONFIGS, load_config, to_dataclass
from training.flow.synthetic_negatives import FlowOptions
from training.losses import build_loss
from training.study.experiments import Experiment, protocol, read_experiments
from training.study.measure import MeasureOptions
from training.study.run import main, run_experiment
from training.study.tables import read_table, write_tables

REPOSITORY = Path(__file__).parents[2]
STREET = {"title": "Street", "adapter": "folder", "root": "street"}
STUDY = {
    "sets": {"street": STREET},
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


def result(ap: float, **changes: object) -> dict:
    """As it was written before results had a protocol."""
    return {
        **changes,
        "asked": ["energy"],
        "sets": {"street": {"energy": {"AP": ap, "AUROC": 0.5, "FPR95": 0.25}}},
        "mIoU": 0.5,
    }


def test_equal_trainings_share_a_folder() -> None:
    tables = read_experiments(STUDY)
    first, second = (row for row in tables["losses"] if row.name == "top-K")
    assert first.folder != second.folder
    assert tables["again"][0].folder == first.folder
    assert set(tables["again"][0].scores) == {"energy", "dense_hybrid"}


def test_models_as_they_are_share_a_folder_only_by_their_path() -> None:
    """Every fine-tuned model is called final.safetensors; shipped ones keep their folders."""
    models = ("default", "erfnet", "runs/a/final.safetensors", "runs/b/final.safetensors")
    rows = [Experiment("x", model, None, 0, ("energy",)) for model in models]
    assert [row.folder for row in rows[:2]] == ["default-untrained", "erfnet-untrained"]
    assert len({row.folder for row in rows}) == len(rows)


def test_a_row_at_another_size_is_measured_at_it_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_frames(tmp_path / "street", (0, 1), 1)
    write_frames(tmp_path / "cityscapes256" / "val", tuple(range(19)), 2)
    save_model(tmp_path / "a.safetensors", tiny_network(), tiny_metadata())
    table = {"title": "Sizes", "model": str(tmp_path / "a.safetensors"), "scores": ["energy"]}
    rows = {"own": None, "small": None}
    study = {**STUDY, "tables": {"x": {**table, "rows": rows, "sizes": {"small": [32, 32]}}}}
    own, small = read_experiments(study)["x"]
    assert (own.size, small.size) == (None, (32, 32))
    assert small.folder == f"{own.folder}-32x32"
    for row in (own, small):
        run_experiment(row, study, tmp_path, tmp_path, "cpu")
    figures = [
        json.loads((tmp_path / row.folder / "result.json").read_text())["sets"]["street"]
        for row in (own, small)
    ]
    assert figures[0] != figures[1]


@pytest.mark.parametrize("size", ["512x1024", [512], [0, 16], [1.5, 2], 512])
def test_a_size_that_is_no_pair_of_pixels(size: object) -> None:
    table = {**STUDY["tables"]["again"], "sizes": {"the same": size}}
    with pytest.raises(ParameterError, match="table again, row 'the same': a size is"):
        read_experiments({**STUDY, "tables": {"again": table}})


def test_a_finished_row_is_not_run_again(tmp_path: Path) -> None:
    row = Experiment("x", "no such model", ("steps=1",), 1, ("energy",))
    (tmp_path / row.folder).mkdir()
    (tmp_path / row.folder / "result.json").write_text(json.dumps(result(0.1)))
    run_experiment(row, STUDY, tmp_path, tmp_path, "cpu")


def test_a_finished_row_is_run_again_for_another_score(tmp_path: Path) -> None:
    row = Experiment("x", "no such model", None, 0, ("energy", "odin"))
    (tmp_path / row.folder).mkdir()
    (tmp_path / row.folder / "result.json").write_text(json.dumps(result(0.1)))
    with pytest.raises(CheckpointError, match="no such model"):
        run_experiment(row, STUDY, tmp_path, tmp_path, "cpu")


def test_a_finished_training_is_measured_again_on_another_set(tmp_path: Path) -> None:
    """Not trained again; the result is an old one, which tells no more than its sets."""
    row = Experiment("x", "default", (), 1, ("energy",))
    (tmp_path / row.folder).mkdir()
    (tmp_path / row.folder / "result.json").write_text(json.dumps(result(0.1)))
    (tmp_path / row.folder / "final.safetensors").write_bytes(b"")
    more = {**STUDY, "sets": {"street": STREET, "lane": STREET}}
    with pytest.raises(CheckpointError, match=r"final\.safetensors"):
        run_experiment(row, more, tmp_path, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"sets": {"street": STREET, "lane": STREET}}, "data"),
        ({"sets": {"street": {**STREET, "root": "lane"}}}, "data"),
        ({"measure": {"miou_every": 7}}, "data"),
        ({"measure": {"scores": {"flow_steps": 7}}}, "data"),
        ({}, "other data"),
    ],
)
def test_what_was_measured_otherwise_is_measured_again(
    tmp_path: Path, changes: dict, data: str
) -> None:
    row = Experiment("x", "no such model", None, 0, ("energy",))
    (tmp_path / row.folder).mkdir()
    content = result(0.1, protocol=protocol(STUDY, tmp_path / "data"))
    (tmp_path / row.folder / "result.json").write_text(json.dumps(content))
    run_experiment(row, STUDY, tmp_path, tmp_path / "data", "cpu")
    with pytest.raises(CheckpointError, match="no such model"):
        run_experiment(row, {**STUDY, **changes}, tmp_path, tmp_path / data, "cpu")


def test_another_title_and_a_set_less_measure_nothing(tmp_path: Path) -> None:
    row = Experiment("x", "no such model", None, 0, ("energy",))
    (tmp_path / row.folder).mkdir()
    more = {**STUDY, "sets": {"street": {**STREET, "title": "Road"}, "lane": STREET}}
    content = result(0.1, protocol=protocol(more, tmp_path))
    (tmp_path / row.folder / "result.json").write_text(json.dumps(content))
    run_experiment(row, STUDY, tmp_path, tmp_path, "cpu")


def write_frames(folder: Path, labels: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(2):
        image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        mask = rng.choice(np.array(labels, np.uint8), (64, 64))
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), mask)


def test_files_of_one_name_are_measured_each_and_again_when_asked_otherwise(
    tmp_path: Path,
) -> None:
    write_frames(tmp_path / "street", (0, 1), 1)
    write_frames(tmp_path / "cityscapes256" / "val", tuple(range(19)), 2)
    models = {}
    for seed, name in enumerate(("a", "b")):
        path = tmp_path / name / "final.safetensors"
        path.parent.mkdir()
        save_model(path, tiny_network(seed=seed), tiny_metadata())
        models[name] = str(path)
    table = {"title": "Files", "model": "default", "models": models, "scores": ["energy"]}
    table["rows"] = dict.fromkeys(models)
    file, runs, tables = (tmp_path / name for name in ("study.yaml", "runs", "tables.md"))
    written = []
    for every in (1, 2):
        study = {**STUDY, "tables": {"files": table}, "measure": {"miou_every": every}}
        file.write_text(yaml.safe_dump(study))
        arguments = ["--study", str(file), "--out", str(runs), "--data", str(tmp_path)]
        # What was measured with other options is in no table.
        assert main([*arguments, "--tables", str(tables)]) == 1
        assert main([*arguments, "--device", "cpu"]) == 0
        assert main([*arguments, "--tables", str(tables)]) == 0
        written.append(re.findall(r"^\| [ab] \|.*$", tables.read_text(), re.M))
        tables.unlink()
    (first, second), again = written
    assert first.split("`energy`")[1] != second.split("`energy`")[1]
    # AP and FPR95 are the same, mIoU is that of one frame instead of two.
    assert [line.split("|")[3] for line in again] == [s.split("|")[3] for s in (first, second)]
    assert again != [first, second]


@pytest.mark.parametrize("part", ["sets", "tables"])
@pytest.mark.parametrize("key", [None, "title"])
def test_a_study_without_a_part_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, part: str, key: str | None
) -> None:
    study = json.loads(json.dumps(STUDY))
    if key is None:
        del study[part]
    else:
        del next(iter(study[part].values()))[key]
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    assert main(["--study", str(file), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"study: error: {file}: no {part}\n"
        if key is None
        else f"study: error: {file}: {part}: {next(iter(study[part]))}: no title\n"
    )


def test_tables_show_percent_means_and_deviations(tmp_path: Path) -> None:
    tables = read_experiments(STUDY)
    before, first, second = tables["losses"]
    path = tmp_path / "results.md"
    path.write_text("intro\n")
    results = {before.folder: result(0.1), first.folder: result(0.2), second.folder: result(0.4)}
    write_tables(path, STUDY, tables, results)
    lines = path.read_text().splitlines()
    assert lines[0] == "intro"
    assert "| before | `energy` | 10.0 / 50.0 / 25.0 | 50.0 |" in lines
    assert (
        "| top-K (2 seeds) | `energy` | **30.0 ± 14.1** / 50.0 ± 0.0 / 25.0 ± 0.0 | 50.0 ± 0.0 |"
        in lines
    )
    # No model offers DenseHybrid here: no row for it.
    assert "dense_hybrid" not in path.read_text()


def test_tables_are_replaced_and_the_text_around_them_stays(tmp_path: Path) -> None:
    tables = read_experiments(STUDY)
    path = tmp_path / "results.md"
    path.write_text("before\n")
    for ap in (0.1, 0.9):
        write_tables(path, STUDY, tables, {tables["losses"][0].folder: result(ap)})
    text = path.read_text() + "after\n"
    assert text.count("### Losses") == 1
    assert "90.0" in text
    assert "10.0" not in text


def test_a_table_without_results_or_that_is_not_asked_for_stays(tmp_path: Path) -> None:
    tables = read_experiments(STUDY)
    before, first, _ = tables["losses"]
    path = tmp_path / "results.md"
    write_tables(path, STUDY, tables, {before.folder: result(0.1), first.folder: result(0.2)})
    both = path.read_text()
    write_tables(path, STUDY, {"again": tables["again"]}, {first.folder: result(0.3)})
    assert path.read_text() == both.replace(
        "| the same | `energy` | **20.0**", "| the same | `energy` | **30.0**"
    )
    write_tables(path, STUDY, tables, {before.folder: result(0.4)})
    lines = path.read_text().splitlines()
    assert "| before | `energy` | **40.0** / 50.0 / 25.0 | 50.0 |" in lines
    assert "| the same | `energy` | **30.0** / 50.0 / 25.0 | 50.0 |" in lines
    assert [line for line in lines if "###" in line] == ["### Losses", "### Again"]


OLD_TABLE = """text
<!-- tables: written by training.study, do not edit -->

### Losses

|  | score | Street AP / FPR95 | mIoU |
| --- | --- | --- | --- |
| before | `energy` | 10.0 / 25.0 | 50.0 |
| top-K (2 seeds) | `energy` | **20.0 ± 1.0** / 30.0 ± 2.0 | 51.0 ± 0.1 |
|  | `dense_hybrid` | 19.0 ± 1.0 / 29.0 ± 2.0 |  |

<!-- end of tables -->
"""


@pytest.mark.parametrize(
    ("ap", "measured", "kept"),
    [(0.2, "**20.0**", "**20.0 ± 1.0**"), (0.3, "**30.0**", "20.0 ± 1.0")],
)
def test_a_row_without_a_result_keeps_its_figures_and_shows_a_dash_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture, ap: float, measured: str, kept: str
) -> None:
    """Here AUROC, which older tables lack; bold is judged over both kinds of rows."""
    path = tmp_path / "results.md"
    path.write_text(OLD_TABLE)
    tables = read_experiments(STUDY)
    for _ in range(2):
        write_tables(path, STUDY, tables, {tables["losses"][0].folder: result(ap)})
        assert path.read_text().splitlines()[5:10] == [
            "|  | score | Street AP / AUROC / FPR95 | mIoU |",
            "| --- | --- | --- | --- |",
            f"| before | `energy` | {measured} / 50.0 / 25.0 | 50.0 |",
            f"| top-K (2 seeds) | `energy` | {kept} / – / 30.0 ± 2.0 | 51.0 ± 0.1 |",
            "|  | `dense_hybrid` | 19.0 ± 1.0 / – / 29.0 ± 2.0 |  |",
        ]
        assert capsys.readouterr().out == "kept as they stand, without a result: Losses: top-K\n"


def test_a_row_that_was_measured_otherwise_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text(OLD_TABLE)
    tables = read_experiments(STUDY)
    before, first, _ = tables["losses"]
    write_tables(path, STUDY, tables, {before.folder: result(0.2), first.folder: None})
    assert "top-K" not in path.read_text()


def test_a_table_without_a_result_keeps_all_its_rows(tmp_path: Path) -> None:
    """Also those that were measured otherwise: an old table is worth more than half a one."""
    path = tmp_path / "results.md"
    path.write_text(OLD_TABLE.replace("Losses", "Again").replace("top-K", "the same"))
    tables = read_experiments(STUDY)
    before, first, _ = tables["losses"]
    write_tables(path, STUDY, tables, {before.folder: result(0.2), first.folder: None})
    assert "| the same (2 seeds) | `energy` | **20.0 ± 1.0** / – / 30.0" in path.read_text()


@pytest.mark.parametrize("wrong", ["", " / ?", " / 30.0 / 1.0", " / "])
def test_a_table_that_was_edited_by_hand_is_an_error_of_one_line(
    tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "results.md"
    path.write_text(OLD_TABLE.replace(" / 30.0 ± 2.0", wrong))
    tables = read_experiments(STUDY)
    with pytest.raises(ParameterError, match=r"does not fit its table: \| top-K"):
        write_tables(path, STUDY, tables, {tables["losses"][0].folder: result(0.2)})


def test_every_row_of_the_shipped_results_survives_being_written_again(tmp_path: Path) -> None:
    """With nothing but a result of one row, as on a machine without the run folder."""
    shipped = (REPOSITORY / "docs" / "results.md").read_text()
    study = yaml.safe_load((CONFIGS / "study.yaml").read_text())
    path = tmp_path / "results.md"
    path.write_text(shipped)
    tables = read_experiments(study)
    figures = {"AP": 0.5, "AUROC": 0.5, "FPR95": 0.5}
    scores = dict.fromkeys(study["tables"]["erfnet"]["scores"][:3], figures)
    row = tables["erfnet"][0]
    measured = {"asked": [], "sets": dict.fromkeys(study["sets"], scores), "mIoU": 0.5}
    write_tables(path, study, {"erfnet": tables["erfnet"]}, {row.folder: measured})
    written = path.read_text()
    assert written != shipped
    keys = [
        [
            (line.row, line.score, line.miou)
            for part in text.split("### ")
            for line in read_table(part)
            if line.row != "before"
        ]
        for text in (shipped, written)
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 90


def test_without_any_result_the_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text("as it was")
    with pytest.raises(ParameterError, match="no row of losses, again has a result"):
        write_tables(path, STUDY, read_experiments(STUDY), {})
    assert path.read_text() == "as it was"


@pytest.mark.parametrize("arguments", ["", "--study {study} --only losses"])
def test_make_study_writes_the_results_of_the_shipped_study_only(
    tmp_path: Path, arguments: str
) -> None:
    """The second command, which writes the tables, sees the arguments of the first one."""
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    arguments = arguments.format(study=study)
    run = tmp_path / "runs"
    done = subprocess.run(
        ["make", "-n", "study", f"RUN_DIR={run}", f"ARGS={arguments}", f"DATA={tmp_path}"],
        cwd=REPOSITORY,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if "-m training.study " in line]
    trains, writes = (words[words.index("training.study") + 1 :] for words in commands)
    if not arguments:
        assert trains == ["--out", str(run), "--data", str(tmp_path)]
        assert writes == ["--out", str(run), "--tables", "docs/results.md", *trains[2:]]
        return
    before = read_experiments(STUDY)["losses"][0]
    (run / before.folder).mkdir(parents=True)
    (run / before.folder / "result.json").write_text(json.dumps(result(0.1)))
    assert main(writes) == 0
    assert (
        "| before | `energy` | **10.0** / 50.0 / 25.0 | 50.0 |" in (run / "tables.md").read_text()
    )
    assert "--only" in trains
    assert "docs/results.md" not in writes


def test_a_table_of_an_unknown_model() -> None:
    table = {**STUDY["tables"]["again"], "model": "erfnet"}
    with pytest.raises(ParameterError, match="erfnet"):
        read_experiments({**STUDY, "tables": {"again": table}})


def test_an_unknown_score() -> None:
    table = {**STUDY["tables"]["again"], "scores": ["energi"]}
    with pytest.raises(ParameterError, match="energi"):
        read_experiments({**STUDY, "tables": {"again": table}})


def test_an_override_that_yaml_reads_as_a_mapping() -> None:
    rows = yaml.safe_load("top-K:\n- loss.options={k: 3}")
    table = {**STUDY["tables"]["again"], "rows": rows}
    with pytest.raises(ParameterError, match="quote"):
        read_experiments({**STUDY, "tables": {"again": table}})


def test_a_row_of_another_model() -> None:
    table = {**STUDY["tables"]["losses"], "models": {"before": "erfnet"}}
    before, *trained = read_experiments({**STUDY, "tables": {"losses": table}})["losses"]
    assert before.model == "erfnet"
    assert before.folder == "erfnet-untrained"
    assert {row.model for row in trained} == {"default"}


def test_every_row_of_the_shipped_study_is_a_valid_configuration() -> None:
    study = yaml.safe_load((CONFIGS / "study.yaml").read_text())
    assert to_dataclass(MeasureOptions, study["measure"]).miou_every > 0
    trained = 0
    for rows in read_experiments(study).values():
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
    docs = REPOSITORY / "docs" / "results.md"
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
