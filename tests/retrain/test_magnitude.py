"""Laws of iterative magnitude pruning: the paper's series, weights that return, zeros that stay, rounds that go on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import network
from hypothesis import given
from hypothesis import strategies as st
from retrain.test_training import arrays, labelled

from toolchain.errors import OutOfReach, UsageError
from toolchain.model import Model

torch = pytest.importorskip("torch", reason="torch trains")

from toolchain.retrain import Recipe, retrain, to_torch  # noqa: E402
from toolchain.retrain import checkpoint as on_disk  # noqa: E402
from toolchain.retrain.magnitude import kept_after, left, reset, rounds, weights_of  # noqa: E402

SHORT = Recipe(epochs=2, batch=8, rate=0.02)
PAPER = (  # weights left after 0 to 25 rounds of 20 %: Lukkien, Table 3.1's levels of 2,324
    *(2324, 1858, 1485, 1187, 948, 757, 604, 482, 384, 306, 243, 193, 153),
    *(121, 95, 75, 59, 46, 35, 27, 20, 15, 11, 7, 4, 2),
)


def sparse(model: Model, share: float, seed: int = 0) -> Model:
    """The model with a random share of its weights at 0."""
    generator = np.random.default_rng(seed)
    return reset(model, {n: generator.random(w.shape) >= share for n, w in weights_of(model).items()})


# ---- which weights go ----------------------------------------------------------------------------------------------
def test_25_rounds_of_20_percent_leave_as_many_weights_as_in_the_paper() -> None:
    weights, found = {"w": np.random.default_rng(0).standard_normal(PAPER[0])}, []
    for _ in PAPER:
        found.append(left(weights))
        weights = {"w": np.where(kept_after(weights, 0.2)["w"], weights["w"], 0)}
    assert tuple(found) == PAPER


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60).filter(any), st.floats(0, 1), st.integers(1, 59))
def test_weights_above_the_threshold_of_all_layers_stay_whatever_their_sign(
    numbers: list[int], share: float, cut: int
) -> None:
    weights = {"a": np.array(numbers[:cut], np.float32), "b": np.array(numbers[cut:], np.float32)}
    alive = sorted(abs(n) for n in numbers if n)
    threshold = alive[min(math.ceil(share * len(alive)), len(alive) - 1)]
    kept = kept_after(weights, share)
    assert [bool(k) for k in (*kept["a"], *kept["b"])] == [abs(n) > threshold for n in numbers]


def test_kernels_and_matrices_are_weights_and_biases_norms_and_what_is_frozen_are_not() -> None:
    model = network("residual")
    matrices = {n for n, a in arrays(model).items() if n.endswith(".weight") and a.ndim > 1}
    assert set(weights_of(model)) == matrices
    assert set(weights_of(model, ("conv*",))) == {n for n in matrices if not n.startswith("conv")}


# ---- zeros that stay -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adamw"])
def test_training_with_zeros_held_keeps_exactly_these_weights_at_0(optimiser: str) -> None:
    model = sparse(network("residual"), 0.6)
    recipe = replace(SHORT, optimiser=optimiser, keep_zeros=True, decay=0.1)
    before, after = (weights_of(m) for m in (model, retrain(model, labelled(model), recipe=recipe)[0]))
    for name, w in before.items():
        np.testing.assert_array_equal(w == 0, after[name] == 0)
        assert not np.array_equal(w, after[name])


def test_zeros_held_are_weights_set_to_0_after_every_step() -> None:
    """One step an epoch, by torch's own optimiser: classical momentum, decay of matrices alone, each epoch its rate."""
    model, rates = sparse(network("mlp"), 0.5), (0.1, 0.02, 0.05)
    part = labelled(model)
    recipe = Recipe(epochs=3, batch=len(part), optimiser="momentum", rates=rates, decay=0.05, keep_zeros=True)
    trained, history = retrain(model, part, recipe=recipe)
    assert tuple(e.rate for e in history.epochs[1:]) == rates
    net, y = to_torch(model), torch.from_numpy(part.labels)
    masks = [(p != 0).float() if p.ndim > 1 else torch.ones_like(p) for p in net.parameters()]
    groups = [{"params": [p], "weight_decay": 0.05 * (p.ndim > 1)} for p in net.parameters()]
    optimiser = torch.optim.SGD(groups, 1.0, momentum=0.9)
    for rate in rates:
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(next(iter(part.inputs.values())))), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for parameter, mask in zip(net.parameters(), masks, strict=True):
            parameter.data *= mask
    for name, key in net.keys.items():
        wanted = getattr(net, key).detach().numpy()
        np.testing.assert_allclose(arrays(trained)[name], wanted, rtol=1e-4, atol=1e-6)  # sums in another order


