# SPDX-License-Identifier: Apache-2.0
"""From the runs of a study to its committed results and its page."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import average_precision_score

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.resampling import draw_images
from training.engine.config import CONFIGS
from training.study import bootstrap
from training.study.bootstrap import REPLICATES, Samples
from training.study.experiments import protocol, read_experiments, read_study
from training.study.image_scores import ImageScores, save_histograms
from training.study.page import write_page
from training.study.results import read_results
from training.study.run import main

REPOSITORY = Path(__file__).parents[2]
STUDY = {
    "data": {"validation": {"sharp": {"adapter": "folder", "root": "sharp"}}},
    "sets": {"street": {"title": "Street", "adapter": "folder", "root": "street"}},
    "seeds": [1, 2],
    "tables": {
        "losses": {
            "title": "Losses",
            "question": "Which loss?",
            "model": "default",
            "scores": ["energy"],
            "reference": "none",
            "rows": {"none": ["loss.name=cross_entropy"], "top-K": ["loss.name=top_k_ovr"]},
        },
    },
    "findings": [
        {
            "finding": "Top-K helps",
            "source": "a paper",
            "table": "losses",
            "figures": ["AP", "FPR95"],
            "pairs": [{"better": ["top-K", "energy"], "worse": ["none", "energy"]}],
        }
    ],
}
MARKED = (
    "before\n<!-- written by training.study, do not edit -->\n"
    "<!-- end of what training.study wrote -->\nafter\n"
)


def scored(margin: float, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight frames, the same masks for all seeds."""
    masks, noise = np.random.default_rng(0), np.random.default_rng(seed)
    made = []
    for _ in range(8):
        mask = (masks.random((50, 50)) < 0.05).astype(np.uint8)
        made.append((noise.normal(margin * mask, 1).astype(np.float32), mask))
    return made


def finish(out: Path, data: Path, row: str, margin: float, seeds: tuple[int, ...]) -> None:
    """Leaves runs as if they were trained and measured."""
    experiments = read_experiments(STUDY)["losses"]
    for each in (e for e in experiments if e.row == row and e.seed in seeds):
        exact, images = PixelScores(), ImageScores()
        for i, (score, mask) in enumerate(scored(margin, 10 * each.seed + len(row))):
            exact.update(score, mask)
            images.add(str(i), score, mask)
        figures = exact.compute()
        result = {
            "asked": ["energy"],
            "protocol": protocol(STUDY, data),
            "commit": "abc",
            "date": "2026-11-30",
            "device": "cpu",
            "mIoU": {"sharp": 0.5 + each.seed / 100},
            "sets": {
                "street": {"energy": {k: getattr(figures, k) for k in ("AP", "AUROC", "FPR95")}}
            },
        }
        folder = out / each.folder
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
        save_histograms(folder / "images.npz", {"street": {"energy": images.finish()}})


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(bootstrap, "REPLICATES", 60)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    (tmp_path / "page.md").write_text(MARKED)
    paths = {
        "--study": "study.yaml",
        "--out": "runs",
        "--data": ".",
        "--results": "results.json",
        "--page": "page.md",
    }
    return [part for name, path in paths.items() for part in (name, str(tmp_path / path))]


def test_intervals_agree_with_exact_figures_of_the_drawn_images(
    tmp_path: Path, command: list[str]
) -> None:
    """As the mean over the seeds, paired with another row, of the same draws."""
    rows = {"none": 1.0, "top-K": 1.2}
    for row, margin in rows.items():
        finish(tmp_path / "runs", tmp_path, row, margin, (1, 2))
    assert main([*command, "--collect", "--tables"]) == 0
    frames = {
        (row, seed): scored(margin, 10 * seed + len(row))
        for row, margin in rows.items()
        for seed in (1, 2)
    }

    def mean_ap(row: str, times: np.ndarray) -> float:
        seeds = []
        for seed in (1, 2):
            drawn = [frames[row, seed][i] for i, n in enumerate(times) for _ in range(int(n))]
            scores, masks = (
                np.concatenate([x.ravel() for x in part]) for part in zip(*drawn, strict=True)
            )
            seeds.append(100 * average_precision_score(masks, scores))
        return float(np.mean(seeds))

    own = np.array([mean_ap("top-K", times) for times in draw_images(8, 60, 0)])
    other = np.array([mean_ap("none", times) for times in draw_images(8, 60, 0)])
    entry = read_results(tmp_path / "results.json")["tables"]["losses"]["top-K"]
    found = entry["scores"]["energy"]["street"]["AP"]
    assert found["interval"] == pytest.approx(np.quantile(own, [0.025, 0.975]), abs=0.1)
    value = mean_ap("top-K", np.ones(8)) - mean_ap("none", np.ones(8))
    low, high = np.quantile(own - other, [0.025, 0.975])
    assert found["difference"] == pytest.approx([value, low, high], abs=0.1)
    assert np.mean(found["seeds"]) == pytest.approx(mean_ap("top-K", np.ones(8)), abs=0.01)


def test_a_row_compared_with_itself_differs_by_nothing(tmp_path: Path) -> None:
    finish(tmp_path / "runs", tmp_path, "none", 1.0, (1,))
    (run,) = (path.name for path in (tmp_path / "runs").iterdir())
    samples = Samples(tmp_path / "runs", "images.npz")
    one = samples(run, "street", "energy", {"AP": 0.3, "AUROC": 0.8, "FPR95": 0.5})
    assert one.drawn["AP"].shape == (1 + REPLICATES,)
    difference = one.estimate("AP", one)
    assert (difference.value, difference.low, difference.high, difference.sign) == (0, 0, 0, 0)
    with pytest.raises(ParameterError, match=r"images\.npz: no odin on street"):
        samples(run, "street", "odin", {})


