"""Mutants of sound files, each given to a command: no crash, no hang, no traceback, no file left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks.hostile", reason="run pytest from the repository root")

from benchmarks.hostile.__main__ import WRONG, drawn, tried
from benchmarks.hostile.children import Outcome, Runner, ran
from benchmarks.hostile.mutants import KINDS, mutant
from benchmarks.hostile.seeds import write_seeds

CHUNK = 50
CHUNKS = range(10)
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture(scope="module")
def seeds(folder: Path) -> dict[str, Path]:
    return write_seeds(folder)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as found:
        yield found


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_mutant_is_read_or_refused_in_one_line(
    chunk: int, seeds: dict[str, Path], folder: Path, runner: Runner
) -> None:
    rows = [tried(0, n, seeds, folder, runner) for n in range(chunk * CHUNK, (chunk + 1) * CHUNK)]
    assert not [r for r in rows if r["kind"] in WRONG]
    assert max(r["peak_rss_bytes"] for r in rows) < MEMORY


def test_every_seed_is_read(seeds: dict[str, Path], folder: Path, runner: Runner) -> None:
    """Or mutants of it would all be refused for the same reason."""
    for name in (n for n in seeds if n.endswith((".onnx", ".tflite"))):
        found = runner.run(["inspect", name], folder)
        assert found.kind == "done", (name, found.stderr)


# ---- the harness itself --------------------------------------------------------------------------------------------
def test_a_mutant_is_a_function_of_its_number_and_not_of_those_before_it(seeds: dict[str, Path]) -> None:
    first = [drawn(0, n, seeds) for n in range(400)]
    assert [drawn(0, n, seeds) for n in reversed(range(400))] == first[::-1]


@pytest.mark.parametrize("ending", KINDS)
def test_most_mutants_differ_from_their_seed_and_from_each_other(ending: str, seeds: dict[str, Path]) -> None:
    name = next(n for n in seeds if n.endswith(ending))
    raw = seeds[name].read_bytes()
    made = Counter(mutant(name, raw, np.random.default_rng(n))[1] for n in range(60))
    assert made[raw] <= 20 and len(made) >= 30


@pytest.mark.parametrize(
    ("code", "signal", "stderr", "kind"),
    [
        (0, 0, "", "done"),
        (0, 0, "jettison: warning: few samples\n", "done"),
        (3, 0, "jettison: error: no such file\n", "refused"),
        (3, 0, "", "untold"),
        (3, 0, "jettison: error: a\njettison: error: b\n", "untold"),
        (0, 0, "a library talks\n", "untold"),
        (70, 0, "jettison: error: internal error\n", "traceback"),
        (1, 0, "Traceback (most recent call last)\n", "traceback"),
        (None, 11, "", "crash"),
        (None, 14, "", "hang"),
    ],
)
def test_an_outcome_is_told_by_code_signal_and_lines(code: int | None, signal: int, stderr: str, kind: str) -> None:
    assert Outcome(code, signal, "", stderr, 0.1, 1).kind == kind
    assert Outcome(3, 0, "", "jettison: error: no\n", 0.1, 1, ("half.onnx",)).kind == "left"


def test_a_child_that_takes_too_long_or_too_much_is_ended_and_the_next_one_runs(
    seeds: dict[str, Path], folder: Path, runner: Runner
) -> None:
    assert runner.run(["inspect", "conv.onnx"], folder, seconds=0.001).kind == "hang"
    assert ran(lambda words: bytearray(1 << 34), [], str(folder), 10, 1 << 33).kind == "traceback"
    assert runner.run(["inspect", "conv.onnx"], folder).kind == "done"
