"""Training with masks against masks that are really held, and against a run that nobody stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch trains")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from torch import nn  # noqa: E402

from benchmarks.reproduce import retraining as subject  # noqa: E402
from benchmarks.reproduce.train_triangles_squares import Step, to_onnx  # noqa: E402
from toolchain.compress.groups import analyse  # noqa: E402
from toolchain.compress.surgery import prune  # noqa: E402
from toolchain.model import Model, load  # noqa: E402

N, KEPT = 24, 0.5


@pytest.fixture
def dense(tmp_path: Path) -> tuple[Model, nn.Sequential]:
    """[n, 4, 2, 2] -> flatten 16 -> 12 -> 10 -> 3, as a model and in torch."""
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    names = ("flatten", "dense1", "relu1", "dense2", "relu2", "dense3")
    steps = tuple(map(Step, names, ((n,) for n in ("image", *names)), layers))
    onnx.save(to_onnx("tiny", steps, (4, 2, 2), 3), tmp_path / "tiny.onnx")
    return load(tmp_path / "tiny.onnx"), nn.Sequential(*layers)


class Held(nn.Module):
    """A mask that stays."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.mask = torch.from_numpy(mask.astype(np.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def samples(n: int, seed: int) -> tuple[np.ndarray, torch.Tensor]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, 4, 2, 2)).astype(np.float32), torch.arange(n) % 3


def test_training_the_pruned_network_is_training_with_the_masks_held_in_place(
    dense: tuple[Model, nn.Sequential], tmp_path: Path
) -> None:
    model, (_, *layers) = dense
    channels = analyse(model)
    generator = np.random.default_rng(1)
    removed, masks = [], {}
    for g in channels.groups:
        gone = generator.permutation(len(g)) < KEPT * len(g)
        removed.append(g.units[gone])
        masks[g.name] = ~gone
    pruned = prune(model, channels, np.concatenate(removed))
    held = [Held(masks["flatten"]), *layers[:2], Held(masks["dense1"]), *layers[2:4], Held(masks["dense2"]), layers[4]]

    way = subject.Way(rate=1e-2, dropout=0.0, epochs=4, batch=8)
    (x, y), (val, val_y) = samples(N, 2), samples(9, 3)
    logits = {}
    for name, net, seen in (
        ("pruned", subject.as_torch(pruned, 0.0), lambda a: subject.places(pruned, a, 1)),
        ("masked", nn.Sequential(*held), lambda a: torch.from_numpy(a.reshape(len(a), -1))),
    ):
        before = net(seen(val)).detach()
        subject.retrain(net, seen(x)[None], y, (seen(val), val_y), way, 50, 0, tmp_path / f"{name}.pt")
        logits[name] = net(seen(val)).detach().numpy()
        assert np.abs(logits[name] - before.numpy()).max() > 0.01  # it did train, far more than rounding
    # Adam divides by the root of squared gradients, which lifts rounding of gradients near 0: 1e-4, not 1e-6.
    np.testing.assert_allclose(logits["pruned"], logits["masked"], atol=1e-4 * np.abs(logits["masked"]).max())


def test_what_is_written_back_is_what_was_trained(dense: tuple[Model, nn.Sequential]) -> None:
    model, _ = dense
    net = subject.as_torch(model, 0.0)
    with torch.no_grad():
        for p in net.parameters():
            p += torch.randn_like(p)
    x, _ = samples(5, 0)
    (found,) = subject.run(subject.session(subject.written_back(model, net).ir), {"image": x})
    wanted = net(torch.from_numpy(x.reshape(5, -1))).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    dense: tuple[Model, nn.Sequential], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = dense
    way = subject.Way(rate=1e-2, dropout=0.5, epochs=6, batch=8)
    (x, y), (val, val_y) = samples(N, 2), samples(9, 3)
    flat = torch.from_numpy(x.reshape(N, -1))
    parts = (torch.stack([flat, flat * 0.9]), y, (torch.from_numpy(val.reshape(9, -1)), val_y), way, 50, 0)

    whole = subject.as_torch(model, way.dropout)
    history = subject.retrain(whole, *parts, tmp_path / "whole.pt", pause=0)

    calls, score = [], subject.score

    def stopping(*arguments: object) -> tuple[int, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(subject, "score", stopping)
    with pytest.raises(KeyboardInterrupt):
        subject.retrain(subject.as_torch(model, way.dropout), *parts, tmp_path / "stopped.pt", pause=0)
    monkeypatch.setattr(subject, "score", score)
    resumed = subject.as_torch(model, way.dropout)
    assert subject.retrain(resumed, *parts, tmp_path / "stopped.pt", pause=0) == history
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_checkpoint_of_another_way_is_refused(dense: tuple[Model, nn.Sequential], tmp_path: Path) -> None:
    model, _ = dense
    (x, y), flat = samples(N, 2), lambda a: torch.from_numpy(a.reshape(len(a), -1))
    for rate, refused in ((1e-2, False), (1e-3, True)):
        way = subject.Way(rate=rate, dropout=0.0, epochs=1)
        parts = (flat(x)[None], y, (flat(x), y), way, 50, 0, tmp_path / "one.pt")
        if refused:
            with pytest.raises(SystemExit, match="another --work"):
                subject.retrain(subject.as_torch(model, 0.0), *parts)
        else:
            subject.retrain(subject.as_torch(model, 0.0), *parts)
