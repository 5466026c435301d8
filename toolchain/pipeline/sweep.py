"""What accuracy costs: one network cut to many budgets, each proven, measured and looked at, and one figure of them.

Points of one-shot cuts share one ranking. With an iterative schedule each point starts from the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targets.locks import scratch
from targets.measure import Measurement, as_row, measure_side_by_side
from toolchain import __version__, emit
from toolchain.compress.attribution import Progress
from toolchain.compress.budget import Term
from toolchain.compress.groups import analyse
from toolchain.errors import OutOfReach, UsageError
from toolchain.explain.figure import Figure, Panels, Row, Series, Trade
from toolchain.explain.plots import drawn
from toolchain.explain.writing import as_csv
from toolchain.files import check_new, write_atomic, write_json, write_text
from toolchain.gate.taking import runners_as_errors
from toolchain.model import Model
from toolchain.pipeline import facts
from toolchain.pipeline.cutting import Cut, Start, attempted, ranked, restarted, started
from toolchain.pipeline.delivery import emission
from toolchain.pipeline.job import FLOATS, Job, Log, check_job
from toolchain.pipeline.scoring import STAGES, Scorer
from toolchain.pipeline.telling import settings
from toolchain.profile import profile
from toolchain.provenance import asked

SCHEMA = "jettison.sweep/1"
FILES = ("sweep.json", "sweep.csv", "sweep.svg", "sweep.png")
COSTS = {  # column -> (axis, what is divided by)
    "params": ("parameters", 1), "macs": ("MACs", 1), "flash_bytes": ("file [B]", 1), "ort_ns": ("latency [s]", 1e9)
}  # fmt: skip
SPOKEN = {"after_prune": "pruned", "after_recover": "recovered", "after_retrain": "retrained"}
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


@dataclass(frozen=True)
class Point:
    """One network of the sweep, the original among them (without a cut), with its files by format."""

    budget: str
    cut: Cut | None
    files: Mapping[str, Path]
    emitted: tuple[dict[str, Any], ...] = ()


def sweep(
    job: Job,
    model: Model,
    budgets: Sequence[Term],
    keep_files: bool,
    say: Callable[[str, str, float], None],
    progress: Progress,
) -> dict[str, Any]:
    """Cut a loaded model to each budget; returns sweep.json, which lies in `job.out` with its table and figure.

    A budget out of reach is left out and told; raises OutOfReach where all are, and what the stages raise.
    """
    check_job(job)
    if set(job.formats) - set(FLOATS):
        raise UsageError("a sweep emits onnx and tflite only", way_out="Quantise the point you choose: jettison export")
    job.out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        check_new(job.out / name, job.force)
    log = Log(say)
    channels, scorer = analyse(model, job.approximate), Scorer(model, job.sets, job.threads)
    lite = emit.to_tflite(model).data if "tflite" in job.formats else None
    log.done("inspect", facts.describe_model(profile(model), channels))
    of_points = settings_of(job, budgets)
    model = asked(model, of_points[max(of_points, key=len)])  # what the costliest says counts as bytes of each
    first = started(job, model, channels, ranked(job, model, channels, progress))
    log.done("rank", facts.describe_ranks(first.ranks))
    left_out: dict[str, str] = {}
    with scratch() as aside:
        folder = job.out / "points" if keep_files else aside
        files = {"onnx": job.model} | ({} if lite is None else {"tflite": aside / "original.tflite"})
        if lite is not None:
            files["tflite"].write_bytes(lite)
        points = [Point("original", None, files)]
        for term, cut in cuts(job, first, budgets, left_out, progress):
            points.append(delivered(job, term, cut, folder, of_points[term.text]))
            log.done("point", " · ".join([facts.describe_plan(cut.plan), facts.describe_stage("recover", cut, scorer)]))
        measured = latencies(job, points)
        log.done("bench", f"{len(measured)} files, turn by turn" if measured else "not asked for")
        rows = [row(p, model, scorer, measured) for p in points]
    there = {k for r in rows[1:] for k in r}
    rows[0] = {k: v for k, v in rows[0].items() if k in there}  # no columns of stages that no point went through
    quality, about = quality_of(rows, scorer)
    body = {
        "schema": SCHEMA,
        "tool": {"name": "jettison", "version": __version__},
        "arguments": list(job.arguments),
        "seed": job.seed,
        "host": facts.host(),
        "model": {"path": job.model.name, "sha256": model.sha256},
        "schedule": job.schedule,
        "ranking": first.ranks.facts,
        "rows": rows,
        "left_out": left_out,
        "bench": [as_row(m) | {"budget": name} for (name, _), m in measured.items()],
        "stages": log.stages,
    }
    write(job, body, figure_of(rows, quality, about))
    return body


def cuts(
    job: Job, first: Start, budgets: Sequence[Term], left_out: dict[str, str], progress: Progress
) -> Iterator[tuple[Term, Cut]]:
    """The network at each budget that can be reached, the largest first; others go to left_out with the reason."""
    start, reached = first, 0
    for term in sorted(budgets, key=lambda t: -t.limit):
        try:
            cut = attempted(job, first, start, [term], progress)
        except OutOfReach as error:
            left_out[term.text] = str(error)
            if not reached and term is min(budgets, key=lambda t: t.limit):
                raise
            continue
        reached += 1
        yield term, cut
        if job.schedule == "iterative":
            start = restarted(job, cut, progress)


def settings_of(job: Job, budgets: Sequence[Term]) -> dict[str, dict[str, Any]]:
    """{budget: what decides that point}: all budgets do where each point starts from the one before."""
    every = {"budgets": [t.text for t in budgets]} if job.schedule == "iterative" else {}
    return {t.text: settings(job) | {"command": "sweep", "budget": t.text} | every for t in budgets}


def delivered(job: Job, term: Term, cut: Cut, folder: Path, decided: Mapping[str, Any]) -> Point:
    """A point with its files written and compared with the graph in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "".join(c if c.isalnum() or c in ".-" else "-" for c in term.text.replace("<=", "-").rstrip("%"))
    files = {form: folder / f"{stem}.{form}" for form in job.formats}
    for path in files.values():
        check_new(path, job.force)
    emitted = emission(job, asked(cut.final, decided), files)
    return Point(term.text, cut, files, tuple(map(dataclasses.asdict, emitted)))


