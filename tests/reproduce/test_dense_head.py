"""The head on kept activations against the whole network on images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch makes the network")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from torch import nn  # noqa: E402

from benchmarks.reproduce.dense_head import Head, masked, ranked, read_head, work_of  # noqa: E402
from benchmarks.reproduce.masked_retraining import Bench, shuffled  # noqa: E402
from benchmarks.reproduce.train_msl5 import CLASSES, SPLITS  # noqa: E402
from benchmarks.reproduce.train_triangles_squares import Step, to_onnx  # noqa: E402
from toolchain.compress.groups import analyse  # noqa: E402
from toolchain.compress.plan import make_plan  # noqa: E402
from toolchain.compress.surgery import prune  # noqa: E402
from toolchain.data import load_samples  # noqa: E402
from toolchain.model import Model, load  # noqa: E402
from toolchain.session import run, session  # noqa: E402

SIDE, CLOSE = 12, {"rtol": 1e-5, "atol": 1e-6}  # sums of float32 in another order, through four layers


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as train_msl5 makes it, of a small network and random images."""
    torch.manual_seed(0)
    conv = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    dense = (nn.Linear(150, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, len(CLASSES)))
    names = ("conv1", "relu1", "pool1", "flatten", "dense1", "relu2", "dense2", "relu3", "dense3")
    steps = tuple(map(Step, names, ((n,) for n in ("image", *names)), (*conv, *dense)))
    onnx.save(to_onnx("msl5", steps, (3, SIDE, SIDE), len(CLASSES)), tmp_path / "msl5.onnx")
    generator = np.random.default_rng(0)
    for n, file in zip((40, 12, 14), SPLITS.values(), strict=True):
        x = generator.random((n, 3, SIDE, SIDE)).astype(np.float32)
        np.savez(tmp_path / f"{file}.npz", x=x, y=np.arange(n) % len(CLASSES), classes=np.array(CLASSES))
    return tmp_path


@pytest.fixture
def head(trained: Path) -> Head:
    return read_head(trained, work_of(trained, trained / "work"), 1)


def logits(model: Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(model.ir), inputs)[0]


@pytest.mark.parametrize("split", list(SPLITS))
def test_the_head_on_kept_activations_answers_as_the_network_on_images(head: Head, trained: Path, split: str) -> None:
    whole = load(trained / "msl5.onnx")
    images = load_samples(trained / f"{SPLITS[split]}.npz", whole)
    found = logits(head.model, dict(head.samples[split].inputs))
    np.testing.assert_allclose(found, logits(whole, dict(images.inputs)), **CLOSE)
    np.testing.assert_array_equal(head.samples[split].labels, images.labels)
    assert head.samples[split].classes == CLASSES


@pytest.mark.parametrize("level", [50, 95])
def test_ranking_and_pruning_the_head_is_ranking_and_pruning_the_network(head: Head, trained: Path, level: int) -> None:
    whole = load(trained / "msl5.onnx")
    channels = analyse(whole)
    train, test = (load_samples(trained / f"{SPLITS[s]}.npz", whole) for s in ("train", "test"))
    ranks = ranked(whole, channels, train, 1)
    for name, scores in head.ranks.scores.items():
        np.testing.assert_allclose(scores, ranks.scores[name], rtol=1e-4, atol=1e-7)
    plan = masked(head, level)
    budget = f"units<={100 - level}%"
    wanted = make_plan(whole, channels, head.ranks.scores, head.ranks.dead, budget, "off", ("conv*",))
    assert plan.removed == {name: gone for name, gone in wanted.removed.items() if name in plan.removed}
    pruned = prune(head.model, head.channels, plan.labels(head.channels))
    pruned_whole = prune(whole, channels, wanted.labels(channels))
    answers = logits(pruned, dict(head.samples["test"].inputs))
    np.testing.assert_allclose(answers, logits(pruned_whole, dict(test.inputs)), **CLOSE)


def test_kept_activations_of_another_network_are_never_read(head: Head, trained: Path) -> None:
    before = work_of(trained, trained / "work")
    model = onnx.load(trained / "msl5.onnx")
    model.doc_string = "another"
    onnx.save(model, trained / "msl5.onnx")
    assert work_of(trained, trained / "work") != before


def test_what_is_kept_of_one_ranking_is_never_read_for_another(head: Head, tmp_path: Path) -> None:
    found = [
        Bench(h, np.zeros(0), tmp_path, 1).kept(masked(h, 50), "x").name
        for h in (head, shuffled(head, 0), shuffled(head, 1), shuffled(head, 0))
    ]
    assert len(set(found)) == 3
    assert found[1] == found[3]
