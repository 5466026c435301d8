"""`jettison sparsify` and `jettison prune --weightless` as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from compress.networks import Net
from onnx import numpy_helper
from test_cli import SHIPPED, jettison

from toolchain.model import load
from toolchain.profile import params
from toolchain.synthetic import triangles_squares


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples train.npz and held_out.npz; a sparse network sparse.onnx with a unit that is constant."""
    path = tmp_path_factory.mktemp("sparsify")
    for name, n, seed in (("train", 96, 5), ("held_out", 100, 6)):
        x, y = triangles_squares(n, seed=seed)
        np.savez(path / f"{name}.npz", x=x, y=y)
    net = Net(3, x=(6,))
    hidden = net.dense("x", 12)
    head = net.head(net.relu(hidden))
    net.parameters[f"{head}.weight"][:, 6:] = 0
    onnx.save(net.proto(), path / "unread.onnx")
    net.parameters[f"{hidden}.weight"][2] = 0
    net.parameters[f"{hidden}.bias"][2] = 0.5
    onnx.save(net.proto(), path / "constant.onnx")
    return path


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


# ---- sparsify ------------------------------------------------------------------------------------------------------
ROUNDS = ("--rounds", "2", "--share", "60%", "--epochs", "1", "--batch", "48")


def test_rounds_end_in_a_dense_network_that_equals_the_sparse_one(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch trains")
    words = ("sparsify", SHIPPED, "--data", folder / "train.npz", "--validation", folder / "held_out.npz", *ROUNDS)
    done = jettison(*words, "-o", tmp_path / "out", "--format", "json", "--align", "off")
    assert done.returncode == 0, done.stderr
    rows, told = json.loads(done.stdout), json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert rows == told["rounds"] and [r["round"] for r in rows] == [0, 1, 2] and told["delivered"] == 2
    assert told["schema"] == "jettison.sparsify/1" and told["source_sha256"] == load(SHIPPED).sha256
    weights = [r["weights"] for r in rows]
    assert weights[1] < 0.41 * weights[0] and weights[2] < 0.41 * weights[1]
    dense, sparse, plan = (tmp_path / "out" / n for n in ("model.onnx", "sparse.onnx", "plan.json"))
    held = [numpy_helper.to_array(i) for i in onnx.load(tmp_path / "out" / "round-02.onnx").graph.initializer]
    assert sum(np.count_nonzero(a) for a in held if a.ndim > 1) == weights[2]
    assert rows[2]["params"] == params(load(dense)) <= rows[0]["params"] and rows[2]["bytes"] == dense.stat().st_size
    done = jettison("verify", sparse, dense, "--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("model.onnx", "sparse.onnx", "plan.json", "rounds.json", "series.json", "round-01.onnx", "round-02.onnx")
    }
    assert jettison(*words, "-o", tmp_path / "out").returncode == 2, "files that exist are not replaced"
    before = dense.read_bytes()
    done = jettison(*words, "-o", tmp_path / "out", "--force", "--align", "off", "--max-drop", "100")
    assert done.returncode == 0 and dense.read_bytes() == before, done.stderr


def test_the_sparsest_round_within_the_drop_is_delivered(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch trains")
    words = ("sparsify", SHIPPED, "--data", folder / "train.npz", "--validation", folder / "held_out.npz")
    words = (*words, "--rounds", "2", "--share", "97%", "--epochs", "1", "--max-drop", "0", "-o", tmp_path / "out")
    done = jettison(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "rounds.json").read_text())
    right = [r["right %"] for r in told["rounds"]]
    assert told["delivered"] == max(i for i, r in enumerate(right) if r >= right[0]) < 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--share", "100%"), 2, "a share of 1 cannot go in each round"),
        (("--share", "x"), 2, "cannot read the share 'x'"),
        (("--max-drop", "1"), 2, "--max-drop needs samples that judge the rounds. Give --validation"),
        (("--freeze", "*"), 2, "no weight is free to be pruned. Give fewer --freeze"),
        (("--epochs", "0"), 2, "epochs cannot be 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(
    words: tuple[str, ...], code: int, told: str, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch trains")
    done = jettison("sparsify", SHIPPED, "--data", folder / "train.npz", *words, cwd=tmp_path)
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


# ---- prune --weightless --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "width"), [("unread", 6), ("constant", 5)])
def test_a_foreign_sparse_network_becomes_a_dense_one(name: str, width: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.onnx"
    done = jettison("prune", folder / f"{name}.onnx", "--weightless", "--align", "off", "-o", out)
    assert done.returncode == 0, done.stderr
    assert params(load(out)) == width * (6 + 1 + 4) + 4
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    wanted = outputs(folder / f"{name}.onnx", x)
    np.testing.assert_allclose(outputs(out, x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_plan_of_weightless_units_is_written_where_a_plan_can_say_it_all(folder: Path, tmp_path: Path) -> None:
    words = ("--weightless", "-o", tmp_path / "p.onnx", "--plan-out", tmp_path / "p.json")
    done = jettison("prune", folder / "constant.onnx", *words)
    assert done.returncode == 2 and "went into biases, which no plan can say. Leave --plan-out out" in done.stderr
    assert not list(tmp_path.iterdir())
    assert jettison("prune", folder / "unread.onnx", *words).returncode == 0
    done = jettison("prune", folder / "unread.onnx", "--plan", tmp_path / "p.json", "-o", tmp_path / "q.onnx")
    assert done.returncode == 0
    assert onnx.load(tmp_path / "p.onnx").graph == onnx.load(tmp_path / "q.onnx").graph, "what was asked for differs"


def test_a_budget_a_plan_and_weightless_exclude_each_other(folder: Path) -> None:
    for words in (("--weightless", "--budget", "units<=50%"), ()):
        done = jettison("prune", folder / "unread.onnx", *words, cwd=folder)
        assert done.returncode == 2 and "a budget, a plan, findings or --weightless is needed" in done.stderr