def test_the_page_shows_seeds_intervals_differences_and_the_findings(
    tmp_path: Path, command: list[str]
) -> None:
    finish(tmp_path / "runs", tmp_path, "none", 1.0, (1, 2))
    finish(tmp_path / "runs", tmp_path, "top-K", 3.0, (1,))
    assert main([*command, "--collect", "--tables"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    results = read_results(tmp_path / "results.json")
    figure = results["tables"]["losses"]["none"]["scores"]["energy"]["street"]["AP"]
    (low, high), seeds = figure["interval"], figure["seeds"]
    shown = f"AP {np.mean(seeds):.1f} ± {np.std(seeds, ddof=1):.1f} [{low:.1f}, {high:.1f}]<br>"
    assert f"| none (2 seeds) | `energy` | {shown}" in text
    assert "| top-K (1 seed) | `energy` | AP " in text
    assert "| 51.5 ± 0.7 |" in text
    assert "Which loss?" in text
    assert "Differences to *none*" in text
    assert "commit abc; date 2026-11-30; device cpu" in text
    # Both figures are better by far; FPR95 is better because it is lower.
    early = text.split("**Not judged yet, as some seeds have not run**")[1].splitlines()[2]
    assert "Hold here" not in text
    finish(tmp_path / "runs", tmp_path, "top-K", 3.0, (2,))
    assert main([*command, "--collect", "--tables"]) == 0
    held = (tmp_path / "page.md").read_text().split("**Hold here**")[1].splitlines()[2]
    assert early == held
    assert held == (
        "- Top-K helps (a paper); clear in 2 of 2: "
        "AP on Street (*top-K* against *none*, `energy`), "
        "FPR95 on Street (*top-K* against *none*, `energy`)."
    )


def test_the_page_needs_no_run_and_rows_without_a_run_keep_their_results(
    tmp_path: Path, command: list[str]
) -> None:
    finish(tmp_path / "runs", tmp_path, "none", 1.0, (1,))
    assert main([*command, "--collect", "--tables"]) == 0
    first = read_results(tmp_path / "results.json")
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "page.md").write_text(MARKED)
    assert (
        main([*(x for x in command if x not in ("--out", str(tmp_path / "runs"))), "--tables"])
        == 0
    )
    assert "| none (1 seed)" in (tmp_path / "page.md").read_text()
    finish(tmp_path / "runs", tmp_path, "top-K", 1.0, (1,))
    assert main([*command, "--collect"]) == 0
    rows = read_results(tmp_path / "results.json")["tables"]["losses"]
    assert rows["none"] == first["tables"]["losses"]["none"]
    assert list(rows) == ["none", "top-K"]
    # Its reference has no histograms here.
    assert "difference" not in rows["top-K"]["scores"]["energy"]["street"]["AP"]


def test_a_row_that_is_now_another_experiment_is_dropped(
    tmp_path: Path, command: list[str]
) -> None:
    finish(tmp_path / "runs", tmp_path, "none", 1.0, (1,))
    finish(tmp_path / "runs", tmp_path, "top-K", 1.0, (1,))
    assert main([*command, "--collect"]) == 0
    changed = copy.deepcopy(STUDY)
    changed["tables"]["losses"]["rows"]["none"].append("lr=1.0")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert list(read_results(tmp_path / "results.json")["findings"]) == ["Top-K helps"]
    assert main([*command, "--collect"]) == 0
    results = read_results(tmp_path / "results.json")
    assert list(results["tables"]["losses"]) == ["top-K"]
    assert results["findings"] == {}


def test_what_was_measured_otherwise_is_dropped(tmp_path: Path, command: list[str]) -> None:
    finish(tmp_path / "runs", tmp_path, "none", 1.0, (1,))
    assert main([*command, "--collect"]) == 0
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace('"replicates": 1000', '"replicates": 10'))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    finish(tmp_path / "runs", tmp_path, "top-K", 1.0, (1,))
    assert main([*command, "--collect"]) == 0
    assert list(read_results(path)["tables"]["losses"]) == ["top-K"]


def test_nothing_to_collect_and_a_page_without_markers_are_errors_of_one_line(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*command, "--collect"]) == 1
    assert "no finished experiment of this study" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "page.md").write_text("as it was")
    assert main([*command, "--tables"]) == 1
    assert "lacks the lines" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "as it was"
    (tmp_path / "results.json").write_text('{"format": 1}')
    assert main([*command, "--tables"]) == 1
    assert "results.json: no protocol, tables, findings" in capsys.readouterr().err


def test_a_finding_about_a_row_that_is_not_there(tmp_path: Path) -> None:
    study = copy.deepcopy(STUDY)
    study["findings"][0]["pairs"][0]["better"][0] = "top-L"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(ParameterError, match="Top-K helps: table losses has no energy of 'top-L'"):
        read_study(tmp_path / "study.yaml")


def test_the_shipped_page_is_what_the_command_writes(tmp_path: Path) -> None:
    """From the committed results alone."""
    docs = REPOSITORY / "docs"
    page = tmp_path / "results.md"
    page.write_text((docs / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    study = read_study(CONFIGS / "study.yaml")
    write_page(page, study, read_results(docs / "results.json"))
    assert page.read_text(encoding="utf-8") == (docs / "results.md").read_text(encoding="utf-8")
