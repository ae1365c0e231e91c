# SPDX-License-Identifier: Apache-2.0
"""The recipes: they parse, say what the papers say, and run in miniature."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_development
import torch
import yaml
from tiny import save_tiny_model
from tiny_papers import write_all
from tiny_releases import prefixed

from anomaly_seg_ros.checkpoints.loading import PUBLIC
from anomaly_seg_ros.evaluation.results import FPR95_KEYS
from anomaly_seg_ros.inference.backends import selection
from anomaly_seg_ros.inference.options import TORCH
from anomaly_seg_ros.models.registry import build_network
from training import recipe as entry
from training.data.block import read_data_block
from training.data.mixing.mixer import MixOptions
from training.data.views import view_options
from training.engine.config import flatten, to_dataclass
from training.flow.dense_flow import SIZES
from training.flow.synthetic_negatives import FlowOptions
from training.losses import build_loss
from training.recipes.figures import compared, markdown
from training.recipes.needs import SOURCES
from training.recipes.reading import names, overridden, read_recipe
from training.recipes.schema import FPR95_CONVENTIONS, PublishedFigures, Recipe

NAMES = names()
OF_PAPERS = [name for name in NAMES if read_recipe(name).paper]
PAPERS = Path(__file__).resolve().parents[3] / "shared" / "papers"


def configurations(recipe: Recipe, overrides: Sequence[str] = ()) -> dict[str, dict]:
    recipe, by_stage = overridden(recipe, overrides)
    return {k: s.configuration(recipe.source, by_stage[k]) for k, s in recipe.stages.items()}


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_a_recipe_names_exists(name: str) -> None:
    recipe = read_recipe(name)
    of_paper = name in OF_PAPERS
    assert (recipe.needs.gpu_gib > 0) == (recipe.needs.gpu_hours > 0) == of_paper
    assert recipe.needs.estimate
    for variant in ("", *recipe.variants):
        _, overrides = recipe.varied(variant) if variant else (recipe, ())
        for stage, config in configurations(recipe, overrides).items():
            if recipe.stages[stage].entry == "pseudo_label":
                continue
            block = read_data_block(config["data"])
            adapters = {corpus.adapter for _, _, corpus in block.corpora()}
            adapters |= {objects.adapter for objects in block.objects.values()}
            assert adapters <= SOURCES.keys()
            if recipe.stages[stage].entry == "fine_tune":
                build_loss(config["loss"]["name"], config["loss"]["options"])
                view_options(config)
                mixing = {k: v for k, v in config["mixing"].items() if k in vars(MixOptions())}
                to_dataclass(MixOptions, mixing, "mixing")
                to_dataclass(FlowOptions, config["flow"]["options"])
            if recipe.stages[stage].entry == "train_flow":
                assert config["size"] in SIZES
    assert {data.adapter for data in recipe.evaluation.sets.values()} <= SOURCES.keys()
    assert recipe.figures or not of_paper or "not at hand" in " ".join(recipe.differs)
    # A choice is noted beside the value that was chosen.
    keys = {
        f"{stage}.{key}"
        for stage, config in configurations(recipe).items()
        for key, _ in flatten({**config, "data": {}})
    }
    for choice in recipe.open_choices:
        if choice.partition(".")[0] in recipe.stages and "." in choice and ".data" not in choice:
            assert any(key.startswith(choice) for key in keys), choice


# What the issue and the papers state, by recipe and stage.
TOP_K = {
    "mixing.probability": 0.1,
    "optimizer": "adamw",
    "lr": 1e-5,
    "schedule": "poly",
    "poly_power": 0.9,
    "epochs": 20,
    "loss.name": "top_k_ovr",
    "loss.options.k": 5,
    "loss.options.slope": 2,
    "part": "classification_head",
}
HYBRID = {"loss.name": "dense_hybrid", "optimizer": "adam", "epochs": 10, "part": "all"}
REAL = {**HYBRID, "loss.options.beta": 0.03, "mixing.probability": 1}
SYNTHETIC = {
    **HYBRID,
    "loss.options.beta": 0.01,
    "mixing.probability": 0,
    "flow.lr": 1e-5,
    "flow.options.boundary_weight": 0.03,
    "flow.options.smallest": 16,
    "flow.options.largest": 216,
}
LADDER = {"lr": 1e-5, "final_lr": 1e-7, "schedule": "cosine", "backbone_factor": 0.25}
FLOW = {"size": "45-6", "crop": [64, 64]}
CLOSED = {"epochs": 120, "decoder_lr": 4e-4, "backbone_lr": 1e-4, "start": "imagenet"}
STATED = {
    "topk_ovr_wide_resnet38": {"fine_tune": {**TOP_K, "loss.options.gamma": 0.05}},
    "topk_ovr_resnet101": {"fine_tune": {**TOP_K, "loss.options.gamma": 0.01}},
    "densehybrid_wide_resnet38": {"fine_tune": {**REAL, "lr": 1e-6, "schedule": "constant"}},
    "densehybrid_wide_resnet38_mix": {"fine_tune": {**REAL, "lr": 1e-6}},
    "densehybrid_segment_me": {"fine_tune": REAL},
    "densehybrid_street_hazards": {"closed_set": CLOSED, "fine_tune": {**REAL, **LADDER}},
    "syn_densehybrid_wide_resnet38": {"flow": FLOW, "fine_tune": {**SYNTHETIC, "lr": 1e-6}},
    "syn_densehybrid_street_hazards": {
        "closed_set": CLOSED,
        "flow": FLOW,
        "fine_tune": {**SYNTHETIC, **LADDER},
    },
}


@pytest.mark.parametrize("name", OF_PAPERS)
def test_hyper_parameters_are_the_papers(name: str) -> None:
    found = configurations(read_recipe(name))
    for stage, stated in STATED[name].items():
        values = dict(flatten(found[stage]))
        assert {key: values[key] for key in stated} == stated


def test_the_page_repeats_the_estimates() -> None:
    page = (Path(entry.__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in OF_PAPERS:
        needs = read_recipe(name).needs
        wanted = f"{needs.gpu_gib:g} GiB, {needs.gpu_hours:g} h |"
        assert re.search(rf"^\| `{name}` .*{re.escape(wanted)}$", page, re.MULTILINE), name


@pytest.mark.parametrize("name", OF_PAPERS)
def test_figures_stand_in_the_paper(name: str) -> None:
    """All values of a row stand in one line of the paper's text."""
    if not PAPERS.is_dir():
        pytest.skip("the papers are not here")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PAPERS.glob("*.txt")))
    lines = [{float(x) for x in re.findall(r"\d+\.\d+", line)} for line in text.splitlines()]
    recipe = read_recipe(name)
    rows = [*recipe.figures, *(f for v in recipe.variants.values() for f in v.figures)]
    for row in rows:
        if not row.row.endswith("w. Style Align."):  # a sum
            assert any(set(row.values.values()) <= line for line in lines), row


