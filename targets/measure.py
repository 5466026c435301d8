"""Latency and memory of a model on this computer, always in a child process: a runtime may crash, hang or babble.

The child is `agent.py`, the very file that boards run, and what it prints becomes a `Measurement` (grade "measured").
To compare models, `measure_side_by_side` goes A B, B A, A B …, a fresh child each time: warming up, clock changes and
neighbours on the machine then hit all models alike, and what cannot be levelled shows as a larger `noise`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from targets import agent
from targets.memory import bound, memory_bytes

AGENT = Path(agent.__file__)


class RunnerError(Exception):
    """A runtime or its child process gave no result; the message is one line that says what happened."""

    def __init__(self, message: str) -> None:
        # file names and what a runtime says are not to be trusted with a terminal
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


@dataclass(frozen=True)
class Runtime:
    """A runtime of this computer: how to speak of it, what it reads, and what to do where it is missing."""

    spoken: str
    suffix: str
    way_out: str


RUNTIMES = {
    "ort": Runtime("onnxruntime", ".onnx", "Install it with: pip install onnxruntime"),
    "litert": Runtime("the LiteRT runtime", ".tflite", "Install it with: pip install ai-edge-litert"),
    "tflite": Runtime("the TFLite runtime", ".tflite", "Use --runtime litert, or install it in its own environment"),
}

# What usually lies behind a signal, where that is not plain from its number.
SIGNAL_HINTS: dict[int, str] = {
    signal.SIGILL: ", an instruction this processor lacks",
    signal.SIGKILL: ", killed from outside: out of memory?",
}

# Variables that decide how many threads a numeric library starts, whatever the agent asks of it.
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
THREAD_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "NUMEXPR_")

FIXED = {
    "PYTHONUTF8": "1",  # LiteRT 2.1 takes no path that the locale cannot spell
    "PYTHONSAFEPATH": "1",  # the agent's folder must not shadow modules that a runtime imports
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime ≥ 1.29 reports names and hashes of models, and leaves $TMPDIR/.ses
}


@dataclass(frozen=True)
class LatencyNs:
    """The distribution of warm inferences in nanoseconds; percentiles are linear between neighbours."""

    min: int
    mean: int
    std: int
    p50: int
    p90: int
    p95: int
    p99: int
    max: int


@dataclass(frozen=True)
class ResidentBytes:
    """Resident memory with the runtime but no model, with the model, and at most; `peak_is` says since when."""

    baseline: int | None
    after_init: int | None
    peak: int | None
    peak_is: str | None


@dataclass(frozen=True)
class Host:
    """The computer that measured; None is what it would not tell."""

    python: str
    machine: str
    kernel: str
    cpu_model: str | None
    cores: int | None
    pinned_core: int | None
    governor: str | None
    temperature_c: float | None
    load_1min: float | None


@dataclass(frozen=True)
class OpTime:
    """What a node of the graph, as the runtime has optimised it, takes of one inference."""

    name: str
    op: str
    ns: int


@dataclass(frozen=True)
class Measurement:
    """A model's latency and memory on one target.

    grade                     "measured", "counted" or "estimated"; grades are never mixed
    runs, warmup              timed inferences, and untimed ones before them (per round)
    peak_rss_bytes            of the whole process, Python and runtime included
    peak_over_baseline_bytes  of that, what came with the model: weights, packed weights, activations, inputs, and what
                              a runtime touches of itself on first use (onnxruntime: 10 MB, LiteRT: 3 MB)
    noise                     how far apart two p50 must be to mean anything, relative to p50 (`agent.noise`, `pooled`);
                              with a single run it is 0 and says nothing
    init_ns, first_ns         loading the model; its first inference (medians over rounds)
    output_hash               SHA-256 of the first answer; None where rounds disagree
    throttled                 whether heat or a CPU quota slowed the processor meanwhile; None unknown
    round_p50_ns              the median of each round; one round unless side by side
    output_difference         from this computer's answer, relative to its largest value; None: not compared
    energy_uj                 microjoules of an inference by each sensor, idle power included; None: nothing to read
    ops                       the time of each op if asked for, in the order in which they run
    """

    model: str
    runtime: str
    target: str
    grade: str
    threads: int
    runs: int
    warmup: int
    ns: LatencyNs
    peak_rss_bytes: int | None
    noise: float
    runtime_version: str | None
    model_sha256: str
    init_ns: int
    first_ns: int
    rss_bytes: ResidentBytes
    peak_over_baseline_bytes: int | None
    input_shapes: dict[str, tuple[int, ...]]
    output_hash: str | None
    throttled: bool | None
    host: Host
    round_p50_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    output_difference: float | None = None
    energy_uj: dict[str, int] | None = None
    ops: tuple[OpTime, ...] = ()

    @property
    def millions(self) -> str:
        """What 10⁶ of its nanoseconds are called: a counted one is an instruction."""
        return {"measured": "ms", "counted": "M instr"}[self.grade]

    @property
    def thousands(self) -> str:
        """What 10³ of them are called."""
        return {"measured": "µs", "counted": "k instr"}[self.grade]


def runtime_for(model: Path) -> str:
    """The first runtime of the table that reads files with the suffix of `model`; RunnerError if none does."""
    for name, facts in RUNTIMES.items():
        if facts.suffix == model.suffix.lower():
            return name
    known = " or ".join(sorted({facts.suffix for facts in RUNTIMES.values()}))
    raise RunnerError(f"{model.name}: no runtime reads '{model.suffix}' files, only {known}")


def measure(
    model: Path,
    runtime: str,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int = 1,
    inputs: Path | None = None,
    ops: int = 0,
    timeout_s: float = 120.0,
    python: str = sys.executable,
) -> Measurement:
    """What `model` takes in `runtime` on this computer, in one child process; with one thread it stays on one core.

    inputs     .npz with an array per input; None: seeded noise, a free batch being 1
    ops        further inferences, of each round, that tell the time of each op; 0: it is not told
    timeout_s  for the child altogether, loading and warming up included
    python     the interpreter to run it in: a runtime may need an environment of its own
    Raises RunnerError.
    """
    if not model.is_file():
        raise RunnerError(f"{model}: no such file")
    given = inputs and inputs.absolute()
    words = agent_words(model.absolute(), runtime, runs=runs, warmup=warmup, threads=threads, inputs=given, ops=ops)
    words += ["--pin"] if threads == 1 else []
    reply = answer(*child([python, str(AGENT), *words], threads, runtime, timeout_s), runtime, model.name)
    with model.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return measurement(reply, model=str(model), model_sha256=sha256, target="local", grade="measured")


def measure_side_by_side(
    models: Sequence[tuple[Path, str]],
    *,
    rounds: int = 5,
    runs: int = 100,
    warmup: int = 10,
    threads: int = 1,
    inputs: Path | None = None,
    ops: int = 0,
    timeout_s: float = 120.0,
    python: str = sys.executable,
) -> list[Measurement]:
    """A measurement of each (model, runtime), taken in turns and pooled: see `pooled` for the noise.

    runs  samples of each model altogether, shared out over the rounds (rounded up). Every other round runs backwards,
          so that a steady drift cancels. Everything else as in `measure`, per child.
    """

    def take(index: int, share: int) -> Measurement:
        model, runtime = models[index]
        return measure(
            model,
            runtime,
            runs=share,
            warmup=warmup,
            threads=threads,
            inputs=inputs,
            ops=ops,
            timeout_s=timeout_s,
            python=python,
        )

    return turn_by_turn(len(models), rounds, runs, take)


def turn_by_turn(models: int, rounds: int, runs: int, take: Callable[[int, int], Measurement]) -> list[Measurement]:
    """The pooled rounds of each of so many models; `take` measures the model of an index with its share of the runs."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, at least 1 is needed")
    share = -(-runs // rounds)
    taken: list[list[Measurement]] = [[] for _ in range(models)]
    for number in range(rounds):
        for index in range(models) if number % 2 == 0 else reversed(range(models)):
            taken[index].append(take(index, share))
    return [pooled(rounds_of_one) for rounds_of_one in taken]


def pooled(taken: Sequence[Measurement]) -> Measurement:
    """One measurement from the rounds of one model: all samples, the medians of the cold times, the highest peak.

    noise = √(w² + b²); w is the median over rounds of a round's noise (`agent.noise`); b is half the range of the
    rounds' p50, relative to their median: what repeating the whole run would move the figure by.
    """
    middle = [m.ns.p50 for m in taken]
    between = (max(middle) - min(middle)) / 2 / max(median(middle), 1)
    samples = tuple(sample for m in taken for sample in m.samples_ns)
    hashes = {m.output_hash for m in taken}
    slowed = {m.throttled for m in taken}
    fattest = max(taken, key=lambda m: m.peak_rss_bytes or 0)
    over = [m.peak_over_baseline_bytes for m in taken if m.peak_over_baseline_bytes is not None]
    return dataclasses.replace(
        taken[-1],
        runs=len(samples),
        ns=LatencyNs(**agent.spread(list(samples))),
        peak_rss_bytes=fattest.peak_rss_bytes,
        rss_bytes=fattest.rss_bytes,
        peak_over_baseline_bytes=max(over, default=None),
        noise=math.hypot(median(m.noise for m in taken), between),
        init_ns=round(median(m.init_ns for m in taken)),
        first_ns=round(median(m.first_ns for m in taken)),
        output_hash=hashes.pop() if len(hashes) == 1 else None,
        throttled=True if True in slowed else None if None in slowed else False,
        round_p50_ns=tuple(middle),
        samples_ns=samples,
        energy_uj=middle_energy([m.energy_uj for m in taken if m.energy_uj is not None]),
        ops=middle_ops([m.ops for m in taken]),
    )


def middle_energy(told: Sequence[dict[str, int]]) -> dict[str, int] | None:
    """The median of each sensor over rounds."""
    return {name: round(median(t[name] for t in told if name in t)) for name in told[0]} if told else None


def middle_ops(told: Sequence[Sequence[OpTime]]) -> tuple[OpTime, ...]:
    """The median of each op over rounds; a runtime optimises a graph alike every time."""
    times: dict[tuple[str, str], list[int]] = {}
    for op in (op for ops in told for op in ops):
        times.setdefault((op.name, op.op), []).append(op.ns)
    return tuple(OpTime(name, op, round(median(ns))) for (name, op), ns in times.items())


def ratio(before: Measurement, after: Measurement) -> tuple[float, float, float]:
    """(median, lowest, highest) over rounds of p50 after / before: below 1 is faster; drift between rounds cancels.

    Both must come from one `measure_side_by_side`.
    """
    shares = [b / max(a, 1) for a, b in zip(before.round_p50_ns, after.round_p50_ns, strict=True)]
    return median(shares), min(shares), max(shares)


def as_row(measured: Measurement, *, samples: bool = False) -> dict[str, Any]:
    """The measurement as plain values for JSON, the report's bench row first; the sample array only with `samples`."""
    row = msgspec.json.decode(msgspec.json.encode(measured))  # there and back leaves only what JSON has
    if not samples:
        del row["samples_ns"]
    return row


# ---- the child, for this computer's runner and for those of boards --------------------------------------------------


def agent_words(
    model: Path | str,
    runtime: str,
    *,
    runs: int,
    warmup: int,
    threads: int,
    inputs: Path | str | None = None,
    ops: int = 0,
) -> list[str]:
    """The agent's command line after `python agent.py`, with paths as the machine that runs it sees them."""
    words = ["--model", str(model), "--runtime", runtime, "--runs", str(runs), "--warmup", str(warmup)]
    words += ["--threads", str(threads), *(["--ops", str(ops)] if ops else [])]
    return [*words, "--inputs", str(inputs)] if inputs is not None else words


def environment(threads: int, given: Mapping[str, str]) -> dict[str, str]:
    """`given` for a child that measures with `threads` threads: what else sets thread counts or affinity is gone."""
    kept = {name: value for name, value in given.items() if not name.startswith(THREAD_PREFIXES)}
    return kept | dict.fromkeys(THREAD_COUNTS, str(threads)) | FIXED


def child(command: list[str], threads: int, runtime: str, timeout_s: float) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `command`, which is ended with all it started if it does not end in time.

    Raises RunnerError.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(threads, os.environ),
            start_new_session=True,  # so that whatever a runtime starts can be ended with it
        )
    except OSError as error:
        raise RunnerError(f"cannot start {command[0]}: {error.strerror}") from error
    with process:
        bound(process.pid, memory_bytes())
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException as error:  # Ctrl-C too: it does not reach another session
            with suppress(ProcessLookupError):  # it may have ended of itself meanwhile
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RunnerError(f"{RUNTIMES[runtime].spoken} did not finish within {timeout_s:g} s") from error
            raise
    return process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")


