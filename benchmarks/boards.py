"""One network whole, halved and at a tenth of its units, on every kind of target, in one table that mixes no grades.

    python -m benchmarks.boards --msl5 FILE [--targets local qemu-a53 …] [--estimated rad750 …] [--runs N] [--format …]

local and ssh:// are measured, emulated boards counted, the others estimated: the grade has a column of its own, and "of
whole" compares only within a target. Ranked by magnitude, aligned widths; inputs are the agent's noise. A target that
is not here (`jettison targets doctor`) is told and left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.alignment import Network
from targets.board import board
from targets.estimate import Estimate, estimate, kernels_of
from targets.measure import Measurement, RunnerError
from targets.runners import Asked, measure_on, runner_of
from toolchain.model import load
from toolchain.profile import profile
from toolchain.tables import FORMATS, show
from toolchain.workload import size, works

CUTS = {"whole": None, "half of the units": "units<=50%", "a tenth of the units": "units<=10%"}
TARGETS = ("local", "qemu-a53")
ESTIMATED = ("rad750", "rad5545", "gr740", "pic64-hpsc")
PATIENCE_S = 1800.0


def cut(network: Network) -> dict[str, Path]:
    """What is kept -> file."""
    return {name: network.original()[0] if b is None else network.cut(b, "auto")[0] for name, b in CUTS.items()}


def sizes(files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """What is left in each file, whatever it runs on."""
    for name, path in files.items():
        counts = profile(load(path))
        yield {
            "kept": name,
            "params": counts.params,
            "MMAC": counts.macs / 1e6,
            "file MiB": path.stat().st_size / 2**20,
            "arena KiB": counts.arena_bytes / 2**10,
        }


def taken(target: str, files: dict[str, Path], runs: int | None) -> Iterator[dict[str, Any]]:
    """Rows of a target that runs models: measured or counted."""
    pairs = [(path, "ort") for path in files.values()]
    try:
        runs = None if runner_of(target) == "virtual" else runs
        found = measure_on(target, pairs, Asked(runs=runs, timeout_s=PATIENCE_S))
    except RunnerError as error:
        print(f"{target} left out: {error}", file=sys.stderr)
        return
    for name, m in zip(files, found, strict=True):
        yield ran(name, m, found[0])


def ran(kept: str, m: Measurement, whole: Measurement) -> dict[str, Any]:
    """A measurement's row."""
    over = m.peak_over_baseline_bytes
    return {
        "target": m.target,
        "grade": m.grade,
        "kept": kept,
        "an inference": f"{m.ns.p50 / 1e6:.4g} {m.millions} ±{100 * m.noise:.1f} %",
        "of whole": f"{100 * m.ns.p50 / whole.ns.p50:.1f} %",
        "memory": "–" if over is None else f"{over / 2**20:.1f} MiB over the runtime's",
    }


def expected(target: str, files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Rows of a board that is not here: intervals."""
    there = board(target)
    models = {name: load(path) for name, path in files.items()}
    found = {name: estimate(works(m), size(m), there, kernels_of(there)) for name, m in models.items()}
    whole = found["whole"]
    for name, e in found.items():
        ends = (100 * e.low_ns / whole.low_ns, 100 * e.high_ns / whole.high_ns)
        needed = size(models[name])
        yield {
            "target": target,
            "grade": e.grade,
            "kept": name,
            "an inference": f"{three_digits(e.low_ns / 1e6)} to {three_digits(e.high_ns / 1e6)} ms",
            "of whole": f"{min(ends):.1f} to {max(ends):.1f} %",  # low with low and high with high
            "memory": f"{4 * (needed.weights + needed.arena) / 2**20:.1f} MiB of weights and arena{fitting(e)}",
        }


def three_digits(number: float) -> str:
    """No more than an estimate can mean, and no exponents."""
    return f"{float(f'{number:.3g}'):,.10g}"


def fitting(found: Estimate) -> str:
    """Whether they fit, where the board's memory is known."""
    return "" if found.ram is None else ", fit" if found.ram.fits else ", too large"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msl5", type=Path, required=True, help="the network, as train_msl5 made it")
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    parser.add_argument("--estimated", nargs="*", default=ESTIMATED)
    parser.add_argument("--runs", type=int, help="of measured targets; 100 if not given")
    parser.add_argument("--format", choices=FORMATS, default="table")
    asked = parser.parse_args()
    if not asked.msl5.is_file():
        raise SystemExit(f"skipped: {asked.msl5} is not here. Train it: python -m benchmarks.reproduce.train_msl5")
    with tempfile.TemporaryDirectory(prefix="jettison-") as folder:
        files = cut(Network.read("MSL AlexNet-5", asked.msl5, Path(folder)))
        rows = [row for target in asked.targets for row in taken(target, files, asked.runs)]
        rows += [row for target in asked.estimated for row in expected(target, files)]
        if asked.format == "table":
            show(list(sizes(files)), asked.format)
            print()
        show(rows, asked.format)


if __name__ == "__main__":
    main()
