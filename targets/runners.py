"""Where to measure: this computer, a board behind SSH or an emulated one, each through the runner that reaches it.

A target is "local", ssh://[user@]host[:port], or a board by its name (or its .toml), which says how it is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from targets.measure import Measurement, measure_side_by_side

Pairs = Sequence[tuple[Path, str]]


class TargetError(ValueError):
    """Nothing is measured on such a target; one line with a way out."""


@dataclass(frozen=True)
class Asked:
    """How to measure; None leaves it to the runner.

    runs, warmup  100 and 10, and 3 and 1 where instructions are counted, which hardly vary
    inputs        .npz with an array per input; None: seeded noise, a free batch being 1
    ops           further inferences, of each round, that tell the time of each op
    tolerance     how far answers elsewhere may be from this computer's, relative to their largest value
    """

    runs: int | None = None
    warmup: int | None = None
    threads: int = 1
    inputs: Path | None = None
    ops: int = 0
    timeout_s: float | None = None
    tolerance: float = 1e-5


def measure_on(target: str, pairs: Pairs, asked: Asked) -> list[Measurement]:
    """A measurement of each (model, runtime) on `target`.

    Raises TargetError, link.AddressError or board.BoardError for a target that is none, RunnerError for one that fails.
    """
    return RUNNERS[runner_of(target)](target, pairs, asked)


def runner_of(target: str) -> str:
    """The runner that reaches a target: local, ssh, virtual, or user (qemu-user: runs models, but cannot time them).

    Raises TargetError for a board that no runner reaches as it is named, BoardError if there is none of that name.
    """
    if target == "local":
        return "local"
    if target.startswith("ssh:"):
        return "ssh"
    from targets.virtual import EMULATED

    if target in EMULATED:
        return "virtual" if EMULATED[target].boots else "user"
    from targets.board import board

    way_out = {
        "ssh": "It is reached over SSH: give --target ssh://user@host",
        "none": f"Estimate: jettison targets estimate MODEL --target {target}",
    }
    found = board(target).runner
    if found in way_out:
        raise TargetError(f"'{target}' is a kind of board, not one that can be measured on. {way_out[found]}")
    return found


# ---- the runners ----------------------------------------------------------------------------------------------------


def on_this_computer(target: str, pairs: Pairs, asked: Asked) -> list[Measurement]:
    """In child processes here."""
    told = settings(asked, runs=100, warmup=10, timeout_s=120.0)
    del told["tolerance"]  # there is nothing to compare with
    return measure_side_by_side(pairs, **told)


def over_ssh(target: str, pairs: Pairs, asked: Asked) -> list[Measurement]:
    """By the agent on the board behind an address."""
    from targets.ssh import address_of, measure_over_ssh

    told = settings(asked, runs=100, warmup=10, timeout_s=120.0)
    return measure_over_ssh(pairs, address_of(target), target=target, **told)


def on_a_virtual_board(target: str, pairs: Pairs, asked: Asked) -> list[Measurement]:
    """By the agent on an emulated board: counted."""
    from targets.virtual import measure_virtual

    return measure_virtual(pairs, target, **settings(asked, runs=3, warmup=1, timeout_s=600.0))


def untimed(target: str, pairs: Pairs, asked: Asked) -> list[Measurement]:
    """Never: qemu-user has no clock that means anything."""
    raise TargetError(f"'{target}' runs models but has no clock of its own. Count on a virtual board: qemu-a53")


def settings(asked: Asked, **own: Any) -> dict[str, Any]:
    """How to measure as a runner's keywords: what was asked for, else the runner's own."""
    wanted = {field.name: getattr(asked, field.name) for field in fields(asked)}
    return wanted | {name: value for name, value in own.items() if wanted[name] is None}


# what the clock of a runner tells; "" where there is none that means anything
TELLS = {"local": "latency", "ssh": "latency", "virtual": "instructions", "user": ""}
RUNNERS: dict[str, Callable[[str, Pairs, Asked], list[Measurement]]] = {
    "local": on_this_computer,
    "ssh": over_ssh,
    "virtual": on_a_virtual_board,
    "user": untimed,
}
