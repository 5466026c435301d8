"""The whole of the main job, from a loaded model to its report and files."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from typing import Any

from targets.measure import as_row
from toolchain import __version__, emit
from toolchain.compress.attribution import Progress
from toolchain.compress.groups import analyse
from toolchain.compress.plan import save_plan
from toolchain.compress.ranks import save_ranks
from toolchain.files import write_text
from toolchain.model import Model
from toolchain.pipeline.cutting import planned, proven, ranked, recovered
from toolchain.pipeline.delivery import checks, emission, measured
from toolchain.pipeline.facts import (
    describe_proof,
    describe_ranks,
    describe_recovery,
    describe_rows,
    host,
    model_facts,
    plan_facts,
    quantity,
    ranking_facts,
    size_and_hash,
)
from toolchain.pipeline.job import Job, Log, outputs_of
from toolchain.pipeline.scoring import accuracies, unlabelled
from toolchain.profile import profile
from toolchain.report.page import render


def compress(job: Job, model: Model, say: Callable[[str, str, float], None], progress: Progress) -> dict[str, Any]:
    """Do the whole job on a loaded model; returns the report, whose files lie in `job.out`.

    Raises any JettisonError of its stages before a file of the result is written; a failed proof, emission or latency
    is a failed check of the report (exit code 1), and its files are written for whoever has to find out why.
    """
    log = Log(say)
    results = outputs_of(job)
    channels, before = analyse(model, job.approximate), profile(model)
    dense_lite = emit.to_tflite(model).data if "tflite" in job.formats else None  # what cannot be emitted says so now
    removable = sum(len(g) for g in channels.groups)
    log.done(
        "inspect",
        f"{before.params:,} params · {quantity(before.macs)}MAC · {before.flash_bytes / 2**20:.1f} MiB · "
        f"{len(channels.groups)} groups, {removable:,} units removable",
    )
    ranks = ranked(job, model, channels, progress)
    log.done("rank", describe_ranks(ranks))
    cut = planned(job, model, channels, ranks, job.budget)
    plan = cut.plan
    log.done("prune", " · ".join(f"{n} {b}→{a}" for n, (b, a) in plan.widths.items() if a < b) or "nothing to remove")
    proof, approximate = proven(job, model, channels, cut)
    log.done("verify", describe_proof(proof, approximate))
    cut = recovered(job, model, channels, cut, progress)
    accuracy, deviations = accuracies(job, model, cut.stages), unlabelled(job, model, cut.stages)
    log.done("recover", describe_recovery(cut.refits, accuracy, deviations))
    emitted = [dataclasses.asdict(e) for e in emission(job, cut.final, results)]
    log.done(
        "export", " · ".join(f"{e['path']} {e['bytes'] / 2**20:.2f} MiB · max |Δ| {e['max_abs']:.1e}" for e in emitted)
    )
    rows = measured(job, dense_lite, results)
    log.done("bench", describe_rows(rows))
    report = {
        "schema": "jettison.report/1",
        "tool": {"name": "jettison", "version": __version__},
        "arguments": list(job.arguments),
        "seed": job.seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": host(),
        "models": {
            "before": model_facts(model, before, job.model.name, job.model.stat().st_size, model.sha256),
            "after": model_facts(cut.final, profile(cut.final), "model.onnx", *size_and_hash(results["onnx"])),
        },
        "ranking": ranking_facts(ranks, channels, plan),
        "plan": plan_facts(plan, ranks, channels),
        "verify": dataclasses.asdict(proof)
        | {"passed": proof.passed, "approximate": approximate and dataclasses.asdict(approximate)},
        "recovery": [dataclasses.asdict(r) for r in cut.refits],
        "accuracy": accuracy,
        "deviation": deviations,
        "emitted": emitted,
        "bench": [as_row(r) | {"model": role} for r, role in zip(rows, ["before", "after"] * len(rows), strict=False)],
        "checks": checks(proof, emitted, rows),
        "stages": log.stages,
    }
    report["exit_code"] = 0 if all(c["passed"] for c in report["checks"]) else 1
    save_ranks(ranks, results["ranks"], force=True)
    save_plan(plan, results["plan"], force=True)
    write_text(results["report.json"], json.dumps(report, indent=1) + "\n")
    write_text(results["report.html"], render(report))
    return report