def test_the_closed_set_model_of_street_hazards_serves_both() -> None:
    """The finished folder of one recipe may be copied to the other."""
    real, synthetic = (
        configurations(read_recipe(f"{kind}densehybrid_street_hazards"))["closed_set"]
        for kind in ("", "syn_")
    )
    assert real == synthetic


def test_what_may_be_wrong_in_a_recipe(tmp_path: Path) -> None:
    text = yaml.safe_load(
        (Path(entry.__file__).parent / "recipes" / "topk_ovr_wide_resnet38.yaml").read_text()
    )

    def error(change: Callable[[dict], object]) -> str:
        content = json.loads(json.dumps(text))
        change(content)
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(entry.ParameterError) as caught:
            configurations(read_recipe(str(tmp_path / "mine.yaml")))
        return str(caught.value)

    stage = "fine_tune"
    assert "mine.yaml: tabels: " in error(lambda c: c.update(tabels=c.pop("tables")))
    assert "mine.yaml: tables: missing" in error(lambda c: c.pop("tables"))
    assert "mine.yaml: paper: missing" in error(lambda c: c.pop("paper"))
    assert "did you mean tables" in error(lambda c: c.update(tabels=c.pop("tables")))
    assert "entry: 'tune', expected one of" in error(
        lambda c: c["stages"][stage].update(entry="tune")
    )
    wrong = error(lambda c: c["stages"][stage]["inputs"].update(model="other"))
    assert "inputs.model: 'other' is neither an earlier stage nor one of needs.check" in wrong
    wrong = error(lambda c: c["stages"][stage]["config"].update(batchsize=3))
    assert "unknown configuration key 'batchsize'; did you mean batch_size" in wrong
    wrong = error(lambda c: c["figures"][1].update(set="somewhere"))
    assert "set 'somewhere', expected one of cityscapes_val" in wrong
    assert "AP: expected a number" in error(lambda c: c["figures"][1].update(AP="high"))
    assert "names no score" in error(lambda c: c["figures"][1].pop("score"))
    wrong = error(lambda c: c["evaluation"]["sets"]["road_anomaly"].update(adapter="roads"))
    assert "adapter 'roads', expected one of" in wrong
    wrong = error(lambda c: c["evaluation"]["sets"].update({"a b": {}}))
    assert "evaluation.sets: 'a b': names consist of letters" in wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["topk"], "no recipe 'topk'; there are default, densehybrid_"),
        (["topk_ovr_resnet101", "--set", "k=3"], "--set k=3: expected STAGE.KEY=VALUE"),
        (["topk_ovr_resnet101", "--set", "train.k=3"], "stage 'train', expected one of fine_tune"),
        (
            ["topk_ovr_resnet101", "--set", "fine_tune.lrr=3"],
            "stage fine_tune: --set lrr: unknown",
        ),
        (["topk_ovr_resnet101", "--variant", "k4"], "variant 'k4', expected one of no_style, k3"),
        (["topk_ovr_resnet101", "--set", "evaluation.scores=[x]"], "scores: 'x', expected one"),
        (["topk_ovr_resnet101", "--set", "evaluation.limt=1"], "evaluation.limt: .*mean limit"),
        (["topk_ovr_resnet101", "--set", "evaluation.fpr95=first"], "fpr95 'first', expected one"),
        (["topk_ovr_resnet101", "--set", "evaluation.scores=[[x]]"], r"scores: \['x'\], expected"),
        (
            ["topk_ovr_resnet101", "--set", "evaluation.limit=-1"],
            "evaluation.limit: -1 is negative",
        ),
        (
            ["topk_ovr_resnet101", "--set", "evaluation.inference_size=[512, x]"],
            "evaluation.inference_size: expected .height, width.",
        ),
        (["topk_ovr_resnet101", "--processes", "0"], "--processes 0: too few"),
    ],
)
def test_wrong_calls(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages: [a]", r"stages: expected a mapping, got \['a'\]"),
        ("stages: {1: {entry: fine_tune}}", "stages: 1 must be a text"),
        ("stages: {fine_tune: {inputs: {model: [1]}}}", r"inputs.model: \[1\] is neither"),
        ("variants: {a: 5}", "variants.a: expected a mapping, got 5"),
        (
            "evaluation: {sets: {a: {adapter: folder, root: x, options: {1: 2}}}}",
            "evaluation.sets.a.options: 1 must be a text",
        ),
    ],
)
def test_a_changed_recipe_of_another_shape(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: topk_ovr_resnet101\n{change}\n")
    with pytest.raises(entry.ParameterError, match=message):
        read_recipe(str(path))


def test_stages_may_be_left_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: topk_ovr_resnet101\nstages:\n")
    stages = read_recipe(str(tmp_path / "mine.yaml")).stages
    assert stages == read_recipe("topk_ovr_resnet101").stages


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == NAMES
    assert any(line.split()[:2] == ["--variant", "k3"] for line in lines)


def test_everything_that_is_missing_is_named_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_all(tmp_path / "data"), tmp_path / "out"
    (data / "cityscapes" / "gtFine").rename(data / "elsewhere")
    (data / "coco" / "val2017").rename(data / "val")
    (data / "lost_and_found").rename(data / "lost")
    arguments = ["topk_ovr_wide_resnet38", "--data", str(data), "--out", str(out)]
    assert entry.main(arguments) == 1
    error = capsys.readouterr().err
    assert (
        f"{data}/weights/cityscapes_best.pth (no such file)\n    get: cityscapes_best.pth" in error
    )
    assert f"{data}/cityscapes (has no labels)" in error
    assert "gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com" in error
    assert f"{data}/coco (has no val2017)" in error
    assert f"{data}/lost_and_found (no such folder)\n    get: leftImg8bit.zip" in error
    assert "lacks 4 of its sources" in error
    assert not out.exists()
    # Another start makes the recipe's own unnecessary.
    assert entry.main([*arguments, "--set", "fine_tune.model=mine.safetensors"]) == 1
    assert "lacks 3 of its sources" in capsys.readouterr().err


DRIVES = """
title: drives that a model labels
needs: {checkpoints: {base: {file: efficientvit_b0, get: the base}}}
stages:
  drives: {entry: pseudo_label, inputs: {model: base}, config: {images: frames}}
  tune:
    entry: fine_tune
    inputs: {model: base, data.train.drives.root: drives, data.calibration.drives.root: drives}
    config:
      data:
        taxonomy: cityscapes
        train: {drives: &drives {adapter: folder, options: {labels: classes}, held_out: 2}}
        validation: {c: {adapter: cityscapes, root: cityscapes}}
        calibration: {drives: *drives}
        objects:
          coco: {adapter: coco, root: coco, train_split: train2017, held_out_split: val2017}
"""


class TestDrives:
    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        data = tiny_development.write_all(tmp_path / "data")
        (tmp_path / "mine.yaml").write_text(DRIVES)
        monkeypatch.setitem(PUBLIC, "efficientvit_b0", "here.pt")
        monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(data))
        (data / "here.pt").write_text("weights")
        return data

    @pytest.fixture
    def run(self, data: Path, tmp_path: Path) -> Callable[..., int]:
        def call(*arguments: str) -> int:
            places = ["--data", str(data), "--out", str(tmp_path / "out")]
            return entry.main([str(tmp_path / "mine.yaml"), *places, *arguments])

        return call

    def test_what_an_earlier_stage_will_write_is_not_missing(
        self,
        run: Callable[..., int],
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def missing(*changes: str) -> list[tuple[str, str, str]]:
            assert run("--set", *changes) == 1
            error = capsys.readouterr().err
            return re.findall(r"(\S+) \((.*)\)\n    get: .*\n    for: (.*)", error)

        frames = (f"{data}/frames", "no such folder", "drives")
        assert missing() == [frames]
        first, second = missing("tune.data.train.drives.root=drives")
        assert first == frames
        assert (second[0], second[2]) == (f"{data}/drives", "tune")
        (data / "here.pt").unlink()
        first, second = missing()
        assert (first[0], first[2]) == ("efficientvit_b0", "base")
        assert first[1].startswith(f"no here.pt in {data} or ")
        assert second == frames
        assert missing("drives.model=default", "tune.model=default") == [frames]
        assert not (tmp_path / "out").exists()

    def test_labelling_has_no_steps_and_is_one_process(
        self, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []

        def fails_in_the_second(module: str, arguments: Sequence[str], processes: int = 1) -> int:
            config = yaml.safe_load((Path(arguments[1]) / "config.yaml").read_text())
            found.append((module, processes, config))
            return len(found) - 1

        monkeypatch.setattr(entry, "launch", fails_in_the_second)
        changes = ["--set", "drives.images=unlabelled"]
        assert run("--steps", "3", "--processes", "2", *changes) == 1
        labelling, training = found
        values = {"model": "efficientvit_b0", "images": "unlabelled", "confidence": 0.9}
        assert labelling == ("training.pseudo_label", 1, values)
        assert training[:2] == ("training.fine_tune", 2)
        assert (training[2]["model"], training[2]["steps"]) == ("efficientvit_b0", 3)
        for section in ("train", "calibration"):
            root = training[2]["data"][section]["drives"]["root"]
            assert root == str(tmp_path / "out" / "drives")


def test_figures_are_found_where_the_benchmark_has_them() -> None:
    score = {
        "AP": 10.0,
        "AUROC": 50.0,
        "FPR95": 8.0,
        "FPR95_conventions": {"at_least": 8.0, "above": 8.5},
        "per_image": {"AP": 20.0, "FPR95": None},
        "distance": [{"from_m": 5.0, "AP": 1.0}, {"from_m": 10.0, "AP": 2.0}],
    }
    run = {
        "scores": {"energy": score},
        "segmentation": {"mIoU": 70.0},
        "open_set": {"energy": {"open_mIoU": 30.0, "gap": 40.0}},
    }
    rows = [
        PublishedFigures("a", "x", "energy", values={"AP": 11.0, "FPR95": 9.0, "open_mIoU": 31.0}),
        PublishedFigures("b", "x", "energy", per_image=True, values={"AP": 20.5, "FPR95": 9.0}),
        PublishedFigures("c", "x", "energy", from_m=10, values={"AP": 2.25}),
        PublishedFigures("d", "x", values={"mIoU": 71.0}),
        PublishedFigures("e", "absent", "energy", values={"AP": 1.0}),
    ]
    found = compared(rows, {"x": run}, "above")
    assert [c.reproduced for c in found] == [10.0, 8.5, 30.0, 20.0, None, 2.0, 70.0, None]
    assert [c.reproduced for c in compared(rows, {"x": run}, "at_least")][1] == 8.0
    assert tuple(FPR95_KEYS) == FPR95_CONVENTIONS
    table = markdown(found, "note").splitlines()
    assert table[0] == "note"
    assert table[4] == "| a | x | energy | AP | 11.00 | 10.00 | -1.00 |"
    assert table[-1] == "| e | absent | energy | AP | 1.00 | - | - |"
    assert markdown([], "note") == "note\n"


def in_process(module: str, arguments: Sequence[str], processes: int = 1) -> int:
    """A stage without the start of a Python of its own."""
    return importlib.import_module(module).main(list(arguments))


# What makes a run small, by entry; the networks, losses and rates stay.
SMALL = {
    "pseudo_label": ["confidence=0"],  # random weights are never sure
    "closed_set": [
        *("crop=[64,64]", "batch_size=2", "network.inference_size=[64,128]"),
        *("validation.size=[64,128]", "workers=0", "precision=fp32", "tensorboard=false"),
    ],
    "train_flow": [
        *("crop=[16,16]", "batch_size=2", "workers=0", "validation_crops=2", "tensorboard=false"),
        *("sample_sizes=[[16,16]]", "checkpointing=false"),
    ],
    "fine_tune": [
        *("crop=[64,64]", "batch_size=2", "inference_size=[64,128]", "validation.size=[64,128]"),
        *("workers=0", "precision=fp32", "tensorboard=false"),
    ],
    "evaluation": ["inference_mode=resized", "inference_size=[64,128]"],
}


def arguments_of(recipe: Recipe, data: Path, out: Path) -> list[str]:
    changes = [f"{name}.{x}" for name, stage in recipe.stages.items() for x in SMALL[stage.entry]]
    changes += [f"evaluation.{x}" for x in SMALL["evaluation"]]
    for stage, config in configurations(recipe).items():
        if config.get("validation", {}).get("mixed_frames"):
            changes.append(f"{stage}.validation.mixed_frames=1")
        if config.get("fuse_scores"):  # needs an object that eighths of 64x128 pixels show
            changes.append(f"{stage}.mixing.placement={{on_ground: 0, free_height: [0.4, 0.45]}}")
        if stage == "closed_set":
            changes.append("closed_set.start=''")
        if config.get("flow"):
            changes.append(f"{stage}.flow.options.largest=24")
        if stage == "flow" and recipe.name == "syn_densehybrid_street_hazards":
            changes.append("flow.size=small")  # the other one has the real size
    return [recipe.name, "--data", str(data), "--out", str(out), "--steps", "2", "--set", *changes]


def write_start(recipe: Recipe, data: Path) -> None:
    """The public checkpoint in its layout, in half precision to spare the disk."""
    for checkpoint in recipe.needs.checkpoints.values():
        path = data / "weights" / PUBLIC.get(checkpoint.file, Path(checkpoint.file).name)
        path.parent.mkdir()
        torch.manual_seed(0)
        networks = {"r101": "resnet101", "efficientvit": "efficientvit_seg"}
        (name,) = [v for k, v in networks.items() if k in path.name] or ["wide_resnet38"]
        state = build_network(name, {"num_classes": 19}).half().state_dict()
        torch.save({"state_dict": prefixed("module.", state)}, path)


# Each has the stages of another recipe, with other numbers or another network.
LIKE_ANOTHER = {
    *("densehybrid_wide_resnet38", "densehybrid_wide_resnet38_mix"),
    *("syn_densehybrid_wide_resnet38", "topk_ovr_wide_resnet38"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in LIKE_ANOTHER else ())
        for name in NAMES
    ],
)
def test_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "launch", in_process)
    monkeypatch.setattr(selection, "CPU_ORDER", (TORCH,))  # the others compile for seconds
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(tmp_path / "data" / "weights"))
    recipe = read_recipe(name)
    write = write_all if recipe.paper else tiny_development.write_all
    data, out = write(tmp_path / "data"), tmp_path / "out"
    write_start(recipe, data)
    assert entry.main(arguments_of(recipe, data, out)) == 0
    document = json.loads((out / "recipe.json").read_text())
    assert document["steps"] == 2
    rows = document["figures"]
    assert len(rows) == sum(len(row.values) for row in recipe.figures)
    assert all(row["reproduced"] is not None for row in rows if "Table 6" not in row["row"])
    by_distance = [row for row in rows if row["row"] == "Table 6, 10-15 m"]
    assert all(row["reproduced"] is not None for row in by_distance)
    runs = json.loads((out / "evaluation" / "benchmark.json").read_text())["runs"]
    assert [run["data"] for run in runs] == list(recipe.evaluation.sets)
    printed = capsys.readouterr().out
    assert "Shortened to 2 steps" in printed
    assert (out / "recipe.md").read_text() in printed