def latencies(job: Job, points: Sequence[Point]) -> dict[tuple[str, str], Measurement]:
    """{(budget, runtime): latency} of every file, all in turns in child processes."""
    if job.runs < 1:
        return {}
    runtimes = {"onnx": "ort", "tflite": "litert"}
    asked = [((p.budget, runtimes[form]), path) for form in job.formats for p in points if (path := p.files.get(form))]
    with runners_as_errors():
        found = measure_side_by_side(
            [(path, runtime) for (_, runtime), path in asked], runs=job.runs, warmup=job.warmup, threads=job.threads
        )
    return dict(zip([key for key, _ in asked], found, strict=True))


def row(point: Point, model: Model, scorer: Scorer, measured: Mapping[tuple[str, str], Measurement]) -> dict[str, Any]:
    """One line of the table: costs, latencies, and for each set its accuracy (or deviation) after each stage."""
    cut = point.cut
    counted = profile(model if cut is None else cut.final)
    found: dict[str, Any] = {
        "budget": point.budget,
        "params": counted.params,
        "macs": counted.macs,
        "flash_bytes": point.files["onnx"].stat().st_size,
        "arena_bytes": counted.arena_bytes,
    }
    found |= {f"{k[1]}_ns": m.ns.p50 for k, m in measured.items() if k[0] == point.budget}
    stages = {} if cut is None else cut.stages
    for sets, of, start in (
        (scorer.accuracies(stages), "accuracy", lambda r: r["before"]),
        (scorer.deviations(stages), "deviation", lambda r: 0.0),
    ):
        for r in sets:
            for stage in STAGES:
                share = start(r) if cut is None else r[stage]
                found |= {} if share is None else {f"{of} {r['data']} {stage}": share}
    if cut is not None and cut.proof is not None:
        found["proven"] = cut.proof.passed and all(e["passed"] for e in point.emitted)
        found["max_rel"] = cut.proof.max_rel
    return found


# ---- the figure ----------------------------------------------------------------------------------------------------
def quality_of(rows: Sequence[Mapping[str, Any]], scorer: Scorer) -> tuple[dict[str, str], str]:
    """{spoken stage: column} of the set that the figure shows (the last labelled one), and the words for it."""
    labelled = [s for s in scorer.sets if s.labels is not None]
    shown = (labelled or list(scorer.sets))[-1:]
    of = "accuracy" if labelled else "deviation"
    there = {k for r in rows[1:] for k in r}
    columns = {SPOKEN[k]: f"{of} {s.name} {k}" for s in shown for k in STAGES if f"{of} {s.name} {k}" in there}
    return columns, f"{of} on {shown[0].name} [%]" if shown else ""


def figure_of(rows: Sequence[Mapping[str, Any]], quality: Mapping[str, str], about: str) -> Figure | None:
    """Four small panels of what is had for what; None without samples."""
    panels = {axis: (column, unit) for column, (axis, unit) in COSTS.items() if all(column in r for r in rows)}
    if not quality or len(rows) < 2:
        return None
    charts = []
    for axis, (column, unit) in panels.items():
        x = np.array([r[column] for r in rows], np.float64) / unit
        scale, prefix = next(((s, p) for s, p in PREFIXES if x.max() >= s), PREFIXES[-1])
        named = axis.replace("[", f"[{prefix}") if "[" in axis else f"{axis} [{prefix}]" if prefix else axis
        lines = tuple(
            Series(stage, np.array([100 * r[c] for r in rows if c in r]), x[[c in r for r in rows]] / scale)
            for stage, c in quality.items()
        )
        charts.append(Trade(lines, named, about, is_better_low=about.startswith("deviation")))
    titles = tuple(axis.split(" [")[0] for axis in panels)
    return Figure(
        "sweep",
        "What accuracy costs",
        "",
        "Filled points are beaten by none in both. The original is the rightmost one.",
        Panels(tuple(charts), titles, columns=2),
    )


def write(job: Job, body: dict[str, Any], figure: Figure | None) -> None:
    """sweep.json, sweep.csv and, where there is something to draw, sweep.svg and sweep.png."""
    rows: list[Row] = body["rows"]
    write_json(job.out / "sweep.json", body, ensure_ascii=False)
    write_text(job.out / "sweep.csv", as_csv(rows))
    for form, content in drawn(figure).items() if figure is not None else ():
        write_atomic(job.out / f"sweep.{form}", lambda file, content=content: file.write(content))
