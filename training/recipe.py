# SPDX-License-Identifier: Apache-2.0
"""Reproduce a published result: train in stages, calibrate, evaluate, compare.

    python -m training.recipe --list
    python -m training.recipe topk_ovr_resnet101 --data DATA --out runs/topk

Each stage is one training entry with its own folder below ``--out``, its ``config.yaml`` and the
command that is printed: it may as well be run by hand. The same command goes on where an earlier
one stopped; finished stages are not repeated. At the end ``recipe.json`` and ``recipe.md`` hold
the published figures beside the run's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.system.tool import run_tool
from training.data.block import source_folder
from training.engine.config import changed_keys
from training.engine.entry import data_folder, folder_argument
from training.engine.storage import make_folder, write_atomically
from training.recipes.figures import compared, documents, markdown, read_runs
from training.recipes.needs import absolute_options, check_needs
from training.recipes.reading import names, overridden, read_recipe
from training.recipes.schema import Recipe, Stage

_FINISHED = "finished.json"


@dataclass(frozen=True)
class Reproduction:
    """A recipe with the choices of one run.

    Attributes:
        recipe: The recipe, with the overrides of its evaluation.
        overrides: ``KEY=VALUE`` by stage.
        changed: All overrides as they were given.
        data: Data folder.
        out: Folder of the results.
        device: Device of all stages; "" leaves it to them.
        processes: Processes of each training stage, one for each GPU.
        steps: Steps of each training stage; 0 takes the recipe's.
    """

    recipe: Recipe
    overrides: dict[str, list[str]]
    changed: tuple[str, ...]
    data: Path
    out: Path
    device: str = ""
    processes: int = 1
    steps: int = 0

    def run(self) -> None:
        """Trains what is not trained yet, evaluates, and writes the comparison.

        Raises:
            AnomalySegError: Data is missing, a value is wrong, or a stage failed.
        """
        recipe = self.recipe
        configurations = {name: self.configuration(name) for name in recipe.stages}
        products = [self._product(name) for name in recipe.stages]
        check_needs(recipe, configurations, self.data, products)
        make_folder(self.out)
        print(f"{recipe.name}: {recipe.title}")
        if recipe.paper:
            print(f"{recipe.paper}; {'; '.join(recipe.tables)}")
        needs = recipe.needs
        gpu = f"{needs.gpu_gib:g} GiB of GPU memory, {needs.gpu_hours:g} h"
        if cost := "; ".join(filter(None, (gpu if needs.gpu_hours else "", needs.estimate))):
            print(f"cost of the training: {cost}")
        for name, stage in recipe.stages.items():
            self._train(name, stage, configurations[name])
        self._evaluate()
        self._compare()

    def configuration(self, name: str) -> dict[str, Any]:
        """The whole configuration of a stage, with the files of its inputs.

        Raises:
            ParameterError: An unknown key, or a value of the wrong type; names the stage.
        """
        stage = self.recipe.stages[name]
        inputs = [f"{key}={json.dumps(self._file(of))}" for key, of in stage.inputs.items()]
        short = [f"steps={self.steps}"] if self.steps and stage.trains else []
        if short and "epochs" in stage.config:
            short.append("epochs=0")
        try:
            return stage.configuration(
                self.recipe.source, [*inputs, *short, *self.overrides[name]]
            )
        except ParameterError as error:
            raise ParameterError(f"stage {name}: {error}") from error

    def _file(self, name: str) -> str:
        """The file of a checkpoint, or what a stage writes."""
        checkpoints = self.recipe.needs.checkpoints
        if name in checkpoints:
            return checkpoints[name].model(self.data)
        return str(self._product(name))

    def _product(self, stage: str) -> Path:
        """The file or folder that a stage writes for later ones."""
        return (self.out / stage / self.recipe.stages[stage].product).absolute()

    def _train(self, name: str, stage: Stage, config: dict[str, Any]) -> None:
        folder = self.out / name
        record = folder / _FINISHED
        if record.is_file():
            before = json.loads(record.read_text(encoding="utf-8"))
            # The same text in both, such as lists for tuples.
            if different := changed_keys(before, json.loads(json.dumps(config))):
                raise ParameterError(
                    f"{folder} holds stage {name} finished with other values of {different}; "
                    "use another --out or restore them"
                )
            print(f"stage {name}: finished before, {folder / stage.product}")
            return
        make_folder(folder)
        written = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_atomically(folder / "config.yaml", lambda file: file.write(written.encode()))
        arguments = ["--run-dir", str(folder), "--config", str(folder / "config.yaml")]
        arguments += ["--data", str(self.data), *self._device()]
        processes = self.processes if stage.trains else 1
        self._launch(name, f"training.{stage.entry}", arguments, processes)
        text = json.dumps(config, indent=1)
        write_atomically(record, lambda file: file.write(text.encode()))

    def _evaluate(self) -> None:
        evaluation = self.recipe.evaluation
        model = self._product(list(self.recipe.stages)[-1])
        sets = []
        for name, data in evaluation.sets.items():
            options = "&".join(
                f"{key}={str(value).lower() if isinstance(value, bool) else value}"
                for key, value in absolute_options(data, self.data).items()
            )
            folder = source_folder(data.root, self.data)
            sets.append(f"{name}={data.adapter}:{folder}" + (f"?{options}" if options else ""))
        arguments = ["--models", f"ours={model}", "--data", *sets]
        arguments += ["--scores", *evaluation.scores, "--out", str(self.out / "evaluation")]
        arguments += ["--inference-mode", evaluation.inference_mode, "--precision", "fp32"]
        arguments += self._device()
        if evaluation.inference_size:
            arguments += ["--inference-size", *map(str, evaluation.inference_size)]
        if evaluation.limit:
            arguments += ["--limit", str(evaluation.limit)]
        self._launch("evaluation", "anomaly_seg_ros.cli.evaluate", arguments)

    def _compare(self) -> None:
        recipe = self.recipe
        runs = read_runs(self.out / "evaluation" / "benchmark.json")
        rows = compared(recipe.figures, runs, recipe.evaluation.fpr95)
        paper = f" ({recipe.paper})" if recipe.paper else ""
        note = f"{recipe.name}: {recipe.title}{paper}. All figures in percent; "
        note += f"FPR95 pooled over all pixels: {recipe.evaluation.fpr95}."
        if self.steps:
            note += f" Shortened to {self.steps} steps a stage: this only shows that it runs."
        if self.changed:
            note += f" Changed: {', '.join(self.changed)}."
        unquoted = [name for name in runs if all(name != row.set for row in rows)]
        if unquoted:
            note += f" Without a published figure: {', '.join(unquoted)}."
        table = markdown(rows, note)
        document = {
            "recipe": recipe.name,
            "title": recipe.title,
            "paper": recipe.paper,
            "steps": self.steps or None,
            "changed": list(self.changed),
            "figures": list(documents(rows)),
            "differs": list(recipe.differs),
            "open_choices": dict(recipe.open_choices),
        }
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.out / "recipe.json", lambda file: file.write(text.encode()))
        write_atomically(self.out / "recipe.md", lambda file: file.write(table.encode()))
        print(f"\n{table}\nwritten: {self.out / 'recipe.json'}, {self.out / 'recipe.md'}")

    def _device(self) -> list[str]:
        return ["--device", self.device] if self.device else []

    @staticmethod
    def _launch(stage: str, module: str, arguments: Sequence[str], processes: int = 1) -> None:
        print(f"\nstage {stage}: python -m {module} {shlex.join(arguments)}", flush=True)
        if code := launch(module, arguments, processes):
            raise TrainingError(
                f"stage {stage} ended with code {code}, for the reason above; the same command "
                "goes on from there"
            )


def launch(module: str, arguments: Sequence[str], processes: int = 1) -> int:
    """Runs a module in processes of its own, which give their memory back; returns the code."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    return subprocess.run([*command, module, *arguments], check=False).returncode


