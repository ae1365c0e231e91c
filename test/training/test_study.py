# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
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
from training.study.experiments import Experiment, in_order, protocol, read_experiments, read_study
from training.study.image_scores import read_histograms
from training.study.run import main, run_experiment

REPOSITORY = Path(__file__).parents[2]
STREET = {"title": "Street", "adapter": "folder", "root": "street"}
STUDY = {
    "data": {
        "taxonomy": "cityscapes",
        "validation": {
            "sharp": {"adapter": "folder", "root": "sharp", "options": {"labels": "classes"}}
        },
    },
    "sets": {"street": STREET},
    "seeds": [1, 2],
    "common": ["steps=10"],
    "models": {"default": {"size": [64, 128], "overrides": ["lr=1.0"]}},
    "tables": {
        "losses": {
            "title": "Losses",
            "model": "default",
            "scores": ["energy", "dense_hybrid"],
            "rows": {"before": None, "top-K": ["loss.name=top_k_ovr"]},
        },
        "again": {
            "title": "Again",
            "model": "default",
            "scores": ["energy"],
            "rows": {"the same": ["loss.name=top_k_ovr"], "other": ["loss.name=uniform"]},
        },
    },
}


def with_table(**changes: object) -> dict:
    return {**STUDY, "tables": {"again": {**STUDY["tables"]["again"], **changes}}}


def finished(folder: Path, study: dict, data: Path, **changes: object) -> None:
    """Leaves a result as of an earlier run."""
    figures = {"AP": 0.5, "AUROC": 0.5, "FPR95": 0.25}
    result = {
        "asked": ["energy"],
        "sets": {"street": {"energy": figures}},
        "mIoU": {"sharp": 0.5},
        "protocol": protocol(study, data),
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


def test_equal_trainings_share_a_folder() -> None:
    tables = read_experiments(STUDY)
    first, second = (row for row in tables["losses"] if row.row == "top-K")
    assert first.overrides == ("steps=10", "lr=1.0", "loss.name=top_k_ovr")
    assert (first.seed, second.seed, first.size) == (1, 2, (64, 128))
    assert first.folder != second.folder
    assert tables["again"][0].folder == first.folder
    assert set(tables["again"][0].scores) == {"energy", "dense_hybrid"}


def test_the_first_seed_of_every_row_comes_before_any_second_one() -> None:
    tables = read_experiments(STUDY)
    every = [(each.row, each.seed) for each in in_order(tables, 0)]
    assert every == [("before", 0), ("top-K", 1), ("other", 1), ("top-K", 2), ("other", 2)]
    assert [(each.row, each.seed) for each in in_order(tables, 1)] == every[:3]


def test_models_as_they_are_share_a_folder_only_by_their_path() -> None:
    """Every fine-tuned model is called final.safetensors; named ones keep their folders."""
    models = ("default", "erfnet", "runs/a/final.safetensors", "runs/b/final.safetensors")
    rows = [Experiment("x", model, None, 0, ("energy",)) for model in models]
    assert [row.folder for row in rows[:2]] == ["default-untrained", "erfnet-untrained"]
    assert len({row.folder for row in rows}) == len(rows)


def test_a_row_may_have_another_model_and_size() -> None:
    rows = {"own": None, "small": None, "other": None}
    study = with_table(rows=rows, models={"other": "erfnet"}, sizes={"small": [32, 32]})
    own, small, other = read_experiments(study)["again"]
    assert (own.size, small.size, other.size) == ((64, 128), (32, 32), None)
    assert (own.folder, small.folder) == ("default-untrained-64x128", "default-untrained-32x32")
    assert other.folder == "erfnet-untrained"


@pytest.mark.parametrize("size", ["512x1024", [512], [0, 16], [1.5, 2], 512])
def test_a_size_that_is_no_pair_of_pixels(size: object) -> None:
    with pytest.raises(ParameterError, match="table again, row 'other': a size is"):
        read_experiments(with_table(sizes={"other": size}))


def test_an_unknown_score_or_reference() -> None:
    with pytest.raises(ParameterError, match="table again: unknown score 'energi'"):
        read_experiments(with_table(scores=["energi"]))
    with pytest.raises(ParameterError, match="table again: reference: no row 'none'"):
        read_experiments(with_table(reference="none"))


def test_an_override_that_yaml_reads_as_a_mapping() -> None:
    rows = yaml.safe_load("top-K:\n- loss.options={k: 3}")
    with pytest.raises(ParameterError, match="quote"):
        read_experiments(with_table(rows=rows))


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


UNKNOWN_MODEL = Experiment("x", "no such model", None, 0, ("energy",))


def test_a_finished_row_is_not_run_again(tmp_path: Path) -> None:
    finished(tmp_path / UNKNOWN_MODEL.folder, STUDY, tmp_path)
    run_experiment(UNKNOWN_MODEL, STUDY, tmp_path, tmp_path, "cpu")


def test_a_finished_row_is_run_again_for_another_score(tmp_path: Path) -> None:
    row = Experiment("x", "no such model", None, 0, ("energy", "odin"))
    finished(tmp_path / row.folder, STUDY, tmp_path)
    with pytest.raises(CheckpointError, match="no such model"):
        run_experiment(row, STUDY, tmp_path, tmp_path, "cpu")


def test_a_finished_training_is_measured_again_on_another_set(tmp_path: Path) -> None:
    """Not trained again."""
    row = Experiment("x", "default", (), 1, ("energy",))
    finished(tmp_path / row.folder, STUDY, tmp_path)
    (tmp_path / row.folder / "final.safetensors").write_bytes(b"")
    more = {**STUDY, "sets": {"street": STREET, "lane": STREET}}
    with pytest.raises(CheckpointError, match=r"final\.safetensors"):
        run_experiment(row, more, tmp_path, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"sets": {"street": STREET, "lane": STREET}}, "data"),
        ({"sets": {"street": {**STREET, "root": "lane"}}}, "data"),
        ({"data": {**STUDY["data"], "validation": {"other": {"root": "lane"}}}}, "data"),
        ({"measure": {"training_frames": 7}}, "data"),
        ({"measure": {"scores": {"flow_steps": 7}}}, "data"),
        ({}, "other data"),
    ],
)
def test_what_was_measured_otherwise_is_measured_again(
    tmp_path: Path, changes: dict, data: str
) -> None:
    finished(tmp_path / UNKNOWN_MODEL.folder, STUDY, tmp_path / "data")
    run_experiment(UNKNOWN_MODEL, STUDY, tmp_path, tmp_path / "data", "cpu")
    with pytest.raises(CheckpointError, match="no such model"):
        run_experiment(UNKNOWN_MODEL, {**STUDY, **changes}, tmp_path, tmp_path / data, "cpu")


