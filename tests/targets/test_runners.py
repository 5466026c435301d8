"""Laws of choosing a runner: every target has one, or a line that says what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import targets.ssh
import targets.virtual
from targets import runners
from targets.board import BoardError, boards
from targets.link import AddressError
from targets.runners import RUNNERS, Asked, TargetError, measure_on, runner_of

PAIRS = [(Path("net.onnx"), "ort")]


@pytest.mark.parametrize("name", sorted(boards()))
def test_every_board_has_a_runner_or_a_way_out(name: str) -> None:
    try:
        assert runner_of(name) in RUNNERS
    except TargetError as error:
        assert "--target ssh://" in str(error) or "jettison targets estimate" in str(error)


@pytest.mark.parametrize(
    ("target", "name"),
    [("local", "local"), ("ssh://obc", "ssh"), ("host", "local"), ("qemu-a53", "virtual"), ("qemu-user-a15", "user")],
)
def test_a_target_is_reached_by_its_runner(target: str, name: str) -> None:
    assert runner_of(target) == name


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(BoardError, match="qemu-a53"):
        runner_of("qemu-a54")


@pytest.mark.parametrize("target", ["ssh://-oProxyCommand=touch x", "ssh://", "ssh:obc", "ssh://a b", "ssh://h:99999"])
def test_a_hostile_address_never_reaches_ssh(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.ssh, "measure_over_ssh", lambda *_, **__: pytest.fail("it was used"))
    with pytest.raises(AddressError):
        measure_on(target, PAIRS, Asked())


def test_a_processor_without_a_clock_gives_no_measurement() -> None:
    with pytest.raises(TargetError, match="no clock"):
        measure_on("qemu-user-a53", PAIRS, Asked())


@pytest.mark.parametrize(
    ("target", "where", "function", "runs", "warmup"),
    [
        ("local", runners, "measure_side_by_side", 100, 10),
        ("ssh://obc", targets.ssh, "measure_over_ssh", 100, 10),
        ("qemu-a53", targets.virtual, "measure_virtual", 3, 1),
    ],
)
def test_what_is_asked_reaches_the_runner_and_what_is_not_is_its_own(
    target: str, where: Any, function: str, runs: int, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []

    def stand_in(pairs: Sequence[tuple[Path, str]], *_: Any, **given: Any) -> list[Any]:
        said.append(given)
        return []

    monkeypatch.setattr(where, function, stand_in)
    measure_on(target, PAIRS, Asked())
    measure_on(target, PAIRS, Asked(runs=7, warmup=0, threads=2, inputs=Path("x.npz"), ops=4, timeout_s=9.0))
    assert (said[0]["runs"], said[0]["warmup"], said[0]["ops"], said[0]["inputs"]) == (runs, warmup, 0, None)
    asked = {"runs": 7, "warmup": 0, "threads": 2, "inputs": Path("x.npz"), "ops": 4, "timeout_s": 9.0}
    assert said[1].items() >= asked.items()
