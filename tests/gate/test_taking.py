"""Laws of what is taken by running: a figure within its limit decides, none is an error, noise decides nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gate.files import net, ran
from hypothesis import given
from hypothesis import strategies as st

import targets.runners
import targets.virtual
from targets.measure import RunnerError
from toolchain.emit import to_tflite
from toolchain.errors import BadInput, RunnerFailed, UsageError
from toolchain.gate.formats import rendered
from toolchain.gate.verdicts import message
from toolchain.model import load
from toolchain.session import run, session

HEAD = '[[budget]]\nmodel = "net.onnx"\n'
LATENCY = HEAD + 'latency = { max = "10 ms", tolerance = "20%", repeats = 4 }\n'


@dataclass
class Clock:
    """Measurements whose medians are these milliseconds, one after the other.

    noise  how far a median is above the fastest inference, relative to that
    """

    milliseconds: list[float]
    noise: float = 0.02
    is_throttled: bool = False
    taken: int = 0

    def __call__(self, target: str, pairs: Any, asked: Any) -> list[Any]:
        ns = round(1e6 * self.milliseconds[self.taken])
        self.taken += 1
        told = {"grade": "measured", "noise": self.noise, "runs": 100, "runtime": "ort", "runtime_version": "1"}
        told |= {"throttled": self.is_throttled}
        return [SimpleNamespace(ns=SimpleNamespace(min=round(ns / (1 + self.noise)), p50=ns, p90=3 * ns), **told)]


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    net(tmp_path / "net.onnx")
    found = Clock([])
    monkeypatch.setattr(targets.runners, "measure_on", found)
    return found


@pytest.mark.parametrize(
    ("milliseconds", "status", "taken"),
    [
        ([9, 99], "passed", 1),
        ([12, 99], "passed", 1),  # tolerance
        ([99, 50, 11, 99], "passed", 3),  # a busy machine
        ([99, 50, 13, 12.9, 1], "failed", 4),
        ([99, 50, 12.1, 12.2, 1], "undecided", 4),  # some inferences were within it
        ([99, 50, 12.9, 15, 1], "undecided", 4),  # the two best are further apart than the best is from its limit
    ],
)
def test_latency_is_measured_until_one_measurement_is_within_its_limit(
    milliseconds: list[float], status: str, taken: int, clock: Clock, tmp_path: Path
) -> None:
    clock.milliseconds = milliseconds
    (verdict,) = ran(tmp_path, LATENCY).verdicts
    assert (verdict.status, clock.taken) == (status, taken)
    assert verdict.figure is not None and verdict.figure.value == 1e6 * min(milliseconds[:taken])
    assert verdict.figure.grade == "measured" and "noise 2 %" in verdict.figure.note


@given(
    limit=st.floats(1, 100),
    undisturbed=st.floats(1, 100),
    noise=st.floats(0, 0.9),
    days=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=2),
)
def test_no_network_passes_on_one_day_and_fails_on_another(
    limit: float, undisturbed: float, noise: float, days: list[list[float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As long as the fastest of a measurement's inferences is not disturbed."""
    folder = tmp_path_factory.mktemp("day")
    net(folder / "net.onnx")
    text = HEAD + f'latency = {{ max = "{limit} ms", tolerance = "0%", repeats = 4 }}\n'
    statuses = set()
    for day in days:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(targets.runners, "measure_on", Clock([undisturbed * (1 + noise * x) for x in day], noise))
            (verdict,) = ran(folder, text).verdicts
        statuses.add(verdict.status)
        assert verdict.status != "failed" or undisturbed > limit
        assert verdict.status != "passed" or undisturbed <= limit * (1 + 1e-6)  # nanoseconds are whole
    assert statuses != {"passed", "failed"}