TINY = """
title: in miniature
paper: none
tables: [none]
needs: {checkpoints: {start: {file: tiny.safetensors, get: nowhere}}}
stages:
  first: &stage
    entry: fine_tune
    inputs: {model: start}
    config:
      data:
        taxonomy: cityscapes
        train: {c: {adapter: cityscapes, root: cityscapes, split: train}}
        validation: {c: {adapter: cityscapes, root: cityscapes}}
        calibration: {c: {adapter: cityscapes, root: cityscapes}}
        unknown: {}
        objects:
          coco: {adapter: coco, root: coco, train_split: train2017, held_out_split: val2017}
      mixing: {decoy_sources: []}
      validation: {mixed_frames: 1}
      calibrate: false
  second: {<<: *stage, inputs: {model: first}}
evaluation:
  scores: [energy]
  sets: {road: {adapter: road_anomaly, root: road_anomaly}}
figures: [{row: one, set: road, score: energy, AP: 3.5}]
"""


class TestResuming:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
        data = write_all(tmp_path / "data")
        save_tiny_model(data / "tiny.safetensors")
        (tmp_path / "mine.yaml").write_text(TINY)
        monkeypatch.setattr(entry, "launch", in_process)
        small = [f"{stage}.{x}" for stage in ("first", "second") for x in SMALL["fine_tune"]]
        small += [f"evaluation.{x}" for x in SMALL["evaluation"]]

        def call(*changes: str) -> int:
            out = ["--out", str(tmp_path / "out"), "--data", str(data), "--steps", "1"]
            return entry.main([str(tmp_path / "mine.yaml"), *out, "--set", *small, *changes])

        return call

    def test_finished_stages_are_not_repeated(
        self,
        run: Callable[..., int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        called: list[str] = []

        def fails_in_the_second(module: str, arguments: Sequence[str], processes: int = 1) -> int:
            called.append(Path(arguments[1]).name if "training" in module else "evaluation")
            return 3 if called == ["first", "second"] else in_process(module, arguments)

        monkeypatch.setattr(entry, "launch", fails_in_the_second)
        assert run() == 1
        assert "stage second ended with code 3" in capsys.readouterr().err
        assert run() == 0
        assert called == ["first", "second", "second", "evaluation"]
        assert "stage first: finished before" in capsys.readouterr().out
        assert (
            json.loads((tmp_path / "out" / "recipe.json").read_text())["figures"][0]["published"]
            == 3.5
        )
        assert run("first.lr=1.0e-3") == 1
        assert "finished with other values of ['lr']" in capsys.readouterr().err


def test_processes_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(
        entry.subprocess, "run", lambda command, check: commands.append(command[1:]) or Done()
    )
    assert entry.launch("training.fine_tune", ["--run-dir", "x"], 4) == 0
    assert entry.launch("training.fine_tune", ["--run-dir", "x"]) == 0
    module = ["-m", "training.fine_tune", "--run-dir", "x"]
    assert commands == [["-m", "torch.distributed.run", "--nproc-per-node", "4", *module], module]
