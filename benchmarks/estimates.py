"""How far estimates are from published rows: leave one board out, calibrate on one of its rows, predict the others.

    python -m benchmarks.estimates          the table over every board and row
    python -m benchmarks.estimates --fit    constants for targets/kernels.py, and CPI of the boards

For every submission and each of its four rows: the kernels' constants are fitted to the other submissions' rows, CPI to
that one row, and each other row is predicted. "unseen model" leaves the predicted model out of the fit as well, so that
neither the board nor the model was seen: what a user's own network meets. "kernels known" fits to submissions with the
same library; "any kernels" to all of them. "not calibrated" takes no row of the board: CPI is that of the other boards
with its core, half as much again either side, as the descriptors of Cortex-M boards have it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import geometric_mean, median

import numpy as np

from benchmarks.mlperf_tiny import MODELS, Submission, size_of, submissions
from targets.board import Board, Figure, Range
from targets.estimate import SPREAD, Calibration, Estimate, Work, calibrated, estimate
from targets.kernels import Kernels, fitted
from toolchain.tables import show

PRIOR = (1.0, 4.0, 1.5, 10.0)  # convolution, depthwise, dense per product; per value written
UNIT = "STM32L4R5"  # whose cycles are the instructions of Cortex-M kernels
MORE = SPREAD  # what a descriptor's CPI allows either side of the boards it was taken from
HELD = 0.1  # how firmly ratios are held to the prior: four models cannot tell four constants apart


def counts(models: Sequence[str]) -> np.ndarray:
    """What multiplies each constant [model, constant]."""
    kinds = ("convolution", "depthwise", "dense")
    return np.array(
        [
            [*(sum(w.macs for w in MODELS[m] if w.kind == kind) for kind in kinds), sum(map(values, MODELS[m]))]
            for m in models
        ],
        float,
    )


def values(work: Work) -> int:
    """Values that an op pays for, as `targets.estimate.instructions` has it."""
    return work.outputs if work.macs else max(work.inputs, work.outputs)


def fit(rows: Sequence[Submission], models: Sequence[str]) -> np.ndarray:
    """Constants [4], convolution 1, that with a CPI of each submission's own come closest to its cycles.

    Least squares of the logarithms by Gauss-Newton, with HELD times the squared distance of theirs from PRIOR's.
    """
    a, prior = counts(models), np.log(PRIOR)
    cycles = np.log([[s.ns[m] * 1e-9 * s.clock_hz for m in models] for s in rows])
    free = np.eye(4)[:, 1:]  # convolution stays 1
    x = prior.copy()
    for _ in range(100):
        parts = a * np.exp(x)
        total = parts.sum(1)
        centre = np.eye(len(models)) - 1 / len(models)  # a submission's own CPI takes the mean
        slope = centre @ (parts / total[:, None]) @ free
        left = (cycles - np.log(total)) @ centre
        step = np.linalg.solve(
            len(rows) * slope.T @ slope + HELD * np.eye(3), slope.T @ left.sum(0) - HELD * free.T @ (x - prior)
        )
        x += free @ np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-9:
            break
    return np.exp(x)


def scale(row: Submission, constants: np.ndarray) -> float:
    """Cycles of a submission per instruction with these constants, geometric mean over the models."""
    cycles = np.array([row.ns[m] * 1e-9 * row.clock_hz for m in MODELS])
    return geometric_mean((cycles / (counts(list(MODELS)) @ constants)).tolist())


def relative(rows: Sequence[Submission]) -> tuple[np.ndarray, dict[str, float]] | None:
    """Constants of one library in cycles of the STM32L4R5, and CPI of its boards; None without a row of that board."""
    return relative_to(rows, fit(rows, list(MODELS))) if rows else None


def relative_to(rows: Sequence[Submission], ratios: np.ndarray) -> tuple[np.ndarray, dict[str, float]] | None:
    """The same for constants that are fitted already."""
    unit = next((scale(s, ratios) for s in rows if s.chip == UNIT), None)
    return None if unit is None else (ratios * unit, {s.name: scale(s, ratios) / unit for s in rows})


def bare(row: Submission, cpi: Range | None = None) -> Board:
    """The submission's board with nothing known but its clock, and CPI where it is given."""
    clock = Figure(value=row.clock_hz, source="MLPerf Tiny system description", confidence="high")
    words = {"name": row.name, "title": row.name, "core": row.core, "isa": "armv7e-m"}
    return Board(**words, endian="little", runner="none", clock_hz=clock, cpi=cpi)


@dataclass(frozen=True)
class Prediction:
    """A row that was predicted from another."""

    row: Submission
    model: str
    ratio: float  # predicted over measured
    covered: bool


def predicted(row: Submission, seen: str, model: str, kernels: Kernels) -> Prediction:
    """`model` on the row's board from `seen` alone, by the code that users get."""
    board = bare(row)
    known = calibrated(MODELS[seen], size_of(MODELS[seen]), board, kernels, row.ns[seen], seen)
    return judged(row, model, estimated(model, board, kernels, known))