def test_one_inference_of_any_repeat_within_the_limit_is_enough_to_leave_it_undecided(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the repeat with the best median is not the one with the fastest inference."""
    clock.milliseconds = [13, 13.01, 13.02, 13.03]
    noises = iter([0.01, 0.01, 0.3, 0.01])

    def measured(*words: Any) -> list[Any]:
        clock.noise = next(noises)
        return clock(*words)

    monkeypatch.setattr(targets.runners, "measure_on", measured)
    (verdict,) = ran(tmp_path, LATENCY).verdicts
    assert verdict.status == "undecided"


def test_a_single_measurement_is_undecided_within_its_own_noise(clock: Clock, tmp_path: Path) -> None:
    clock.milliseconds, clock.noise, clock.is_throttled = [14], 0.2, True
    checked = ran(tmp_path, LATENCY.replace("repeats = 4", "repeats = 1"))
    (verdict,) = checked.verdicts
    assert verdict.status == "undecided" and not checked.failed
    assert "2 ms (17 %) above, which noise alone may be: again, it may come down to 11.67 ms" in message(verdict)
    assert "slowed by heat or a quota" in message(verdict) and "more repeats or tolerance" in message(verdict)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("table", "undecided"),
        ("json", '"status": "undecided"'),
        ("junit", "<skipped message="),
        ("sarif", '"kind": "open"'),
        ("md", "1 undecided"),
        ("github", "::warning "),
    ],
)
def test_what_is_undecided_is_told_in_every_format(form: str, told: str, clock: Clock, tmp_path: Path) -> None:
    clock.milliseconds = [12.1] * 4
    text = rendered(ran(tmp_path, LATENCY), form)
    assert told in text and "alone may be" in text


def test_latency_here_is_the_measure_that_bencher_has_itself(clock: Clock, tmp_path: Path) -> None:
    clock.milliseconds, clock.noise = [9], 3.0
    ((measures,),) = [json.loads(rendered(ran(tmp_path, LATENCY), "bencher")).values()]
    assert measures == {"latency": {"value": 9e6, "lower_value": 0, "upper_value": 4 * 9e6}}


def test_latency_may_be_of_a_tail(clock: Clock, tmp_path: Path) -> None:
    clock.milliseconds = [9]
    (verdict,) = ran(tmp_path, LATENCY.replace("repeats = 4", 'repeats = 1, stat = "p90"')).verdicts
    assert verdict.status == "failed" and "Taken as p90 of 100 runs" in message(verdict)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('latency = { max = "1 s", target = "qemu-a53" }', "latency is not told by 'qemu-a53'. Its target is local"),
        ('latency = { max = "1 s", target = "stm32h7" }', "cannot|not one that can be measured"),
        ('latency = { max = "1 s", target = "nowhere" }', "nowhere"),
        ('latency = { max = "1 s", target = "ssh://-oProxyCommand=x" }', "is not a host name"),
        ('instructions = { max = 1, target = "local" }', "instructions is not told by 'local'. Its target is an emul"),
    ],
)
def test_a_target_that_does_not_tell_a_quantity_is_exit_2(line: str, told: str, tmp_path: Path) -> None:
    net(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=told) as caught:
        ran(tmp_path, HEAD + line)
    assert caught.value.exit_code == 2


def test_a_board_that_is_absent_is_exit_6_and_never_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net(tmp_path / "net.onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RunnerFailed) as caught:
        ran(tmp_path, HEAD + 'flash = "1 MB"\ninstructions = "1 G"\n')
    assert caught.value.exit_code == 6
    checked = ran(tmp_path, HEAD + 'flash = "1 MB"\ninstructions = "1 G"\n', skip=("instructions",))
    assert [v.status for v in checked.verdicts] == ["passed", "skipped"]


def test_a_runner_that_fails_is_exit_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RunnerError("onnxruntime crashed (signal 11) loading net.onnx")

    net(tmp_path / "net.onnx")
    monkeypatch.setattr(targets.runners, "measure_on", failing)
    with pytest.raises(RunnerFailed, match="signal 11"):
        ran(tmp_path, LATENCY)


@pytest.mark.board
@pytest.mark.slow
def test_instructions_repeat_within_their_noise(tmp_path: Path) -> None:
    reason = targets.virtual.is_set_up("qemu-a53")
    if reason:
        pytest.skip(reason)
    net(tmp_path / "net.onnx")
    first, second = (ran(tmp_path, HEAD + 'instructions = "1 G"\n').verdicts[0].figure for _ in range(2))
    assert first is not None and second is not None and first.grade == "counted"
    assert abs(first.value - second.value) <= 0.01 * first.value


# ---- accuracy -------------------------------------------------------------------------------------------------------
@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, float]:
    """The network with samples of which it answers this share as they are labelled."""
    model = load(net(tmp_path / "net.onnx"))
    x = np.random.default_rng(1).standard_normal((40, 2, 4, 4)).astype(np.float32)
    (answers,) = run(session(model.ir), {"x": x})
    y = answers.argmax(axis=1)
    y[:7] = (y[:7] + 1) % 5
    np.savez(tmp_path / "v.npz", x=x, y=y)
    np.savez(tmp_path / "plain.npz", x=x)
    return tmp_path, 33 / 40


@pytest.mark.parametrize(("minimum", "status"), [(33 / 40, "passed"), (34 / 40, "failed")])
def test_accuracy_is_the_share_that_is_answered_as_labelled(
    minimum: float, status: str, labelled: tuple[Path, float]
) -> None:
    folder, share = labelled
    text = f'[data]\nvalidation = "v.npz"\n{HEAD}accuracy = {{ min = {minimum!r} }}\n'
    (verdict,) = ran(folder, text).verdicts
    assert verdict.status == status and verdict.figure is not None and verdict.figure.value == share


def test_a_tflite_file_is_as_right_as_the_network_it_came_from(labelled: tuple[Path, float]) -> None:
    folder, share = labelled
    to_tflite(load(folder / "net.onnx")).write(folder / "net.tflite")
    text = '[[budget]]\nmodel = "net.tflite"\naccuracy = { min = 0.5, data = "v.npz" }\n'
    with pytest.raises(UsageError, match="needs the network it came from"):
        ran(folder, text)
    (verdict,) = ran(folder, '[model]\npath = "net.onnx"\n' + text).verdicts
    assert verdict.figure is not None and verdict.figure.value == share


def test_accuracy_without_data_or_labels_is_no_pass(labelled: tuple[Path, float]) -> None:
    folder, _ = labelled
    with pytest.raises(UsageError, match=r"\[data\] has no validation"):
        ran(folder, HEAD + "accuracy = { min = 0.5 }\n")
    with pytest.raises(BadInput, match="has no labels"):
        ran(folder, HEAD + 'accuracy = { min = 0.5, data = "plain.npz" }\n')
    with pytest.raises(BadInput, match="no such file"):
        ran(folder, HEAD + 'accuracy = { min = 0.5, data = "missing.npz" }\n')
