"""Files of a result: written, compared with the graph in memory, measured beside their original, and judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targets.locks import scratch
from targets.measure import Measurement, measure_side_by_side
from toolchain import emit
from toolchain.compress.budget import Term, parse_budget
from toolchain.compress.plan import Plan
from toolchain.emit import EmissionCheck
from toolchain.emit.run import onnx_outputs
from toolchain.errors import BadInput
from toolchain.gate.taking import runners_as_errors
from toolchain.model import Model, load, said_in, save
from toolchain.pipeline.job import Job
from toolchain.pipeline.latency import on_target, told
from toolchain.pipeline.schedule import Judge, Walk
from toolchain.pipeline.telling import metadata
from toolchain.provenance import signed
from toolchain.verify import Proof, compare, probes

CHECK_SAMPLES = 64
LEAST_SLACK = {"measured": 0.05, "counted": 0.005}


def emission(job: Job, final: Model, results: dict[str, Path]) -> list[EmissionCheck]:
    """Write the asked-for files and compare each, as it lies on disk, with onnxruntime on the graph in memory."""
    samples = dict(job.sets[0].balanced(CHECK_SAMPLES, job.seed).inputs) if job.sets else probes(final)
    answers = onnx_outputs(final, samples, job.threads)  # what cannot run or be said leaves no file
    lite = emit.to_tflite(final, metadata(final, job.sets), profile=job.profile) if "tflite" in job.formats else None
    if not all(np.isfinite(y).all() for y in answers.values() if y.dtype.kind == "f"):
        what = "its weights overflow, or it needs real samples" if not job.sets else "its weights or samples overflow"
        raise BadInput(f"answers samples with infinity or NaN: {what}", str(job.model), "Give samples with --data")
    rows = []
    if "onnx" in job.formats:
        path = results["onnx"]
        save(signed(final if job.opset is None else said_in(final, job.opset)), path, force=True)
        same = compare(final, load(path), samples, "graph in memory", threads=job.threads)
        size = path.stat().st_size
        rows.append(EmissionCheck(path.name, "onnx", size, same.samples, same.max_abs, same.max_rel, same.passed))
    if lite is not None:
        path = results["tflite"]
        lite.write(path)
        rows.append(dataclasses.replace(emit.check(final, path, samples), path=path.name))
    return rows


def measured(job: Job, dense_lite: bytes | None, results: dict[str, Path]) -> list[Measurement]:
    """Latency and memory of the original and the result, turn by turn in child processes."""
    if job.runs < 1:
        return []
    with scratch() as folder:
        pairs = [(job.model, "ort"), (results["onnx"], "ort")]
        if dense_lite is not None:
            original = folder / f"{job.model.stem}.tflite"
            original.write_bytes(dense_lite)
            pairs += [(original, "litert"), (results["tflite"], "litert")]
        with runners_as_errors():
            rows = measure_side_by_side(pairs, runs=job.runs, warmup=job.warmup, threads=job.threads)
    elsewhere = {t.target: t for t in parse_budget(job.budget) if t.target not in (None, "local")}
    for term in elsewhere.values():
        rows += on_target(term, job.model, results["onnx"], job.threads)
    return rows


def checks(
    job: Job, walk: Walk, judge: Judge | None, emitted: Sequence[dict[str, Any]], rows: Sequence[Measurement]
) -> list[dict[str, Any]]:
    """What has to hold: every proof, every term of the budget, every emitted file, and a result that is not slower."""
    cuts = [r.cut for r in walk.rounds if not r.is_undone] or [walk.result]
    found = [proof_check(c.proof) for c in cuts if c.proof is not None]
    found += [budget_check(t, walk.result.plan, rows) for t in parse_budget(job.budget) if not walk.stopped]
    if judge is not None:
        last = next((r.accuracy for r in reversed(walk.rounds) if not r.is_undone), judge.before) or 0.0
        limit = f"≥ {100 * judge.floor:.4g} %"
        found.append(check(judge.about, limit, f"{100 * last:.4g} %", judge.accepts(last)))
    for e in emitted:
        found.append(
            check(f"{e['path']} equals the pruned graph", "max |Δ|/max |y| ≤ 1e-05", f"{e['max_rel']:.1e}", e["passed"])
        )
    return [c for c in found if c is not None] + [speed_check(b, a) for b, a in zip(rows[::2], rows[1::2], strict=True)]


def proof_check(proof: Proof) -> dict[str, Any]:
    """A cut equals the masked network."""
    limit = f"max |Δ|/max |y| ≤ {proof.tolerance:g}, same answers"
    return check("pruned equals masked", limit, f"{proof.max_rel:.1e}", proof.passed)


def budget_check(term: Term, plan: Plan, rows: Sequence[Measurement]) -> dict[str, Any] | None:
    """A term of the budget holds; None where this run has no figure for it."""
    if term.quantity in plan.costs:
        before, after = plan.costs[term.quantity]
        bound = term.bound(before)
        return check(f"budget {term.text}", f"≤ {bound:,.0f}", f"{after:,}", after <= bound)
    taken = [row for row in rows if row.target == term.target]
    if taken:
        before, after = taken[:2]
        limit = term.bound(before.ns.p50) * (1 + slack(after))
        allowed = f"≤ {told(limit, term)} with {100 * slack(after):.0f} % for noise"
        return check(f"budget {term.text}", allowed, told(after.ns.p50, term), after.ns.p50 <= limit)
    return None


def speed_check(before: Measurement, after: Measurement) -> dict[str, Any]:
    """A result is not slower than its original."""
    ratio, limit = after.ns.min / before.ns.min, 1 + slack(before)
    way_out = "" if ratio <= limit else "The cut is slower than its original. Use --align 16, or a smaller budget"
    return check(
        f"latency of {Path(after.model).name}" + ("" if after.target == "local" else f" on {after.target}"),
        f"≤ {limit:.2f} × the original's minimum",
        f"{ratio:.2f} ×",
        ratio <= limit,
        way_out,
    )


def slack(measured: Measurement) -> float:
    """What a latency, or a count, may be off by before that means something."""
    return max(LEAST_SLACK[measured.grade], min(measured.noise, 0.5))


def check(name: str, limit: str, value: str, passed: bool, message: str = "") -> dict[str, Any]:
    """One row."""
    return {"name": name, "limit": limit, "value": value, "passed": bool(passed), "message": message}