def list_recipes() -> str:
    """One line for each recipe and variant."""
    lines = []
    for name in names():
        recipe = read_recipe(name)
        lines.append(f"{name:40s} {recipe.title}")
        lines += [f"  --variant {k:27s} {v.title}" for k, v in recipe.variants.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", nargs="?", help="a recipe's name, or a file like one")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    parser.add_argument(
        "--data", type=folder_argument, default=data_folder(), help="folder of the data sets"
    )
    parser.add_argument("--out", type=Path, help="default: runs/recipes/NAME")
    parser.add_argument("--variant", default="", help="another row of the table, see --list")
    parser.add_argument("--steps", type=int, default=0, help="cut every training stage short")
    parser.add_argument("--device", default="", help="default: the first GPU, else the CPU")
    parser.add_argument("--processes", type=int, default=1, help="of each training, one a GPU")
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="override values of a stage, or evaluation.KEY=VALUE",
    )
    parsed = parser.parse_args(arguments)

    def body() -> None:
        if parsed.list or not parsed.name:
            print(list_recipes())
            return
        for key in ("steps", "processes"):
            if getattr(parsed, key) < (key == "processes"):
                raise ParameterError(f"--{key} {getattr(parsed, key)}: too few")
        recipe, overrides = read_recipe(parsed.name), ()
        label = recipe.name
        if parsed.variant:
            recipe, overrides = recipe.varied(parsed.variant)
            label += f"-{parsed.variant}"
        changed = (*overrides, *parsed.set)
        recipe, by_stage = overridden(recipe, changed)
        out = parsed.out or Path("runs") / "recipes" / label
        options = (parsed.data, out, parsed.device, parsed.processes, parsed.steps)
        Reproduction(recipe, by_stage, changed, *options).run()

    return run_tool("recipe", body)


if __name__ == "__main__":
    sys.exit(main())