def test_another_title_and_a_set_less_measure_nothing(tmp_path: Path) -> None:
    more = {**STUDY, "sets": {"street": {**STREET, "title": "Road"}, "lane": STREET}}
    finished(tmp_path / UNKNOWN_MODEL.folder, more, tmp_path)
    run_experiment(UNKNOWN_MODEL, STUDY, tmp_path, tmp_path, "cpu")


def write_frames(folder: Path, labels: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(2):
        image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        mask = rng.choice(np.array(labels, np.uint8), (64, 64))
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), mask)


def test_models_are_measured_with_their_histograms_and_one_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_frames(tmp_path / "street", (0, 1), 1)
    write_frames(tmp_path / "sharp", tuple(range(19)), 2)
    path = tmp_path / "a.safetensors"
    save_model(path, tiny_network(), tiny_metadata())
    rows = {"own": None, "small": None}
    table = {"title": "Files", "model": str(path), "scores": ["energy"], "rows": rows}
    study = {**STUDY, "tables": {"files": {**table, "models": {"own": "no such model"}}}}
    file, runs = tmp_path / "study.yaml", tmp_path / "runs"
    arguments = ["--study", str(file), "--out", str(runs), "--data", str(tmp_path)]
    file.write_text(yaml.safe_dump(study))
    assert main([*arguments, "--device", "cpu"]) == 1
    assert "failed: own, seed 0: model 'no such model'" in capsys.readouterr().out
    (result,) = (json.loads(path.read_text()) for path in runs.glob("*/result.json"))
    assert list(result["mIoU"]) == ["sharp"]
    assert result["device"] == "cpu"
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown\+?", result["commit"])
    (histograms,) = (read_histograms(path) for path in runs.glob("*/images.npz"))
    assert histograms["street"]["energy"].names == ("0", "1")
    assert set(result["sets"]["street"]["energy"]) == {"AP", "AUROC", "FPR95"}


def test_every_row_of_the_shipped_study_is_a_valid_configuration() -> None:
    study = read_study(CONFIGS / "study.yaml")
    tables = read_experiments(study)
    trained = [each for each in in_order(tables, 1) if each.overrides is not None]
    for row in trained:
        config = load_config(CONFIGS / "fine_tune.yaml", None, row.overrides)
        build_loss(config["loss"]["name"], config["loss"]["options"])
        to_dataclass(FlowOptions, config["flow"]["options"])
        assert not any("anomaly" in corpus["root"] for corpus in config["data"]["train"].values())
        assert json.dumps(config)
    assert len(trained) > 25
    assert len(study["seeds"]) >= 3


def test_rows_of_a_table_have_one_length_batch_crop_rate_and_size() -> None:
    """But for the shipped models, each of which is shown at its own size."""
    tables = read_experiments(read_study(CONFIGS / "study.yaml"))
    keys = ("steps", "batch_size", "crop", "height_range", "lr", "part", "schedule", "warmup")
    for key, rows in tables.items():
        configs = [
            load_config(CONFIGS / "fine_tune.yaml", None, row.overrides)
            for row in rows
            if row.overrides is not None and row.seed == 1
        ]
        assert len({json.dumps([config[key] for key in keys]) for config in configs}) <= 1
        assert key == "shipped" or len({row.size for row in rows}) == 1


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
    config = load_config(CONFIGS / "fine_tune.yaml", CONFIGS / "deeplab_lite0_open_set.yaml")
    assert build_loss(config["loss"]["name"], config["loss"]["options"]).needs_outlier_head
