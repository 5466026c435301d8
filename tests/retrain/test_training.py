"""Laws of retraining: masks stay, a stopped run equals any other, the best epoch is kept, mistakes are one line."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import Net, network, samples

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import mask, prune
from toolchain.data import Samples
from toolchain.errors import BadInput, JettisonError, Unsupported, UsageError
from toolchain.evaluate import answers, deviation, evaluate
from toolchain.model import Model

torch = pytest.importorskip("torch", reason="torch trains")

from toolchain.retrain import Recipe, retrain  # noqa: E402
from toolchain.retrain import checkpoint as on_disk  # noqa: E402

ROOT = Path(__file__).parents[2]
SHORT = Recipe(epochs=3, batch=8, rate=0.02)


def labelled(model: Model, n: int = 40, seed: int = 0) -> Samples:
    """Random inputs, labelled by the sign of sums: something that can be learnt."""
    inputs = samples(model.inputs, n, seed)
    x = next(iter(inputs.values())).reshape(n, -1)
    return Samples("made", inputs, (x[:, ::2].sum(1) > x[:, 1::2].sum(1)).astype(np.int64))


def unlabelled(part: Samples) -> Samples:
    return Samples(part.name, part.inputs, None)


def half(model: Model) -> np.ndarray:
    """Every second unit of each group."""
    return np.array([u for g in analyse(model).groups for u in g.units[::2][: len(g) - 1]], np.int64)


def arrays(model: Model) -> dict[str, np.ndarray]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}


def with_weights_of(source: Model, onto: Model) -> Model:
    """A network with those weights of another that it has too."""
    clone, found = onto.ir.clone(), arrays(source)
    for name, value in clone.graph.initializers.items():
        value.const_value = ir.tensor(found[name], name=name)
    return onto.with_ir(clone)


def outputs(model: Model, part: Samples) -> list[np.ndarray]:
    return [np.concatenate(ys) for ys in zip(*answers(model, part), strict=True)]


# ---- masks ---------------------------------------------------------------------------------------------------------
MASKED = ("mlp", "residual", "separable", "attention", "class_token")


@pytest.mark.parametrize("name", MASKED)
def test_a_retrained_masked_network_is_still_masked(name: str) -> None:
    """Cut after training, it answers the same: no masked unit has come to life."""
    model = network(name)
    channels, removed, part = analyse(model), half(model), labelled(model)
    masked = mask(model, channels, removed)
    trained, _ = retrain(masked, part, recipe=SHORT)
    before, after = arrays(masked), arrays(trained)
    assert any(not np.array_equal(before[n], after[n]) for n in before), "nothing was learnt"
    for n in (n for n in before if n.startswith("jettison/")):
        np.testing.assert_array_equal(before[n], after[n])
    dense = with_weights_of(trained, model)
    for y, z in zip(outputs(prune(dense, analyse(dense), removed), part), outputs(trained, part), strict=True):
        np.testing.assert_allclose(y, z, rtol=0, atol=1e-5 * np.abs(z).max())


@pytest.mark.parametrize("name", MASKED)
def test_training_the_masked_network_is_training_the_pruned_one(name: str) -> None:
    model = network(name)
    channels, removed, part = analyse(model), half(model), labelled(model)
    found = [retrain(cut(model, channels, removed), part, recipe=SHORT)[0] for cut in (mask, prune)]
    for y, z in zip(*(outputs(m, part) for m in found), strict=True):
        np.testing.assert_allclose(y, z, rtol=0, atol=1e-3 * np.abs(z).max())  # rounding, grown over 15 steps


# ---- what is learnt ------------------------------------------------------------------------------------------------
def test_labels_are_learnt_and_the_epoch_that_is_right_most_often_is_kept() -> None:
    model = network("residual")
    part, held_out = labelled(model, 120), labelled(model, 64, seed=1)
    trained, history = retrain(model, part, held_out, Recipe(epochs=8, batch=16, rate=0.05))
    assert history.best.right == max(e.right for e in history.epochs if e.right is not None)
    assert evaluate(trained, held_out).share == history.best.right > history.epochs[0].right + 0.1
    assert evaluate(trained, part).share > 0.75


def test_epoch_0_is_the_network_as_it_was_given() -> None:
    """Its loss is −log p of the label, whether the file ends in logits, a Softmax or a LogSoftmax."""
    for last in ("Identity", "Softmax", "LogSoftmax"):
        net = Net(5, x=(6,))
        net.op(last, net.head(net.relu(net.dense("x", 8))), **({} if last == "Identity" else {"axis": 1}))
        model = net.model()
        part = labelled(model)
        (y,) = outputs(model, part)
        y = y.astype(np.float64)
        log_p = np.log(y) if last == "Softmax" else y - np.log(np.exp(y).sum(1, keepdims=True))
        first = retrain(model, part, part, SHORT)[1].epochs[0]
        assert first.right == evaluate(model, part).share
        assert first.validation_loss == pytest.approx(-log_p[np.arange(len(part)), part.labels].mean(), rel=1e-5)


def test_a_teacher_teaches_without_labels() -> None:
    dense = network("residual")
    part = unlabelled(labelled(dense, 96))
    pruned = prune(dense, analyse(dense), half(dense))
    trained, history = retrain(pruned, part, part, Recipe(epochs=6, batch=16, rate=0.02), teacher=dense)
    theirs = Samples("", part.inputs, outputs(dense, part)[0].argmax(1))
    assert history.best.right == evaluate(trained, theirs).share >= evaluate(pruned, theirs).share
    assert history.best.validation_loss < 0.5 * history.epochs[0].validation_loss


def test_a_network_without_classes_follows_its_teachers_answers_whatever_their_unit() -> None:
    losses = []
    for unit in (1.0, 1e4):
        net = Net(6, x=(3, 8, 8))
        net.op("Mul", net.conv(net.relu(net.conv(net.relu(net.conv("x", 12)), 12)), 2), np.float32([unit]))
        dense = net.model()
        part = unlabelled(labelled(dense, 48))
        pruned = prune(dense, analyse(dense), half(dense))
        trained, history = retrain(pruned, part, part, Recipe(epochs=5, batch=8, rate=0.05), teacher=dense)
        assert history.best.right is None
        assert deviation(dense, trained, part) < 0.75 * deviation(dense, pruned, part)
        losses.append([e.validation_loss for e in history.epochs])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_labels_and_a_teacher_together_weigh_as_the_recipe_says() -> None:
    model, part = network("mlp"), labelled(network("mlp"))
    teacher, _ = retrain(model, part, recipe=SHORT)
    alone = [
        retrain(model, p, recipe=Recipe(epochs=1, weight=w), teacher=t)[0]
        for p, w, t in ((part, 0.5, None), (part, 0.0, teacher), (unlabelled(part), 0.5, teacher), (part, 1.0, teacher))
    ]
    assert alone[0].to_bytes() == alone[1].to_bytes() != alone[2].to_bytes() == alone[3].to_bytes()


def test_without_validation_every_sample_trains_and_the_last_epoch_is_kept() -> None:
    model, part = network("mlp"), labelled(network("mlp"))
    trained, history = retrain(model, part, recipe=SHORT)
    assert history.best is history.epochs[-1] and history.best.number == SHORT.epochs
    assert history.best.right is history.best.validation_loss is None
    assert trained.to_bytes() != model.to_bytes()


def test_frozen_parameters_stay_bit_for_bit_and_all_others_move() -> None:
    model, part = network("residual"), labelled(network("residual"))
    norm = next(n for n in model.graph if n.op_type == "BatchNormalization")
    conv = next(n for n in model.graph if n.op_type == "Conv")
    trained, _ = retrain(model, part, recipe=Recipe(epochs=1, frozen=(norm.name, str(conv.inputs[1].name))))
    still = {str(v.name) for v in (*norm.inputs[1:], conv.inputs[1])}
    before, after = arrays(model), arrays(trained)
    unmoved = {n for n in before if np.array_equal(before[n], after[n])}
    in_front_of_norms = {n for n in unmoved if n.startswith("conv") and n.endswith(".bias")}  # these have no slope
    assert unmoved - in_front_of_norms == still


def test_training_stops_when_nothing_gets_better() -> None:
    model, part = network("mlp"), labelled(network("mlp"))
    noise = Samples("", part.inputs, np.random.default_rng(0).integers(0, 2, len(part)))
    _, history = retrain(model, part, noise, Recipe(epochs=50, rate=0.1, patience=2))
    assert history.stopped == "no better in 2 epochs" and len(history.epochs) < 50
    assert history.epochs[-1].number == history.best.number + 2


def test_training_that_diverges_stops_keeps_the_best_and_says_so() -> None:
    model, part = network("mlp"), labelled(network("mlp"))
    for validation in (part, None):
        trained, history = retrain(model, part, validation, Recipe(epochs=5, rate=1e18))
        assert "diverged in epoch 1" in history.stopped and history.best.number == 0 and len(history.epochs) == 2
        assert trained.to_bytes() == model.to_bytes()


def test_a_fixed_batch_is_refused() -> None:
    net = Net(7, batch=4, x=(4,))
    y = net.op("Reshape", net.relu(net.dense("x", 6)), np.array([2, 12]))
    net.head(
        net.op("Reshape", net.op("Mul", y, np.linspace(1, 2, 24, dtype=np.float32).reshape(2, 12)), np.array([4, 6]))
    )
    model = net.model()
    assert model.batch == 4
    with pytest.raises(Unsupported, match=r"the batch is fixed at 4, .*\. Export it with a free batch"):
        retrain(model, labelled(model), recipe=SHORT)


# ---- chance, and what is kept on disk ------------------------------------------------------------------------------
def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    model, part = network("alexnet"), labelled(network("alexnet"))  # with a Dropout
    first, again, other = (
        retrain(model, part, recipe=Recipe(epochs=2, seed=s), augment=["flip"])[0].to_bytes() for s in (3, 3, 4)
    )
    assert first == again != other


def test_chance_and_threads_outside_stay_as_they_were() -> None:
    torch.manual_seed(5)
    before = torch.rand(1), torch.get_num_threads()
    torch.manual_seed(5)
    retrain(network("mlp"), labelled(network("mlp")), recipe=Recipe(epochs=1, threads=2))
    assert torch.rand(1) == before[0] and torch.get_num_threads() == before[1]


CHILD = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from retrain import test_training as subject
from toolchain.retrain import checkpoint, training
checkpoint.PAUSE = 0.0
plain, written = checkpoint.Keeper.write, []
def write(self, *arguments, **more):
    plain(self, *arguments, **more)
    written.append(1)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
training.Keeper.write = write
subject.long_run(Path({path!r}))
"""


