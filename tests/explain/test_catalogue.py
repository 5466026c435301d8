"""The command: every figure for a classifier, what lacks is told, and mistakes are one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compress.networks import Net, network, samples

from toolchain.compress.groups import analyse
from toolchain.data import Samples
from toolchain.errors import UsageError
from toolchain.explain import catalogue
from toolchain.explain.catalogue import FIGURES, Subject, classes_named, layers_named, missing, wanted
from toolchain.explain.layers import hidden
from toolchain.model import Model
from toolchain.ops import OPS
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares

ROOT = Path(__file__).parents[2]
SHIPPED = str(triangles_squares_path())


def explain(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1"}
    command = [sys.executable, "-m", "toolchain.cli", "explain", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=280, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, n, seed in (("calibration", 24, 5), ("test", 16, 6)):
        x, y = triangles_squares(n, seed=seed)
        np.savez(folder / f"{name}.npz", x=x, y=y, classes=np.array(["triangle", "square"]))
    np.savez(folder / "bare.npz", x=triangles_squares(8, seed=7)[0])
    return folder


def subject(model: Model, labels: np.ndarray | None, n: int = 9) -> Subject:
    channels = analyse(model)
    given = Samples("data", samples(model.inputs, n), labels)
    names = classes_named(model, given, None)
    fired = hidden(model)
    return Subject(model, channels, given, (), layers_named(channels, None), names, orders=1, fired=fired)


# ---- the command ---------------------------------------------------------------------------------------------------
def test_every_figure_of_the_shipped_network_and_the_same_bytes_again(data: Path, tmp_path: Path) -> None:
    words = (SHIPPED, "--data", data / "calibration.npz", "--test", data / "test.npz", "--layers", "dense1")
    words = (*words, "--samples", 8)
    done = explain(*words, "-o", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "first" / "figures.json").read_text())
    assert [f["figure"] for f in listed["figures"]] == list(FIGURES) and listed["left_out"] == {}
    assert [d["samples"] for d in listed["data"]] == [24, 16]
    again = explain(*words, "-o", tmp_path / "second")
    assert again.returncode == 0
    files = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert len(files) == 4 * len(FIGURES) - 1 + 2  # occurrence-page has one .html in place of two pictures
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    refused = explain(*words, "-o", tmp_path / "first")
    assert refused.returncode == 2 and "--force" in refused.stderr and refused.stderr.count("\n") == 1


def test_without_labels_what_needs_them_is_left_out_and_told(data: Path, tmp_path: Path) -> None:
    done = explain(SHIPPED, "--data", data / "bare.npz", "-o", tmp_path / "out", "--samples", 4)
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [f["figure"] for f in listed["figures"]] == ["architecture", "perturbation", "quality", "parameters"]
    assert set(listed["left_out"]) == set(FIGURES) - {f["figure"] for f in listed["figures"]}
    assert all("no labels" in why and f"{name}: {why}" in done.stderr for name, why in listed["left_out"].items())
    named = explain(SHIPPED, "--data", data / "bare.npz", "-o", tmp_path / "out2", "--figures", "unit")
    assert named.returncode == 2 and "'unit': bare.npz has no labels" in named.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--figures", "unit,unicorn"), "unknown figure 'unicorn'"),
        (("--layers", "nothing*"), "no layer fits 'nothing*'"),
        (("--figures", "heatmaps", "--methods", "gradient,grad"), "unknown method 'grad'. Use all, or some of"),
        (("--figures", "heatmaps", "--at", "logits"), "layer 'logits' [N,2] has no spatial axes"),
        (("--figures", "heatmaps", "--at", "conv9"), "there is no layer 'conv9' before the logits"),
        (("--classes", "hexagon"), "there is no class 'hexagon'. Classes are triangle, square"),
    ],
)
def test_a_mistake_is_one_line_with_a_way_out(data: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = explain(SHIPPED, "--data", data / "calibration.npz", "-o", tmp_path / "out", *words)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


# ---- what figures need ---------------------------------------------------------------------------------------------
def test_a_network_without_classes_has_ranks_and_says_why_it_lacks_the_rest() -> None:
    asked = subject(network("u_net"), None)
    left = missing(asked, list(FIGURES))
    assert set(FIGURES) - set(left) == {"architecture", "ranks", "parameters"}
    assert all("has no classes" in why for why in left.values())
    (figure,) = FIGURES["ranks"].make(asked)
    assert len(figure.rows) > 1


def test_an_op_without_a_gradient_rule_leaves_out_what_needs_attributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layer is too wide for finite differences."""
    net = Net(3, x=(4,))
    net.head(net.relu(net.dense(net.relu(net.dense("x", 600)), 8)), 3)
    asked = subject(net.model(), np.arange(9) % 3)
    asked = replace(asked, groups=layers_named(asked.channels, "dense0"))
    monkeypatch.delitem(OPS, "Relu")
    left = missing(asked, ["splits", "prune-curve", "parameters"])
    assert set(left) == {"prune-curve"} and "no gradient rule" in left["prune-curve"]


IMAGES = {"samples", "input-maps", "heatmaps", "perturbation", "quality"}


def test_samples_that_are_no_images_are_not_drawn() -> None:
    assert set(missing(subject(network("mlp"), np.arange(9) % 3), list(FIGURES))) == IMAGES


@pytest.mark.parametrize("name", ["mlp", "residual", "attention"])
def test_any_classifier_has_every_figure(name: str) -> None:
    asked = subject(network(name), np.arange(9) % 3)
    names = [n for n in FIGURES if n not in missing(asked, list(FIGURES))]
    made = [f for n in names for f in FIGURES[n].make(asked)]
    assert [f"{f.name}-{f.about}" if f.about else f.name for f in made] == catalogue.stems(
        names, asked.groups, asked.fired
    )
    assert all(f.rows for f in made)


# ---- what is asked for ---------------------------------------------------------------------------------------------
def test_figures_come_in_the_order_of_the_paper() -> None:
    assert wanted("ranks, unit") == ("unit", "ranks") and wanted("all") == tuple(FIGURES) == wanted("unit,all")
    for text in ("", ",", "Unit"):
        with pytest.raises(UsageError, match="unknown figure"):
            wanted(text)


def test_classes_by_name_or_number_in_the_order_given() -> None:
    model = network("alexnet")
    given = Samples("d", samples(model.inputs, 4), np.array([4, 4, 1, 2]), ("sun", "rock"))
    assert classes_named(model, given, None) == {0: "sun", 1: "rock", 2: "2", 3: "3", 4: "4"}
    assert list(classes_named(model, given, "4, rock,0")) == [4, 1, 0]


def test_of_many_classes_those_with_most_samples_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MOST_CLASSES", 2)
    model = network("alexnet")
    given = Samples("d", samples(model.inputs, 4), np.array([4, 4, 1, 1]))
    assert list(classes_named(model, given, None)) == [1, 4]


def test_the_layers_of_the_paper_are_the_default() -> None:
    channels = analyse(network("alexnet"))
    assert {g.kind for g in layers_named(channels, None)} == {"dense", "position"}
    residual = analyse(network("residual"))
    assert layers_named(residual, None) == tuple(g for g in residual.groups if g.cuts)[-1:]
    assert {g.name for g in layers_named(channels, "conv*")} == {g.name for g in channels.groups if g.kind == "channel"}
