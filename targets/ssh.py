"""Latency and memory of models on a board behind SSH: pushed, checked, run by the agent there, answers compared.

Everything lies in one temporary folder of the board that is gone afterwards (`targets.link`). Each model is run here
as well, on the same inputs: a latency counts only if the board's answers are those of this computer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from targets.address import Address, AddressError, address_of
from targets.answers import Reference, allowed, difference, load, reference
from targets.link import Link, last, linked, run
from targets.locks import scratch
from targets.measure import (
    AGENT,
    RUNTIMES,
    Measurement,
    RunnerError,
    agent_words,
    answer,
    environment,
    measurement,
    turn_by_turn,
)
from targets.push import parts, push, sha256
from targets.wheels import NEEDED, OLDEST_PYTHON, PROBE, There, fetched

__all__ = ["Address", "AddressError", "address_of", "measure_over_ssh"]


@dataclass(frozen=True)
class Asked:
    """How to run the models there; `inputs` is the .npz under its name there."""

    warmup: int
    threads: int
    inputs: str | None
    timeout_s: float
    tolerance: float
    ops: int


def measure_over_ssh(
    pairs: Sequence[tuple[Path, str]],
    address: Address,
    *,
    target: str,
    runs: int = 100,
    warmup: int = 10,
    threads: int = 1,
    inputs: Path | None = None,
    timeout_s: float = 120.0,
    rounds: int = 5,
    tolerance: float = 1e-5,
    ops: int = 0,
    grade: str = "measured",
) -> list[Measurement]:
    """A measurement of each (model, runtime) on the board at `address`, in turns as in `measure_side_by_side`.

    inputs     .npz with an array per input, pushed; None: the agent draws the same seeded noise here and there
    timeout_s  for each run of a model, and for connecting
    tolerance  how far the answers may be from this computer's, relative to their largest value
    ops        as in `targets.measure.measure`
    grade      "counted" where the clock there counts instructions
    Raises RunnerError; nothing is left on the board in any case.
    """
    sent = {f"models/{number}/{name}": path for number, (m, _) in enumerate(pairs) for name, path in parts(m).items()}
    if inputs is not None:
        if not inputs.is_file():
            raise RunnerError(f"{inputs}: no such file")
        sent["inputs.npz"] = inputs
    asked = Asked(warmup, threads, "inputs.npz" if inputs is not None else None, timeout_s, tolerance, ops)
    # An emulated board that counts instructions leaps ahead in time while it waits: no limit of its own is right there.
    limit_s = None if grade == "counted" else 3600 + 2 * rounds * len(pairs) * timeout_s
    with (
        scratch() as here,
        linked(address, wait_s=timeout_s, limit_s=limit_s) as link,
    ):
        there = probed(link, {runtime for _, runtime in pairs}, timeout_s)
        wheels = missing(link, there, {runtime for _, runtime in pairs}, here)
        files = {"agent/agent.py": AGENT, **sent, **wheels}
        push(link, files, free_bytes=there.free_bytes, timeout_s=timeout_s)
        known = [
            reference(m, r, threads=threads, inputs=inputs, outputs=here / str(number), timeout_s=timeout_s)
            for number, (m, r) in enumerate(pairs)
        ]

        @cache  # outputs may be large: they cross the line once for each answer, not for each round
        def away(index: int, output_hash: str | None) -> float:
            return compared(link, pairs[index][0].name, known[index], output_hash, asked)

        def take(index: int, share: int) -> Measurement:
            model, runtime = pairs[index]
            taken = measured(link, model, f"models/{index}/{model.name}", runtime, share, asked)
            return dataclasses.replace(
                taken, target=target, grade=grade, output_difference=away(index, taken.output_hash)
            )

        return turn_by_turn(len(pairs), rounds, runs, take)


def probed(link: Link, runtimes: set[str], timeout_s: float) -> There:
    """What the board has; RunnerError if it has no Python, or one too old."""
    address = link.address
    modules = sorted({module for runtime in runtimes for module in NEEDED[runtime]})
    said = run(link, [address.python, "-c", PROBE, *modules], doing=address.python, timeout_s=timeout_s)
    oldest = "{}.{}".format(*OLDEST_PYTHON)
    way_out = f"Install Python {oldest} or newer there, or name one: ssh://{address.host}/path/to/python3"
    if said.status in (126, 127):
        raise RunnerError(f"{address.host}: no {address.python} there. {way_out}")
    try:
        there = msgspec.json.decode(said.stdout.rstrip().rpartition(b"\n")[2], type=There)
    except msgspec.DecodeError as error:
        told = f"{address.python} there does not work (exit {said.status}){last(said.stderr)}"
        raise RunnerError(f"{address.host}: {told}. {way_out}") from error
    if there.python < OLDEST_PYTHON:
        raise RunnerError(f"{address.host}: {address.python} there is {there.python[0]}.{there.python[1]}. {way_out}")
    return there


def missing(link: Link, there: There, runtimes: set[str], folder: Path) -> dict[str, Path]:
    """The wheels that the board lacks, by their names there. Raises RunnerError."""
    needed = {module: package for runtime in sorted(runtimes) for module, package in NEEDED[runtime].items()}
    packages = [package for module, package in needed.items() if module not in there.found]
    try:
        found = fetched(there, packages, folder) if packages else []
    except RunnerError as error:
        raise RunnerError(f"{link.address.host}: {error}") from error
    return {f"wheels/{path.name}": path for path in found}


def measured(link: Link, model: Path, name: str, runtime: str, runs: int, asked: Asked) -> Measurement:
    """One run of the agent there, on the model that it knows as `name`. Raises RunnerError."""
    words = agent_words(
        name, runtime, runs=runs, warmup=asked.warmup, threads=asked.threads, inputs=asked.inputs, ops=asked.ops
    )
    words += ["--outputs", "outputs", *(["--pin"] if asked.threads == 1 else [])]
    variables = environment(asked.threads, {"PYTHONPATH": f"{link.folder}/packages", "TMPDIR": link.folder})
    command = ["env", *(f"{key}={value}" for key, value in variables.items()), link.address.python, "agent/agent.py"]
    said = run(link, [*command, *words], doing=RUNTIMES[runtime].spoken, timeout_s=asked.timeout_s)
    stdout = said.stdout.decode(errors="replace").rstrip().rpartition("\n")[2]  # a login shell may have spoken before
    try:
        reply = answer(said.status, stdout, said.stderr, runtime, model.name)
        return measurement(reply, model=str(model), model_sha256=sha256(model), target="", grade="measured")
    except RunnerError as error:
        raise RunnerError(f"{link.address.host}: {error}") from error


def compared(link: Link, model: str, known: Reference, output_hash: str | None, asked: Asked) -> float:
    """How far the last answer there is from this computer's, relative; RunnerError if that is too far."""
    if output_hash == known.output_hash:
        return 0.0
    host = link.address.host
    said = run(link, ["cat", "outputs"], doing="the transfer of its outputs", timeout_s=asked.timeout_s)
    with scratch() as folder:
        fetched = folder / "outputs"
        fetched.write_bytes(said.stdout)
        try:
            there = load(fetched)
        except ValueError as error:
            raise RunnerError(
                f"{host}: the outputs of {model} arrived damaged{last(said.stderr)}. Try again"
            ) from error
    here = load(known.outputs)
    if len(here) != len(there):
        raise RunnerError(f"{host}: {model} has {len(there)} outputs there, {len(here)} here")
    gaps = [(difference(a, b), allowed(a, asked.tolerance)) for a, b in zip(here, there, strict=True)]
    for number, (gap, limit) in enumerate(gaps):
        if not gap <= limit:
            told = f"output {number} of {model} differs from this computer's by {gap:.3g} relative (limit {limit:.3g})"
            way_out = f"; if rounding explains it, as in quantised layers: --off-by {2 * gap:.1g}" if gap < 0.1 else ""
            raise RunnerError(f"{host}: {told}. Its latency would be that of another function{way_out}")
    return max((gap for gap, _ in gaps), default=0.0)
