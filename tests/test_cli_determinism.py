"""The same input gives the same bytes: in another process, under another hash seed, with another number of threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_cli import SHIPPED, jettison
from writing import WRITING, write_all

from toolchain.synthetic import triangles_squares

FILES = ("model.onnx", "model.tflite", "plan.json", "ranks.npz")
TIMED = ("created", "stages", "bench")  # all of a report that another run of the same tells otherwise


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = triangles_squares(24, seed=5)
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    np.savez(path, x=x, y=y)
    return path


def compressed(samples: Path, folder: Path, seed: str, *more: str) -> Path:
    """A run in a folder of its own, so that its arguments are those of any other."""
    folder.mkdir()
    words = ("--budget", "params<=40%", "--criterion", "taylor", "--runs", "0", "--samples", "16", *more)
    done = jettison("compress", SHIPPED, "--data", samples, *words, "-o", "out", cwd=folder, PYTHONHASHSEED=seed)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def first(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed(samples, tmp_path_factory.mktemp("first") / "run", "1")


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def test_another_process_and_another_hash_seed_give_the_same_bytes(first: Path, samples: Path, tmp_path: Path) -> None:
    second = compressed(samples, tmp_path / "run", "2")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    one, two = report(first), report(second)
    assert {k for k in one if one[k] != two[k]} <= set(TIMED)
    untimed = [[{k: v for k, v in s.items() if k != "seconds"} for s in r["stages"]] for r in (one, two)]
    assert untimed[0] == untimed[1]


def test_another_number_of_threads_gives_the_same_plan_and_what_is_kept_to_the_last_bit(
    samples: Path, tmp_path: Path
) -> None:
    """A runtime adds in another order then: scores may differ by a rounding, and refitted weights, so none are."""
    one, two = (compressed(samples, tmp_path / n, "1", "--threads", n, "--no-recover") for n in ("1", "2"))
    assert (one / "plan.json").exists()
    plans = [json.loads((out / "plan.json").read_text()) for out in (one, two)]
    assert plans[0]["groups"] == plans[1]["groups"] and plans[0]["costs"] == plans[1]["costs"]
    networks = [onnx.load(out / "model.onnx") for out in (one, two)]
    assert networks[0].graph == networks[1].graph
    with np.load(one / "ranks.npz") as a, np.load(two / "ranks.npz") as b:
        for name in (n for n in a.files if n.startswith("scores")):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6 * np.abs(a[name]).max())


def test_a_figure_is_the_same_file_in_another_process(samples: Path, tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        words = ("--figures", "prune-curve", "--orders", "1", "--samples", "8", "--steps", "4", "-o", out)
        done = jettison("explain", SHIPPED, "--data", samples, *words, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        found.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert found[0] == found[1] and {"figures.json", "index.html"} <= found[0].keys()


def test_every_network_that_a_command_writes_has_the_same_bytes_in_another_process(
    written: Path, tmp_path: Path
) -> None:
    again = write_all(tmp_path, PYTHONHASHSEED="2")
    files = sorted(f for c in WRITING.values() for f in c.files if (written / f).exists())
    assert len(files) > 12
    assert [f for f in files if (written / f).read_bytes() != (again / f).read_bytes()] == []
