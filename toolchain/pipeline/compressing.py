"""The whole of the main job, from a loaded model to its report and files."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from targets.measure import as_row
from toolchain import __version__, emit
from toolchain.compress.attribution import Progress
from toolchain.compress.budget import COUNTED, ON_TARGET, parse_budget
from toolchain.compress.groups import analyse
from toolchain.compress.plan import save_plan
from toolchain.compress.ranks import save_ranks
from toolchain.explain.drift import drift_facts
from toolchain.files import write_json, write_text
from toolchain.model import Model
from toolchain.pipeline import facts
from toolchain.pipeline.cutting import Cut, Start, ranked, started
from toolchain.pipeline.delivery import checks, emission, measured
from toolchain.pipeline.job import Job, Log, outputs_of
from toolchain.pipeline.latency import check_targets, counted
from toolchain.pipeline.quantised import asked_of, check_rows, describe, quantised
from toolchain.pipeline.schedule import Judge, Walk, check_reached, judged, walked
from toolchain.pipeline.scoring import Scorer
from toolchain.pipeline.telling import settings
from toolchain.profile import profile
from toolchain.provenance import asked as asked_for
from toolchain.report.page import render


def compress(job: Job, model: Model, say: Callable[[str, str, float], None], progress: Progress) -> dict[str, Any]:
    """Do the whole job on a loaded model; returns the report, whose files lie in `job.out`.

    Raises any JettisonError of its stages before a file of the result is written; a failed proof, emission or latency
    is a failed check of the report (exit code 1), and its files are written for whoever has to find out why.
    """
    log = Log(say)
    results = outputs_of(job)
    terms = parse_budget(job.budget)
    check_targets(terms)
    job, judge = judged(job, model, terms)
    scorer = Scorer(model, job.sets, job.threads)
    channels, before = analyse(model, job.approximate), profile(model)
    asked = asked_of(job, results)
    # what cannot be emitted says so now
    lite = emit.to_tflite(model, profile=job.profile) if any(f.startswith("tflite") for f in job.formats) else None
    dense_lite = lite.data if lite is not None and "tflite" in job.formats else None
    log.done("inspect", facts.describe_model(before, channels))
    model = asked_for(model, settings(job))
    first = started(job, model, channels, ranked(job, model, channels, progress, terms))
    log.done("rank", facts.describe_ranks(first.ranks))
    limits = [t for t in counted(first, job.model, terms, job.threads, progress) if t.quantity in COUNTED]
    if any(t.quantity in ON_TARGET for t in terms):
        log.done("latency", facts.describe_limits(limits))
    walk = walked(job, first, limits, judge, scorer, progress, partial(tell, log, scorer))
    check_reached(walk, judge, terms)
    final = walk.result.final
    emitted = [dataclasses.asdict(e) for e in emission(job, final, results)]
    log.done("export", facts.describe_files(emitted))
    integers = quantised(asked, final)
    if integers:
        log.done("quantise", describe(integers))
    drift = drift_facts(model, final, job.calibration, job.seed, job.threads)
    log.done("drift", facts.describe_drift(drift))
    rows = measured(job, dense_lite, results)
    log.done("bench", facts.describe_rows(rows))
    report = {
        "schema": "jettison.report/1",
        "tool": {"name": "jettison", "version": __version__},
        "arguments": list(job.arguments),
        "settings": json.loads(model.settings),
        "seed": job.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": facts.host(),
        "models": {
            "before": facts.model_facts(model, before, job.model.name, job.model.stat().st_size, model.sha256),
            "after": facts.model_facts(final, profile(final), "model.onnx", *facts.size_and_hash(results["onnx"])),
        },
        **found(walk, first, scorer, judge, job),
        "emitted": emitted,
        "quantised": integers,
        "drift": drift,
        "bench": [as_row(r) | {"model": role} for r, role in zip(rows, ["before", "after"] * len(rows), strict=False)],
        "checks": checks(job, walk, judge, emitted, rows) + check_rows(integers),
        "stages": log.stages,
    }
    report["exit_code"] = 0 if all(c["passed"] for c in report["checks"]) else 1
    write(report, walk, first, results)
    return report


def tell(log: Log, scorer: Scorer, stage: str, cut: Cut, note: str = "") -> None:
    """Say what a stage of a cut came to."""
    if stage == "rank":
        log.done(stage, facts.describe_ranks(cut.start.ranks, cut.start.carried))
    elif stage == "verify":
        log.done(stage, facts.describe_proof(cut))
    elif stage in ("recover", "retrain"):
        log.done(stage, facts.describe_stage(stage, cut, scorer))
    else:
        log.done(stage, " · ".join(filter(None, [note, facts.describe_plan(cut.plan)])))


def found(walk: Walk, first: Start, scorer: Scorer, judge: Judge | None, job: Job) -> dict[str, Any]:
    """What the ranking, the plan, the proof and the samples say of the result."""
    cut = walk.result
    return {
        "ranking": facts.ranking_facts(first.ranks, first.channels, cut.plan),
        "plan": facts.plan_facts(cut.plan, first.ranks, first.channels),
        "verify": facts.proof_facts(walk),
        "recovery": [dataclasses.asdict(r) for r in cut.refits],
        "retraining": facts.history_facts(cut, job.teacher),
        "accuracy": scorer.accuracies(cut.stages),
        "deviation": scorer.deviations(cut.stages),
        "schedule": facts.schedule_facts(job.schedule, walk, judge, scorer),
    }


def write(report: dict[str, Any], walk: Walk, first: Start, results: dict[str, Path]) -> None:
    """Everything but the emitted networks."""
    save_ranks(first.ranks, results["ranks"], force=True)
    made_of = {"settings": report["settings"], "ranks_sha256": facts.size_and_hash(results["ranks"])[1]}
    save_plan(walk.result.plan, results["plan"], force=True, made_of=made_of)
    written = [p for k, p in results.items() if not k.startswith("report") and p.exists()]
    report["files"] = {p.name: facts.size_and_hash(p)[1] for p in written}
    write_json(results["report.json"], report)
    write_text(results["report.html"], render(report))
