"""The network of Lukkien, its noise and its recipe, and what is made of measured rounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch trains the network")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from benchmarks.reproduce import iterative_magnitude as subject  # noqa: E402
from benchmarks.reproduce.train_triangles_squares import to_onnx  # noqa: E402
from toolchain.model import load  # noqa: E402
from toolchain.profile import params  # noqa: E402
from toolchain.retrain.magnitude import weights_of  # noqa: E402


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """(MNIST.npz of random images, a folder with a network that was not trained and a round of it)."""
    generator, work = np.random.default_rng(0), tmp_path / "work"
    (work / "333").mkdir(parents=True)
    for name in ("trained", "round-01"):
        torch.manual_seed(len(name))
        onnx.save(to_onnx("magnitude", subject.network(), (1, 28, 28), 10), work / "333" / f"{name}.onnx")
    images = {f"X_{p}": generator.integers(0, 255, (40, 28, 28)).astype(np.uint8) for p in ("train", "test")}
    labels = {f"y_{p}": (np.arange(40) % 10).astype(np.uint8) for p in ("train", "test")}
    np.savez(tmp_path / "mnist.npz", **images, **labels)
    return tmp_path / "mnist.npz", work


def test_the_network_has_the_papers_parameters_and_prunable_weights(trained: tuple[Path, Path]) -> None:
    model = load(trained[1] / "333" / "trained.onnx")
    assert params(model) == 2346 and sum(w.size for w in weights_of(model).values()) == 2324


def test_rates_are_the_papers_over_epochs_0_to_20() -> None:
    rates = subject.TRAINING.rates + subject.RETRAINING.rates
    paper = {0.01: {*range(9), *range(11, 16)}, 0.001: {9, 10, 16, 17, 18}, 0.0001: {19, 20}}
    assert {r: {e for e, rate in enumerate(rates) if rate == r} for r in set(rates)} == paper


def test_noise_is_on_zero_pixels_alone_and_up_to_a_fifth() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).repeat(1000).reshape(3, 1, 10, 100)
    y = subject.noisy(x, torch.Generator().manual_seed(0))
    assert torch.equal(x[x > 0], y[x > 0])
    assert 0 <= float(y[x == 0].min()) < 0.01 and 0.19 < float(y[x == 0].max()) <= 0.2


def test_rounds_are_measured_once_and_drawn(trained: tuple[Path, Path], tmp_path: Path) -> None:
    mnist, work = trained
    for _ in range(2):
        subject.measure(mnist, work, (333,))
    rows = subject.lines_of(work)
    assert [(r["seed"], r["round"], r["weights"], r["params"]) for r in rows] == [(333, n, 2324, 2346) for n in (0, 1)]
    subject.draw(mnist, work, (333,), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table3_1.json").read_text())["rows"]
    assert len(table) == 4 and all(t["df"] == 0 for t in table)
    stems = {p.stem for p in (tmp_path / "out").glob("*.json")}
    assert {"accuracy-round", "iou-density", "structure", "dense-grad-cam", "rounds-grad-cam-plus-plus"} <= stems


def test_means_are_of_rounds_that_every_seed_has_come_to_and_r_is_pearsons() -> None:
    generator = np.random.default_rng(1)
    names = tuple(subject.COLUMNS)
    rows = [
        {"seed": s, "round": n, "weights": 9 - n, "density": 1 - n / 9}
        | dict(zip(names, generator.random(7), strict=True))
        for s, count in ((333, 6), (334, 5))
        for n in range(count)
    ]
    means = subject.over_seeds(rows)
    assert [m["round"] for m in means] == list(range(5)) and {m["seeds"] for m in means} == {2}
    for n, mean in enumerate(means):
        both = [r["noisy"] for r in rows if r["round"] == n]
        assert mean["noisy"] == pytest.approx(sum(both) / 2) and [mean["noisy low"], mean["noisy high"]] == sorted(both)
    x, y = (np.array([m[k] for m in means]) for k in ("noisy", "grad-cam"))
    found = subject.correlations(means)[0]
    assert found["df"] == 3 and found["r"] == pytest.approx(np.corrcoef(x, y)[0, 1])