def long_run(path: Path | None) -> tuple[Model, object]:
    model = network("alexnet")
    part, recipe = labelled(model), Recipe(epochs=6, batch=16, rate=0.03)
    return retrain(model, part, labelled(model, 16, 1), recipe, teacher=model, checkpoint=path, augment=["shift:1"])


def test_a_killed_run_goes_on_and_equals_one_that_was_not_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    code = CHILD.format(paths=[str(ROOT), str(ROOT / "tests")], path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(torch.load(path)["epochs"]) == 4, "the third epoch was written"
    resumed, whole = long_run(path), long_run(None)
    assert resumed[0].to_bytes() == whole[0].to_bytes() and resumed[1] == whole[1]
    assert torch.load(path)["network"] is None, "of a finished run the best epoch is left"
    again = long_run(path)
    assert again[0].to_bytes() == whole[0].to_bytes() and again[1] == whole[1]
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_checkpoint_is_written_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(on_disk, "write_atomic", lambda path, write: written.append(path))
    for pause, count in ((1e9, 1), (0.0, 3)):
        monkeypatch.setattr(on_disk, "PAUSE", pause)
        written.clear()
        retrain(network("mlp"), labelled(network("mlp")), recipe=SHORT, checkpoint=tmp_path / "c.pt")
        assert len(written) == count


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "full"])
def test_what_ends_the_writing_of_a_checkpoint_is_told_as_what_it_is(
    end: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own writer would make an internal error of both."""

    class Ended(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 2000:
                raise end
            return super().write(data)

    monkeypatch.setattr(on_disk, "write_atomic", lambda path, write: write(Ended()))
    with pytest.raises(type(end)) as caught:
        retrain(network("mlp"), labelled(network("mlp")), recipe=SHORT, checkpoint=tmp_path / "c.pt")
    assert caught.value is end


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    model, part, path = network("mlp"), labelled(network("mlp")), tmp_path / "c.pt"
    retrain(model, part, recipe=SHORT, checkpoint=path)
    other = retrain(model, part, recipe=SHORT)[0]
    runs = {
        "rate": lambda: retrain(model, part, recipe=Recipe(epochs=3, batch=8, rate=0.1), checkpoint=path),
        "data": lambda: retrain(model, labelled(model, seed=1), recipe=SHORT, checkpoint=path),
        "model": lambda: retrain(other, part, recipe=SHORT, checkpoint=path),
        "teacher": lambda: retrain(model, part, recipe=SHORT, checkpoint=path, teacher=model),
        "validation": lambda: retrain(model, part, part, recipe=SHORT, checkpoint=path),
        "augmentation": lambda: retrain(model, part, recipe=SHORT, checkpoint=path, augment=[lambda x, g: x]),
    }
    for name, run in runs.items():
        with pytest.raises(UsageError, match=f"its {name} differs"):
            run()
    for junk in (b"", b"junk", path.read_bytes()[:-2000]):
        path.write_bytes(junk)
        with pytest.raises(BadInput, match="is no checkpoint"):
            retrain(model, part, recipe=SHORT, checkpoint=path)


# ---- mistakes ------------------------------------------------------------------------------------------------------
def mistakes() -> Iterator[tuple[str, int, dict]]:
    model, other = network("mlp"), network("alexnet")
    part = labelled(model)
    ones = Samples("ones", part.inputs, np.ones(len(part), np.int64))
    real = Net(8, x=(6,))
    real.op("Sigmoid", real.head(real.relu(real.dense("x", 6))))
    three = Net(9, x=(6,))
    three.head(three.relu(three.dense("x", 6)), 3)
    norms = network("residual")
    yield r"no labels to train for\. .*--teacher", 2, {"model": model, "samples": unlabelled(part)}
    yield r"no labels to train for\. .*--teacher", 2, {"model": model, "samples": part, "validation": unlabelled(part)}
    yield r"every label is class 1: .*--teacher", 3, {"model": model, "samples": ones}
    yield r"no class scores .*--teacher", 2, {"model": real.model(), "samples": part}
    yield r"the teacher reads .*, the model .*cut from", 2, {"model": model, "samples": part, "teacher": other}
    yield r"the teacher answers .*, the model", 2, {"model": model, "samples": part, "teacher": three.model()}
    yield r"no optimiser 'adam'\. Did you mean 'adamw'", 2, {"optimiser": "adam"}
    yield r"epochs cannot be 0", 2, {"epochs": 0}
    yield r"rates cannot be \(0\.1, 0\.1\)", 2, {"rates": (0.1, 0.1)}
    yield r"weight cannot be 1\.5", 2, {"weight": 1.5}
    yield r"no parameter or node is called 'nothing\*'", 2, {"model": model, "samples": part, "frozen": ("nothing*",)}
    yield r"every parameter is frozen", 2, {"model": model, "samples": part, "frozen": ("*",)}
    yield r"cannot learn from one sample", 2, {"model": norms, "samples": labelled(norms), "batch": 1}
    yield r"images are augmented", 2, {"model": model, "samples": part, "augment": ["flip"]}
    yield (
        r"no augmentation 'flop'\. Did you mean 'flip'",
        2,
        {"model": other, "samples": labelled(other), "augment": ["flop"]},
    )
    for text in ("shift", "shift:x", "shift:-1", "flip:2", "rotate:inf"):
        more = {"model": other, "samples": labelled(other), "augment": [text]}
        yield rf"cannot read the augmentation '{text}'\. Write", 2, more


@pytest.mark.parametrize("case", range(len(list(mistakes()))))
def test_mistakes_are_one_line_with_a_way_out(case: int) -> None:
    told, code, more = list(mistakes())[case]
    recipe = {k: more.pop(k) for k in ("optimiser", "epochs", "weight", "rates", "frozen", "batch") if k in more}
    with pytest.raises(JettisonError) as caught:
        retrain(recipe=Recipe(**({"epochs": 1} | recipe)), **more)
    assert re.search(told, str(caught.value)) and caught.value.exit_code == code, str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.way_out
