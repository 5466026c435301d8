"""`jettison rank` as people type it: executors, cuts, targets, memory, and what it says of mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from compress.networks import Net
from test_cli import SHIPPED, jettison
from test_cli import samples as samples

from toolchain.compress.groups import analyse
from toolchain.model import load, save

LAYER = "flatten"


def scores(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[n] for n in sorted(file.files) if n.startswith(("scores", "dead", "expected"))]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
    ) as cluster:
        yield cluster.scheduler_address


def test_every_executor_gives_the_ranks_of_none(samples: Path, scheduler: str, tmp_path: Path) -> None:
    found = {}
    for name in ("", "threads", "processes", f"dask:{scheduler}"):
        out = tmp_path / f"ranks{len(found)}.npz"
        words = ["--executor", name, "--workers", "2"] if name else []
        done = jettison("rank", SHIPPED, "--data", samples, "--target", "classes", "--layers", LAYER, "-o", out, *words)
        assert done.returncode == 0, done.stderr
        assert not out.with_name(f"{out.name}.partial").exists(), "what was finished is no longer needed"
        found[name] = scores(out)
    for name, arrays in found.items():
        for a, b in zip(arrays, found[""], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_killed_ranking_goes_on(samples: Path, tmp_path: Path) -> None:
    """Killed when its first sums lie on disk; the next run says from where it went on, and ranks alike."""
    words = ("rank", SHIPPED, "--data", str(samples), "--steps", "32", "--layers", LAYER)
    whole = jettison(*words, "-o", tmp_path / "whole.npz")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "ranks.npz"
    code = (
        "import os, signal, sys\n"
        "from toolchain.compress import chunks\n"
        "chunks.MOST_SAMPLES, chunks.LEAST_ROWS, chunks.SAVED_EVERY = 64, 1, 0.0\n"
        "plain = chunks.Record.write\n"
        "def write(self, kept, at_last):\n"
        "    plain(self, kept, at_last)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "chunks.Record.write = write\n"
        "from toolchain.cli import main\n"
        "main()\n"
    )
    root = str(Path(__file__).parents[1])
    killed = subprocess.run([sys.executable, "-c", code, *words, "-o", str(out)], cwd=root, check=False)
    assert killed.returncode == -9 and not out.exists()
    done = jettison(*words, "-o", out)
    assert done.returncode == 0 and re.search(r"went on after 32 of 96 samples", done.stdout), done.stdout + done.stderr
    for a, b in zip(scores(out), scores(tmp_path / "whole.npz"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_cut_elsewhere_ranks_the_same_units_there(samples: Path, tmp_path: Path) -> None:
    model = load(Path(SHIPPED))
    group = next(g for g in analyse(model).groups if g.name == "conv6")
    words = ("rank", SHIPPED, "--data", samples, "--layers", group.name, "--criterion", "ig-signed")
    before = next(v for n in model.graph for v in n.outputs if v.name == group.cuts[0][0]).producer()
    assert before is not None
    source = next(v.name for v in before.inputs if v is not None and v.const_value is None)
    for value in (group.cuts[0][0], source):
        done = jettison(*words, "--cuts", f"{group.name}={value}", "-o", tmp_path / f"{value}.npz")
        assert done.returncode == 0, done.stderr
    assert jettison(*words, "-o", tmp_path / "own.npz").returncode == 0
    own, named = scores(tmp_path / "own.npz"), scores(tmp_path / f"{group.cuts[0][0]}.npz")
    for a, b in zip(own, named, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(own[1], scores(tmp_path / f"{source}.npz")[1])


def sigmoid_network(path: Path) -> Path:
    net = Net(3, x=(8,))
    net.op("Sigmoid", net.head(net.relu(net.dense("x", 6))))
    save(net.model(), path)
    return path


def test_outputs_that_are_no_class_scores_are_ranked_by_their_answer(tmp_path: Path) -> None:
    model = sigmoid_network(tmp_path / "labels.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32))
    words = ("rank", model, "--data", tmp_path / "x.npz", "-o", tmp_path / "ranks.npz", "--force")
    for target in ("loss", "classes"):
        done = jettison(*words, "--target", target)
        assert done.returncode == 2 and "labels" in done.stderr and "--target answer" in done.stderr
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 8), np.float32), y=np.arange(20) % 4)
    done = jettison(*words, "--target", "loss")
    assert done.returncode == 2 and "comes from Sigmoid" in done.stderr and "--target answer" in done.stderr
    for more in ((), ("--target", "answer")):
        done = jettison(*words, *more)
        assert done.returncode == 0 and "ig/answer" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--cuts", "conv1"), 2, "cannot read the cut 'conv1'"),
        (("--cuts", "conf1=x"), 2, "there is no group 'conf1'. Did you mean 'conv1'"),
        (("--cuts", "conv1=relu9.out"), 2, "there is no value 'relu9.out' to cut at. Did you mean 'relu1.out'"),
        (("--cuts", "conv1=relu3.out"), 2, "'relu3.out' does not hold the units of 'conv1'"),
        (("--executor", "thread"), 2, "there is no executor 'thread'. Did you mean 'threads'"),
        (("--executor", "dask"), 2, "which scheduler?"),
        (("--max-memory", "0"), 2, "--max-memory"),
        (("--target", "logits"), 2, "--target"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out(
    words: tuple[str, ...], code: int, told: str, samples: Path, tmp_path: Path
) -> None:
    done = jettison("rank", SHIPPED, "--data", samples, "-o", tmp_path / "ranks.npz", *words)
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_does_not_answer_is_a_runner_that_failed(samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    words = ("--executor", "dask:tcp://127.0.0.1:1", "-o", tmp_path / "ranks.npz")
    done = jettison("rank", SHIPPED, "--data", samples, *words)
    assert done.returncode == 6 and "no dask scheduler answers" in done.stderr, done.stderr


def test_a_sample_that_overflows_is_named(tmp_path: Path) -> None:
    net = Net(3, x=(8,))
    net.head(net.relu(net.op("Exp", net.dense("x", 6))))
    save(net.model(), tmp_path / "exp.onnx")
    x = np.zeros((20, 8), np.float32)
    x[13] = 1e4
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 4)
    done = jettison("rank", tmp_path / "exp.onnx", "--data", tmp_path / "x.npz", "-o", tmp_path / "ranks.npz")
    assert done.returncode == 3 and re.search(r"sample 13 makes '\w+' (infinite|not a number)", done.stderr), (
        done.stderr
    )
