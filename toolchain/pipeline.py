"""The main job: rank, plan, prune, prove, recover, emit, measure, report; each a function from values to a value."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from targets.measure import Measurement, RunnerError, as_row, measure_side_by_side
from toolchain import __version__, emit
from toolchain.compress.attribution import Progress, Workers
from toolchain.compress.criteria import CRITERIA, Evidence, rank
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import Plan, make_plan, save_plan
from toolchain.compress.ranks import Ranks, save_ranks
from toolchain.compress.recover import Refit, recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.emit import EmissionCheck
from toolchain.errors import RunnerFailed, UsageError
from toolchain.evaluate import Accuracy, answers, deviation, evaluate
from toolchain.files import check_new, write_atomic, write_text
from toolchain.model import Model, load, save
from toolchain.profile import Profile, profile
from toolchain.report.page import render
from toolchain.verify import Proof, approximation, compare, probes, prove

FORMATS = ("onnx", "tflite")
PROOF_SAMPLES = 64
CHECK_SAMPLES = 64


@dataclass(frozen=True)
class Job:
    """What `jettison compress` was asked for."""

    model: Path
    out: Path
    budget: str
    calibration: Samples | None
    held_out: tuple[Samples, ...] = ()  # looked at for the report only, never to choose
    criterion: str = "ig"
    align: str = "auto"
    keep: tuple[str, ...] = ()
    approximate: bool = False
    layers: str = "*"
    steps: int = 16
    samples: int = 256
    target: str | None = None
    recover: bool = True
    formats: tuple[str, ...] = FORMATS
    runs: int = 100
    warmup: int = 10
    seed: int = 0
    threads: int = 1
    max_memory: int | None = None
    workers: Workers = field(default_factory=Workers)
    sampled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    force: bool = False
    arguments: tuple[str, ...] = ()


@dataclass
class Log:
    """Says each stage when it is done, and remembers it for the report."""

    say: Callable[[str, str, float], None]
    stages: list[dict[str, Any]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def done(self, name: str, text: str) -> None:
        """A stage ended with this result."""
        seconds = time.perf_counter() - self.begun
        self.stages.append({"name": name, "text": text, "seconds": round(seconds, 3)})
        self.say(name, text, seconds)
        self.begun = time.perf_counter()


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
    plan = make_plan(model, channels, ranks.scores, ranks.dead, job.budget, job.align, job.keep)
    removed = plan.labels(channels)
    pruned = prune(model, channels, removed)
    log.done("prune", " · ".join(f"{n} {b}→{a}" for n, (b, a) in plan.widths.items() if a < b) or "nothing to remove")
    real = None if job.calibration is None else job.calibration.balanced(PROOF_SAMPLES, job.seed)
    proven = (model, channels, removed, pruned, probes(model) if real is None else real.inputs, job.threads)
    proof, approximate = prove(*proven), approximation(*proven)
    log.done("verify", describe_proof(proof, approximate))
    final, refits = pruned, []
    if job.recover and job.calibration is not None:
        final, refits = recover(
            model,
            pruned,
            channels,
            removed,
            job.calibration.inputs,
            seed=job.seed,
            threads=job.threads,
            progress=progress,
        )
    accuracy = accuracies(job, model, pruned, final if refits else None)
    deviations = unlabelled(job, model, pruned, final if refits else None)
    log.done("recover", describe_recovery(refits, accuracy, deviations))
    emitted = [dataclasses.asdict(e) for e in emission(job, final, results)]
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
            "after": model_facts(final, profile(final), "model.onnx", *size_and_hash(results["onnx"])),
        },
        "ranking": ranking_facts(ranks, channels, plan),
        "plan": plan_facts(plan, ranks, channels),
        "verify": dataclasses.asdict(proof)
        | {"passed": proof.passed, "approximate": approximate and dataclasses.asdict(approximate)},
        "recovery": [dataclasses.asdict(r) for r in refits],
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


# ---- stages --------------------------------------------------------------------------------------------------------
def outputs_of(job: Job) -> dict[str, Path]:
    """Where the results go; refuses before any work what could not be written after it."""
    unknown = set(job.formats) - set(FORMATS)
    if unknown:
        raise UsageError(f"unknown format '{min(unknown)}'", way_out=f"Use {', '.join(FORMATS)}")
    if "onnx" not in job.formats:
        raise UsageError("the result is an ONNX file first", way_out="Use --to onnx,tflite or --to onnx")
    if job.criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{job.criterion}'", way_out=f"Use one of {', '.join(CRITERIA)}")
    if CRITERIA[job.criterion][1] and job.calibration is None:
        raise UsageError(
            f"criterion '{job.criterion}' needs samples", way_out="Give --data, or use --criterion magnitude"
        )
    job.out.mkdir(parents=True, exist_ok=True)
    names = {"onnx": "model.onnx", "tflite": "model.tflite", "ranks": "ranks.npz", "plan": "plan.json"}
    names |= {"report.json": "report.json", "report.html": "report.html"}
    paths = {k: job.out / n for k, n in names.items()}
    for path in paths.values():
        if path.resolve() == job.model.resolve():
            raise UsageError(f"{path} would replace the model itself", way_out="Give another folder with -o")
        check_new(path, job.force)
    return paths


def ranked(job: Job, model: Model, channels: Channels, progress: Progress) -> Ranks:
    """Rank on a class-balanced part of the calibration samples; without labels the model's own answers stand in."""
    picked = None if job.calibration is None else job.calibration.balanced(job.samples, job.seed)
    if job.target in ("loss", "classes") and picked is not None and picked.labels is None:
        raise UsageError(
            f"'{picked.name}' has no labels, and --target {job.target} is about them",
            way_out="Leave --target out to rank by the model's own answers, or use --target answer",
        )
    labels, told = own_or_given_labels(model, picked, job.threads)
    evidence = Evidence(
        model, channels, {} if picked is None else picked.inputs, labels, job.steps, job.target, job.layers,
        job.seed, job.threads, job.max_memory, job.workers, job.sampled, progress,
    )  # fmt: skip
    found = rank(job.criterion, evidence)
    return dataclasses.replace(found, facts=found.facts | {"labels": told})