def estimated(model: str, board: Board, kernels: Kernels, known: Calibration | None) -> Estimate:
    """A reference model's interval."""
    return estimate(MODELS[model], size_of(MODELS[model]), board, kernels, known)


def judged(row: Submission, model: str, found: Estimate) -> Prediction:
    """An interval against the published row; its middle is the geometric one."""
    middle = (found.low_ns * found.high_ns) ** 0.5
    return Prediction(row, model, middle / row.ns[model], found.low_ns <= row.ns[model] <= found.high_ns)


def left_out(rows: Sequence[Submission], *, same_kernels: bool, unseen_model: bool) -> list[Prediction]:
    """Every row of every board from each other row of it; boards whose kernels nobody else has are left out."""
    found = []
    for row in rows:
        others = [s for s in rows if s is not row and (s.kernels == row.kernels or not same_kernels)]
        if not others:
            continue
        for seen, model in permutations(MODELS, 2):
            models = [m for m in MODELS if m != model or not unseen_model]
            found.append(predicted(row, seen, model, fitted("", *fit(others, models), source="")))
    return found


def not_calibrated(rows: Sequence[Submission], *, unseen_model: bool) -> list[Prediction]:
    """Every row from other boards alone, where its library ran on the STM32L4R5 and its core on another chip."""
    found = []
    for row in rows:
        libraries = {k: [s for s in rows if s.kernels == k and s is not row] for k in {s.kernels for s in rows}}
        seen = [known for each in libraries.values() if (known := relative(each)) is not None]
        kin = {s.name for s in rows if s.core == row.core and s.chip not in (row.chip, UNIT)}
        cpis = [cpi for _, boards in seen for name, cpi in boards.items() if name in kin]
        if not cpis:
            continue
        board = bare(row, Range(low=min(cpis) / MORE, high=max(cpis) * MORE, source="other boards", confidence="low"))
        for model in MODELS:
            models = [m for m in MODELS if m != model or not unseen_model]
            own = libraries[row.kernels]
            known = relative_to(own, fit(own, models)) if own else None
            if known is not None:
                found.append(judged(row, model, estimated(model, board, fitted("", *known[0], source=""), None)))
    return found


def summary(name: str, found: Sequence[Prediction], rows: int) -> dict[str, object]:
    """One line of the table."""
    off = sorted(max(p.ratio, 1 / p.ratio) for p in found)
    return {
        "what": name,
        "boards": rows,
        "rows": len(found),
        "median error %": 100 * median(abs(p.ratio - 1) for p in found),
        "9 of 10 within ×": off[int(0.9 * len(off))],
        "covered %": 100 * sum(p.covered for p in found) / len(found),
    }


def table(form: str) -> None:
    """Errors and coverage, over all and by kernels and board."""
    rows = submissions()
    cases = {
        "kernels known": {"same_kernels": True, "unseen_model": False},
        "kernels known, unseen model": {"same_kernels": True, "unseen_model": True},
        "any kernels": {"same_kernels": False, "unseen_model": False},
        "any kernels, unseen model": {"same_kernels": False, "unseen_model": True},
    }
    found = {name: left_out(rows, **case) for name, case in cases.items()}
    found["not calibrated"] = not_calibrated(rows, unseen_model=False)
    found["not calibrated, unseen model"] = not_calibrated(rows, unseen_model=True)
    title = f"calibrated intervals are ÷× {SPREAD:g}"
    show([summary(name, each, len({p.row.name for p in each})) for name, each in found.items()], form, title)
    strict = found["kernels known, unseen model"]
    by: list[tuple[str, Callable[[Prediction], str]]] = [
        ("kernels", lambda p: p.row.kernels),
        ("model", lambda p: p.model),
    ]
    for title, key in by:
        groups = {k: [p for p in strict if key(p) == k] for k in sorted({key(p) for p in strict})}
        lines = [summary(k, each, len({p.row.name for p in each})) for k, each in groups.items()]
        show(lines, form, f"\nkernels known, unseen model, by {title}")


def constants(form: str) -> None:
    """What targets/kernels.py holds: constants of each library in cycles of the STM32L4R5, and CPI of each board."""
    rows = submissions()
    lines, boards = [], []
    for kernels in dict.fromkeys(s.kernels for s in rows):
        own = [s for s in rows if s.kernels == kernels]
        known = relative(own)
        assert known is not None  # every library at hand ran on it
        names = ("convolution", "depthwise", "dense", "element")
        lines.append({"kernels": kernels, "boards": len(own)} | dict(zip(names, known[0].tolist(), strict=True)))
        boards += [{"board": s.name, "core": s.core, "kernels": kernels, "CPI": known[1][s.name]} for s in own]
    show(lines, form)
    show(sorted(boards, key=lambda b: (str(b["core"]), float(b["CPI"]))), form, "\nCPI, the STM32L4R5's being 1")


def main() -> None:
    """Print the table or the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--format", choices=["table", "json", "csv", "md"], default="table")
    given = parser.parse_args()
    (constants if given.fit else table)(given.format)


if __name__ == "__main__":
    main()