def answer(status: int, stdout: str, stderr: str, runtime: str, model: str) -> dict[str, Any]:
    """The agent's record out of what its process left behind; RunnerError, naming runtime and `model`, if none."""
    facts = RUNTIMES[runtime]
    where = stage(stderr, model)
    if status < 0:
        raise RunnerError(f"{facts.spoken} crashed (signal {-status}{SIGNAL_HINTS.get(-status, '')}) {where}")
    try:
        record = msgspec.json.decode(stdout)
    except msgspec.DecodeError:
        record = None
    if isinstance(record, dict) and {"error", "detail"} <= record.keys():
        raise RunnerError(refusal(facts, str(record["error"]), str(record["detail"]), model))
    if status != 0:
        last = [line for line in stderr.splitlines() if line.strip() and not line.startswith("agent: ")][-1:]
        raise RunnerError(f"{facts.spoken} failed (exit {status}) {where}{': ' if last else ''}{''.join(last)[:300]}")
    if not isinstance(record, dict):
        raise RunnerError(f"{facts.spoken} gave no result {where}: {stdout[:60]!r}")
    return record


def stage(stderr: str, model: str) -> str:
    """How far the agent came, by its last mark on stderr, in words that follow a verb."""
    marks = [line.removeprefix("agent: ") for line in stderr.splitlines() if line.startswith("agent: ")]
    words = {"loading": f"loading {model}", "running": f"running {model}", "closing": f"after running {model}"}
    return words.get(marks[-1] if marks else "", "while starting")