# ---- rounds --------------------------------------------------------------------------------------------------------
def test_each_round_trains_the_given_weights_that_the_round_before_left(tmp_path: Path) -> None:
    model = network("mlp")
    part, given_ = labelled(model), arrays(network("mlp"))
    found = list(rounds(model, part, None, SHORT, tmp_path, count=3, share=0.3))
    assert [r.number for r in found] == [0, 1, 2, 3] and found[0].model is model and found[0].density == 1
    for before, after in pairwise(found):
        kept = kept_after(weights_of(before.model), 0.3)
        masked = model.ir.clone()
        for name, stays in kept.items():
            masked.graph.initializers[name].const_value = ir.tensor(given_[name] * stays, name=name)
        trained, _ = retrain(model.with_ir(masked), part, recipe=replace(SHORT, keep_zeros=True))
        for name, array in arrays(trained).items():
            np.testing.assert_array_equal(arrays(after.model)[name], array)
        assert after.weights[0] == sum(int(k.sum()) for k in kept.values())


def test_a_series_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "PAUSE", 0.0)
    model, folders = network("mlp"), (tmp_path / "whole", tmp_path / "stopped")
    part = labelled(model)
    for folder in folders:
        folder.mkdir()
    list(rounds(model, part, None, SHORT, folders[0], count=3))
    steps = []

    def stop(stage: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 18:  # ten steps a round: the second epoch of round 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(rounds(model, part, None, SHORT, folders[1], count=3, progress=stop))
    assert {p.name for p in folders[1].iterdir()} == {"series.json", "round-01.onnx", "round-02.pt"}
    list(rounds(model, part, None, SHORT, folders[1], count=3))
    whole, stopped = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert whole == stopped


def test_a_round_is_over_once_its_network_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between writing a round and removing its checkpoint goes on with the next, and leaves none."""
    model, part, plain = network("mlp"), labelled(network("mlp")), Path.unlink

    def stop(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pt" and path.exists():
            raise KeyboardInterrupt
        plain(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", stop)
        list(rounds(model, part, None, SHORT, tmp_path, count=2))
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".onnx", ".pt"}
    assert [r.number for r in rounds(model, part, None, SHORT, tmp_path, count=2)] == [0, 1, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"series.json", "round-01.onnx", "round-02.onnx"}


def test_a_folder_with_rounds_of_another_series_is_refused(tmp_path: Path) -> None:
    model = network("mlp")
    list(rounds(model, labelled(model), None, SHORT, tmp_path, count=1))
    for name, data, share in (("share", labelled(model), 0.5), ("data", labelled(model, seed=1), 0.2)):
        with pytest.raises(UsageError, match=f"their {name} differs"):
            list(rounds(model, data, None, SHORT, tmp_path, count=1, share=share))


def test_a_round_that_would_leave_no_weight_is_refused_and_says_how_many_there_are(tmp_path: Path) -> None:
    model = network("mlp")
    with pytest.raises(OutOfReach, match=r"round (\d+) would leave no weight\. Ask for (\d+) rounds") as caught:
        list(rounds(model, labelled(model), None, Recipe(epochs=1), tmp_path, count=40, share=0.9))
    assert f"Ask for {len(list(tmp_path.glob('*.onnx')))} rounds" in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, math.nan])
def test_a_share_that_is_none_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot go in each round\. Give one between 0 and 1"):
        next(rounds(network("mlp"), labelled(network("mlp")), None, SHORT, tmp_path, share=share))


def test_a_network_without_free_weights_is_refused(tmp_path: Path) -> None:
    model = network("mlp")
    with pytest.raises(UsageError, match="no weight is free to be pruned"):
        list(rounds(model, labelled(model), None, replace(SHORT, frozen=("*",)), tmp_path))
