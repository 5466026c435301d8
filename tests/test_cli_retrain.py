"""`jettison retrain` as people type it, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import ROOT, SHIPPED, jettison

from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.model import load
from toolchain.synthetic import triangles_squares

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from toolchain.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network cut to 5 % of its parameters, and samples: train.npz, unlabelled.npz, held_out.npz, one.npz."""
    path = tmp_path_factory.mktemp("retrain")
    x, y = triangles_squares(96, seed=5)
    np.savez(path / "train.npz", x=x, y=y)
    np.savez(path / "unlabelled.npz", x=x)
    np.savez(path / "one.npz", x=x, y=0 * y)
    x, y = triangles_squares(200, seed=6)
    np.savez(path / "held_out.npz", x=x, y=y)
    done = jettison("prune", SHIPPED, "--budget", "params<=5%", "-o", "cut.onnx", cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def right(model: Path, data: Path) -> float:
    with np.load(data) as file:
        loaded = load(model)
        return evaluate(loaded, Samples("", {next(iter(loaded.inputs)): file["x"]}, file["y"])).share


def test_a_cut_network_learns_again_from_its_teacher_alone(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch trains")
    out, history, held_out = tmp_path / "r.onnx", tmp_path / "h.json", folder / "held_out.npz"
    words = (
        *("retrain", folder / "cut.onnx", "--data", folder / "unlabelled.npz", "--teacher", SHIPPED),
        *("--validation", held_out, "--epochs", "3", "--augment", "flip", "--augment", "shift:1"),
        *("--checkpoint", tmp_path / "c.pt", "--history", history, "-o", out),
    )
    done = jettison(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(history.read_text())
    kept = next(e for e in told["epochs"] if e["number"] == told["kept"])
    assert [e["number"] for e in told["epochs"]] == [0, 1, 2, 3]
    assert kept["right"] == right(out, held_out) > right(folder / "cut.onnx", held_out) + 0.2
    assert f"kept epoch {told['kept']}: " in done.stdout and f"{100 * kept['right']:.2f} % right" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"r.onnx", "h.json", "c.pt"}
    assert jettison(*words).returncode == 2, "files that exist are not replaced"
    before = out.read_bytes()
    done = jettison(*words, "--force")
    assert done.returncode == 0 and out.read_bytes() == before


def test_training_that_diverges_says_so_and_hands_back_the_best(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch trains")
    words = ("--data", folder / "train.npz", "--rate", "1e18", "--history", "h.json", "-o", "r.onnx")
    done = jettison("retrain", folder / "cut.onnx", *words, cwd=tmp_path)
    assert done.returncode == 0 and "stopped: diverged in epoch 1" in done.stderr, done.stderr
    assert json.loads((tmp_path / "h.json").read_text())["epochs"][1]["loss"] is None
    held_out = folder / "held_out.npz"
    assert right(tmp_path / "r.onnx", held_out) == right(folder / "cut.onnx", held_out)


@pytest.mark.parametrize(
    ("data", "words", "code", "told"),
    [
        ("unlabelled", (), 2, "there are no labels to train for. Give labels y, or --teacher DENSE"),
        ("one", (), 3, "every label is class 0: there is nothing to tell apart"),
        ("train", ("--optimiser", "adma"), 2, "Did you mean 'adamw'"),
        ("train", ("--epochs", "0"), 2, "epochs cannot be 0"),
        ("train", ("--freeze", "conf1*"), 2, "Did you mean 'conv1"),
        ("train", ("--augment", "rotate"), 2, "Write rotate:NUMBER (degrees)"),
        ("train", ("--checkpoint", "nowhere/c.pt"), 3, "no such folder"),
        ("train", ("--checkpoint", "train.npz"), 3, "is no checkpoint of jettison retrain"),
        ("train", ("--teacher", "train.npz"), 3, "train.npz"),
        ("train", ("-o", "nowhere/r.onnx"), 3, "no such folder"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out(
    data: str, words: tuple[str, ...], code: int, told: str, folder: Path
) -> None:
    pytest.importorskip("torch", reason="torch trains")
    before = sorted(p.name for p in folder.iterdir())
    done = jettison("retrain", "cut.onnx", "--data", f"{data}.npz", *words, cwd=folder)
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == before


def test_without_torch_it_names_the_extra(folder: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "retrain", "cut.onnx", "--data", "train.npz"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "jettison: error: torch is not installed. Run pip install 'jettison[retrain]'\n"