def refusal(facts: Runtime, kind: str, detail: str, model: str) -> str:
    """An agent's error for a person; the kinds are in the agent's docstring."""
    lines = {
        "missing": f"{detail} is not installed. {facts.way_out}",
        "broken": f"{facts.spoken} is installed but cannot be imported: {detail}. {facts.way_out}",
        "inputs": f"{model}: {detail}",
        "load": f"{facts.spoken} cannot load {model}: {detail}",
        "run": f"{facts.spoken} cannot run {model}: {detail}",
        "ops": f"{facts.spoken} cannot tell the time of each op of {model}: {detail}. Ask for those of an .onnx file",
        "outputs": f"the outputs of {model} cannot be saved: {detail}",
    }
    return lines.get(kind, f"{facts.spoken}: {kind}: {detail}")


def measurement(record: Mapping[str, Any], *, model: str, model_sha256: str, target: str, grade: str) -> Measurement:
    """The agent's record as a value, every field checked for its type; RunnerError if it is not such a record."""
    known = {"model": model, "model_sha256": model_sha256, "target": target, "grade": grade}
    try:
        bare = msgspec.convert({**record, **known, "round_p50_ns": ()}, Measurement)
    except msgspec.ValidationError as error:
        raise RunnerError(f"{model}: what the agent printed is not a measurement: {error}") from error
    return dataclasses.replace(bare, round_p50_ns=(bare.ns.p50,))
