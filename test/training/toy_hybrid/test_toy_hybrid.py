# SPDX-License-Identifier: Apache-2.0
"""The toy: its loss and figures against references, its picture, and the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from training.toy_hybrid import run as module
from training.toy_hybrid.experiment import (
    ToyNetwork,
    ToyOptions,
    as_pixels,
    compound_loss,
    measure,
    train_scores,
)
from training.toy_hybrid.points import CLASSES, draw_points
from training.toy_hybrid.run import FIGURES, PICTURE, ROWS, table

PAGE = FIGURES.parent / "flow.md"
QUICK = ToyOptions(seeds=1, steps=3, flow_steps=2, test_inliers=60, test_outliers=20)


def test_negatives_cover_one_kind_of_outlier() -> None:
    train, test = (draw_points(split, 3, 500, 200) for split in ("train", "test"))
    assert list(train.outliers) == ["between"]
    assert list(test.outliers) == ["between", "around"]
    assert not np.array_equal(train.inliers, test.inliers)
    radius = {kind: np.linalg.norm(x, axis=1) for kind, x in test.outliers.items()}
    assert radius["between"].max() <= 1.25
    assert 3.8 <= radius["around"].min() <= radius["around"].max() <= 5.2
    # Uniform: half of a disc's points are within 1 / sqrt(2) of its radius.
    assert np.mean(radius["between"] < 1.25 / np.sqrt(2)) == pytest.approx(0.5, abs=0.1)
    again = draw_points("train", 3, 500, 200)
    assert np.array_equal(train.inliers, again.inliers)
    for label in range(CLASSES):
        chosen = train.inliers[train.classes == label]
        assert np.linalg.norm(chosen.mean(0)) == pytest.approx(2.0, abs=0.1)
        assert chosen.std(0) == pytest.approx([0.35, 0.35], abs=0.06)


def test_the_loss_is_that_of_the_equations() -> None:
    """In float64 and plain NumPy: eq. 9 + eq. 16 + beta * eq. 14."""
    torch.manual_seed(0)
    network = ToyNetwork(8).double()
    points = torch.randn(1, 2, 1, 7, dtype=torch.float64)
    classes = torch.tensor([0, 2, 1, 1])
    output = network(points)
    s, d = (x.detach().numpy()[0, :, 0].T for x in (output.logits, output.ood_logits))
    lse, lse_d = (np.log(np.exp(x).sum(1)) for x in (s, d))
    y = classes.numpy()
    true = s[np.arange(4), y]
    l_cls = np.mean(lse[:4] - true)
    l_d = np.mean(lse_d[:4] - d[:4, 0]) + np.mean(lse_d[4:] - d[4:, 1])
    l_x = np.mean(lse[4:]) - np.mean(true)
    found = compound_loss(output, classes, 0.3).item()
    assert found == pytest.approx(l_cls + l_d + 0.3 * l_x)


def test_figures_are_those_of_scikit_learn() -> None:
    points = draw_points("test", 1, 300, 100)

    def score(x: torch.Tensor) -> torch.Tensor:
        return x[0, 0, 0].abs()

    found = measure(score, points)
    kinds = [
        np.abs(x.astype(np.float32)[:, 0]) for x in (points.inliers, *points.outliers.values())
    ]
    target = np.repeat([0, 1], [300, 200])
    values = np.concatenate(kinds)
    assert found["AUROC"] == pytest.approx(roc_auc_score(target, values))
    assert found["AP"] == pytest.approx(average_precision_score(target, values))
    threshold = np.sort(values[target == 1])[::-1][189]  # 190 of 200 outliers are found
    assert found["FPR95"] == pytest.approx(np.mean(kinds[0] >= threshold))
    alone = roc_auc_score(np.repeat([0, 1], [300, 100]), np.concatenate([kinds[0], kinds[2]]))
    assert found["around"] == pytest.approx(alone)


def test_hybrids_are_sums_of_their_parts() -> None:
    scores = train_scores(QUICK, 0)
    assert set(scores) == set(ROWS)
    points = as_pixels(draw_points("test", 0, 10, 5).inliers)
    found = {name: score(points) for name, score in scores.items()}
    log_posterior = found["outlier_head"]
    torch.testing.assert_close(found["dense_hybrid"], log_posterior + found["energy"])
    for size in (2, 4, 8):
        expected = log_posterior + found[f"flow_density_{size}"]
        torch.testing.assert_close(found[f"flow_hybrid_{size}"], expected)


def test_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    texts = []
    for name in ("a", "b"):
        arguments = ["--seeds", "2", "--steps", "3", "--flow-steps", "2"]
        paths = ["--figures", str(tmp_path / f"{name}.json"), "--picture", str(tmp_path / name)]
        assert module.main([*arguments, *paths]) == 0
        texts.append([(tmp_path / f"{name}.json").read_text(), (tmp_path / name).read_text()])
    assert texts[0] == texts[1]
    results = json.loads(texts[0][0])
    assert results["options"]["steps"] == 3
    assert all(len(x) == 2 for figures in results["scores"].values() for x in figures.values())
    assert "| discriminative" in capsys.readouterr().out
    root = ElementTree.fromstring(texts[0][1])  # noqa: S314  our own text
    words = [text for text in ("".join(x.itertext()) for x in root.iter()) if text]
    for title in ("Data", "Discriminative", "Generative", "Hybrid"):
        assert title in words
    missing = tmp_path / "none" / "x.json"
    assert module.main(["--seeds", "1", "--steps", "1", "--figures", str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err.replace("\n", "")


def test_bad_options_are_named(capsys) -> None:
    for option in ("--seeds", "--steps", "--flow-steps"):
        assert module.main([option, "0"]) == 1
        assert f"{option} 0: expected at least 1" in capsys.readouterr().err


def test_the_page_shows_the_figures() -> None:
    results = json.loads(FIGURES.read_text())
    assert results["options"] == ToyOptions().__dict__
    page = PAGE.read_text(encoding="utf-8")
    assert table(results["scores"]) in page
    assert f"images/{PICTURE.name}" in page
    assert PICTURE.stat().st_size < 400_000


def test_what_the_page_says() -> None:
    scores = json.loads(FIGURES.read_text())["scores"]
    value = {name: {k: np.array(v) for k, v in x.items()} for name, x in scores.items()}
    head = value["outlier_head"]
    assert (head["between"] > 99).all()
    assert (head["around"] < 65).all()
    for size in (2, 4, 8):
        hybrid, density = value[f"flow_hybrid_{size}"], value[f"flow_density_{size}"]
        assert (density["around"] > density["between"]).all()
        for part in (density, head):
            assert (hybrid["AUROC"] > part["AUROC"]).all()
            assert (hybrid["AP"] > part["AP"]).all()
            assert (hybrid["FPR95"] < part["FPR95"]).all()
    assert (value["flow_hybrid_2"]["around"] < value["flow_density_2"]["around"]).all()
    mean = {name: {k: v.mean() for k, v in x.items()} for name, x in value.items()}
    assert mean["flow_hybrid_4"]["around"] < mean["flow_density_4"]["around"]
    for key, sign in (("AUROC", 1), ("AP", 1), ("FPR95", -1)):
        ordered = ("outlier_head", "dense_hybrid", "energy", "msp")
        values = [sign * mean[name][key] for name in ordered]
        assert values == sorted(values)
        gains = [
            sign * (mean[f"flow_hybrid_{size}"][key] - mean[f"flow_density_{size}"][key])
            for size in (2, 4, 8)
        ]
        assert gains == sorted(gains, reverse=True)
    between = [mean[f"flow_density_{size}"]["between"] for size in (2, 4, 8)]
    assert between == sorted(between)