def own_or_given_labels(
    model: Model, samples: Samples | None, threads: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Labels of the samples, or the model's own answers, and which of the two."""
    if samples is None:
        return np.zeros(0, np.int64), "none"
    if samples.labels is not None:
        return samples.labels, "given"
    chosen = [y.reshape(len(y), -1).argmax(axis=1) for y, *_ in answers(model, samples, threads)]
    return np.concatenate(chosen), "the model's own answers"


def accuracies(job: Job, dense: Model, pruned: Model, recovered: Model | None) -> list[dict[str, Any]]:
    """One row for each labelled set: before, after pruning, after recovery."""
    rows = []
    sets = [s for s in (job.calibration, *job.held_out) if s is not None and s.labels is not None]
    for samples in sets:
        found = [evaluate(m, samples, job.threads) if m is not None else None for m in (dense, pruned, recovered)]
        rows.append(accuracy_row(samples, *found))  # type: ignore[arg-type]
    return rows


def unlabelled(job: Job, dense: Model, pruned: Model, recovered: Model | None) -> list[dict[str, Any]]:
    """One row for each set without labels: how far the answers are from the original's."""
    return [
        {
            "data": samples.name,
            "n": len(samples),
            "after_prune": deviation(dense, pruned, samples, job.threads),
            "after_recover": None if recovered is None else deviation(dense, recovered, samples, job.threads),
        }
        for samples in (job.calibration, *job.held_out)
        if samples is not None and samples.labels is None
    ]


def accuracy_row(samples: Samples, before: Accuracy, pruned: Accuracy, recovered: Accuracy | None) -> dict[str, Any]:
    """The JSON of one set."""

    def share(a: Accuracy | None, k: int) -> float | None:
        return None if a is None else a.per_class[k][1] / a.per_class[k][0]

    names = dict(enumerate(samples.classes))
    return {
        "data": samples.name,
        "n": before.n,
        "before": before.share,
        "after_prune": pruned.share,
        "after_recover": None if recovered is None else recovered.share,
        "after_retrain": None,
        "per_class": [
            {
                "class": names.get(k, str(k)), "n": n, "before": share(before, k),
                "after_prune": share(pruned, k), "after_recover": share(recovered, k),
            }
            for k, (n, _) in before.per_class.items()
        ],
    }  # fmt: skip


def emission(job: Job, final: Model, results: dict[str, Path]) -> list[EmissionCheck]:
    """Write the asked-for files and compare each, as it lies on disk, with onnxruntime on the graph in memory."""
    samples = dict(job.calibration.balanced(CHECK_SAMPLES, job.seed).inputs) if job.calibration else probes(final)
    rows = []
    if "onnx" in job.formats:
        path = results["onnx"]
        save(final, path, force=True)
        same = compare(final, load(path), samples, "graph in memory", threads=job.threads)
        size = path.stat().st_size
        rows.append(EmissionCheck(path.name, "onnx", size, same.samples, same.max_abs, same.max_rel, same.passed))
    if "tflite" in job.formats:
        path = results["tflite"]
        data = emit.to_tflite(final, {"tool": f"jettison {__version__}", "source_sha256": final.sha256}).data
        write_atomic(path, lambda file: file.write(data))
        rows.append(dataclasses.replace(emit.check(final, path, samples), path=path.name))
    return rows


def measured(job: Job, dense_lite: bytes | None, results: dict[str, Path]) -> list[Measurement]:
    """Latency and memory of the original and the result, turn by turn in child processes."""
    if job.runs < 1:
        return []
    with tempfile.TemporaryDirectory(prefix="jettison-") as folder:
        pairs = [(job.model, "ort"), (results["onnx"], "ort")]
        if dense_lite is not None:
            original = Path(folder) / f"{job.model.stem}.tflite"
            original.write_bytes(dense_lite)
            pairs += [(original, "litert"), (results["tflite"], "litert")]
        try:
            return measure_side_by_side(pairs, runs=job.runs, warmup=job.warmup, threads=job.threads)
        except RunnerError as error:
            raise RunnerFailed(str(error)) from error


def checks(proof: Proof, emitted: Sequence[dict[str, Any]], rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """What has to hold: the proof, every emitted file, and a result that is not slower than its original."""
    found = [
        check(
            "pruned equals masked",
            f"max |Δ|/max |y| ≤ {proof.tolerance:g}, same answers",
            f"{proof.max_rel:.1e}",
            proof.passed,
        )
    ]
    for e in emitted:
        found.append(
            check(f"{e['path']} equals the pruned graph", "max |Δ|/max |y| ≤ 1e-05", f"{e['max_rel']:.1e}", e["passed"])
        )
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        ratio = after.ns.min / before.ns.min
        limit = 1 + max(0.05, min(before.noise, 0.5))
        way_out = "" if ratio <= limit else "The cut is slower than its original. Use --align 16, or a smaller budget"
        found.append(
            check(
                f"latency of {Path(after.model).name}",
                f"≤ {limit:.2f} × the original's minimum",
                f"{ratio:.2f} ×",
                ratio <= limit,
                way_out,
            )
        )
    return found


def check(name: str, limit: str, value: str, passed: bool, message: str = "") -> dict[str, Any]:
    """One row."""
    return {"name": name, "limit": limit, "value": value, "passed": bool(passed), "message": message}


# ---- facts for the report ------------------------------------------------------------------------------------------
def model_facts(model: Model, counted: Profile, name: str, size: int, sha256: str) -> dict[str, Any]:
    """The JSON of one model."""
    return {
        "path": name,
        "sha256": sha256,
        "bytes": size,
        "params": counted.params,
        "macs": counted.macs,
        "flash_bytes": counted.flash_bytes,
        "arena_bytes": counted.arena_bytes,
        "opset": model.opset,
        "inputs": [{"name": n, "shape": ["N", *s]} for n, s in model.inputs.items()],
        "layers": [dataclasses.asdict(l) for l in counted.layers],
    }


def ranking_facts(ranks: Ranks, channels: Channels, plan: Plan) -> dict[str, Any]:
    """The JSON of the ranking, with every unit's score and whether it stays."""
    layers = []
    for g in channels.groups:
        if g.name in ranks.scores:
            kept = np.ones(len(g), bool)
            kept[list(plan.removed[g.name])] = False
            scores = [float(f"{s:.6g}") for s in ranks.scores[g.name]]
            cut = ", ".join(c for c, _ in g.cuts)
            layers.append(
                {
                    "group": g.name,
                    "cut": cut,
                    "units": len(g),
                    "dead": int(ranks.dead[g.name].sum()),
                    "scores": scores,
                    "kept": kept.tolist(),
                }
            )
    missing = {"target": "–", "steps": 0, "rule": "–", "baseline": 0, "completeness_gap": None}
    return missing | ranks.facts | {"layers": layers}


def plan_facts(plan: Plan, ranks: Ranks, channels: Channels) -> dict[str, Any]:
    """The JSON of the plan."""
    groups = []
    for g in channels.groups:
        before, after = plan.widths[g.name]
        dead = int(ranks.dead[g.name].sum()) if g.name in ranks.dead else 0
        why = "kept whole" if after == before else "least loss of importance for the budget"
        groups.append({"name": g.name, "before": before, "after": after, "dead": dead, "why": why, "kind": g.kind})
    frozen = [{"parameter": p, "axis": a, "reason": r} for p, a, r in channels.frozen()]
    costs = {q: {"before": b, "after": a} for q, (b, a) in plan.costs.items()}
    return {"budget": plan.budget, "align": plan.align, "groups": groups, "frozen": frozen, "costs": costs}


def host() -> dict[str, Any]:
    """The computer and the libraries that produced a result."""
    from importlib.metadata import version

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnx", "onnxruntime", "numpy", "ai-edge-litert")},
    }


def size_and_hash(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    raw = path.read_bytes()
    return len(raw), hashlib.sha256(raw).hexdigest()


# ---- one line for each stage ---------------------------------------------------------------------------------------
def quantity(number: float) -> str:
    """1.131 G, 24.3 M, 512 k."""
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return f"{number:.0f} "


def describe_ranks(ranks: Ranks) -> str:
    """The line of the rank stage."""
    f = ranks.facts
    gap = f.get("completeness_gap")
    parts = [str(f["criterion"]) + (f"/{f['target']}" if "target" in f else "")]
    if f.get("steps"):
        parts.append(f"{f['steps']} nodes")
    parts.append(f"{f['samples']} samples")
    if gap is not None:
        parts.append(f"completeness gap {100 * gap:.2g} %")
    parts.append(f"{sum(int(d.sum()) for d in ranks.dead.values())} dead units")
    cuts = f.get("cuts", [])
    parts += [f"{c['cut']} by {c['backend']}" for c in cuts if not c["backend"].startswith("gradient")]
    parts += [f"{c['cut']}: {c['note']}" for c in cuts if c["note"]]
    return " · ".join(parts)


def describe_proof(proof: Proof, approximate: Proof | None) -> str:
    """The line of the verify stage."""
    verdict = "ok" if proof.passed else "FAILED"
    told = (
        f"pruned == masked on {proof.samples} inputs · max |Δ| {proof.max_abs:.1e} · "
        f"same answer {proof.argmax_equal}/{proof.samples} · {verdict}"
    )
    if approximate is None:
        return told
    return (
        f"{told} · APPROXIMATE: norms see what is kept only, which changes answers by up to "
        f"{100 * approximate.max_rel:.2g} %, same answer {approximate.argmax_equal}/{approximate.samples}"
    )


def describe_recovery(
    refits: Sequence[Refit], accuracy: Sequence[dict[str, Any]], deviations: Sequence[dict[str, Any]]
) -> str:
    """The line of the recover stage."""
    parts = [f"least squares, {sum(r.ridge is not None for r in refits)} of {len(refits)} layers" if refits else "none"]
    for row in accuracy:
        steps = [row["before"], row["after_prune"], row["after_recover"]]
        parts.append(f"{row['data']} " + " → ".join(f"{100 * s:.1f}" for s in steps if s is not None) + " %")
    for row in deviations:
        steps = [row["after_prune"], row["after_recover"]]
        parts.append(f"{row['data']} off by " + " → ".join(f"{100 * s:.3g}" for s in steps if s is not None) + " %")
    return " · ".join(parts)


def describe_rows(rows: Sequence[Measurement]) -> str:
    """The line of the bench stage."""
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return (
        " · ".join(f"{b.runtime} {b.ns.p50 / 1e6:.3g} → {a.ns.p50 / 1e6:.3g} ms" for b, a in pairs) or "not asked for"
    )
