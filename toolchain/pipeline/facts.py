"""What a run found, as the JSON of its report and as one line for each stage."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targets.measure import Measurement
from toolchain.compress.budget import ON_TARGET, Term
from toolchain.compress.groups import Channels
from toolchain.compress.plan import Plan
from toolchain.compress.ranks import Ranks
from toolchain.model import Model
from toolchain.pipeline.cutting import Cut
from toolchain.pipeline.schedule import Judge, Walk
from toolchain.pipeline.scoring import STAGES, Scorer
from toolchain.profile import Profile


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
    terms = {"budget": plan.budget, "used": plan.used, "binding": list(plan.binding)}
    return {**terms, "align": plan.align, "groups": groups, "frozen": frozen, "costs": costs}


def proof_facts(walk: Walk) -> dict[str, Any]:
    """The JSON of the proof: of the round that is furthest from equal; every round has to pass."""
    proofs = [r.cut for r in walk.rounds if r.cut.proof is not None and not r.is_undone] or [walk.result]
    worst = max(proofs, key=lambda c: c.proof.max_rel if c.proof is not None else 0.0)
    assert worst.proof is not None
    passed = all(c.proof is not None and c.proof.passed for c in proofs)
    of = {"rounds": len(proofs), "approximate": worst.approximate and dataclasses.asdict(worst.approximate)}
    return dataclasses.asdict(worst.proof) | {"passed": passed} | of


def history_facts(cut: Cut, has_teacher: bool) -> dict[str, Any] | None:
    """The JSON of the training that the result went through."""
    if cut.history is None:
        return None
    epochs = [dataclasses.asdict(e) for e in cut.history.epochs]
    return {"epochs": epochs, "stopped": cut.history.stopped, "teacher": "the original" if has_teacher else None}


def schedule_facts(name: str, walk: Walk, judge: Judge | None, scorer: Scorer) -> dict[str, Any]:
    """The JSON of the rounds: what each was cut to, what was proven, and what it was worth afterwards."""
    rounds = []
    for r in walk.rounds:
        plan, proof = r.cut.plan, r.cut.proof
        rounds.append(
            {
                "round": r.number,
                "budget": plan.budget,
                "costs": {q: {"before": b, "after": a} for q, (b, a) in plan.costs.items()},
                "max_rel": None if proof is None else proof.max_rel,
                "passed": None if proof is None else proof.passed,
                "carried": list(r.cut.start.carried),
                "judged": r.accuracy,
                "undone": r.is_undone,
                "accuracy": [
                    {k: v for k, v in row.items() if k != "per_class"} for row in scorer.accuracies(r.cut.stages)
                ],
                "deviation": scorer.deviations(r.cut.stages),
            }
        )
    by = None if judge is None else {"about": judge.about, "before": judge.before, "floor": judge.floor}
    return {"name": name, "judge": by, "stopped": walk.stopped, "rounds": rounds}


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


def describe_ranks(ranks: Ranks, carried: Sequence[str] = ()) -> str:
    """The line of the rank stage."""
    f = ranks.facts
    gap = f.get("completeness_gap")
    parts = [str(f["criterion"]) + (f"/{f['target']}" if "target" in f else "")]
    if "trials" in f:
        parts.append(f"taken of {len(f['trials'])} tried")
    if f.get("steps"):
        parts.append(f"{f['steps']} nodes")
    parts.append(f"{f['samples']} samples")
    if gap is not None:
        parts.append(f"completeness gap {100 * gap:.2g} %")
    parts.append(f"{sum(int(d.sum()) for d in ranks.dead.values())} dead units")
    cuts = f.get("cuts", [])
    parts += [f"{c['cut']} by {c['backend']}" for c in cuts if not c["backend"].startswith("gradient")]
    parts += [f"{c['cut']}: {c['note']}" for c in cuts if c["note"]]
    parts += [f"{len(carried)} groups keep the scores of the last round ({', '.join(carried[:3])})"] if carried else []
    return " · ".join(parts)


def describe_model(counted: Profile, channels: Channels) -> str:
    """The line of the inspect stage."""
    removable = sum(len(g) for g in channels.groups)
    return (
        f"{counted.params:,} params · {quantity(counted.macs)}MAC · {counted.flash_bytes / 2**20:.1f} MiB · "
        f"{len(channels.groups)} groups, {removable:,} units removable"
    )


def describe_limits(limits: Sequence[Term]) -> str:
    """The line of the latency stage."""
    found = [f"{t.text} by macs<={t.limit:,.0f}" for t in limits if t.text.startswith(tuple(ON_TARGET))]
    return " · ".join(found) or "within the limit already"


def describe_plan(plan: Plan) -> str:
    """The line of the prune stage: widths, and which term binds at which share of its limit."""
    widths = " · ".join(f"{n} {b}→{a}" for n, (b, a) in plan.widths.items() if a < b) or "nothing to remove"
    return " · ".join([widths, *(f"{t} binds at {100 * plan.used[t]:.1f} %" for t in plan.binding)])


def describe_proof(cut: Cut) -> str:
    """The line of the verify stage."""
    proof, approximate = cut.proof, cut.approximate
    assert proof is not None
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


def describe_stage(stage: str, cut: Cut, scorer: Scorer) -> str:
    """The line of the recover or retrain stage."""
    refits, history = cut.refits, cut.history
    if stage == "retrain" and history is not None:
        told = f"{len(history.epochs) - 1} epochs, epoch {history.best.number} kept"
        parts = [told + (f" · {history.stopped}" if history.stopped else "")]
    else:
        solved = sum(r.ridge is not None for r in refits)
        parts = [f"least squares, {solved} of {len(refits)} layers" if refits else "none"]
        few = [f"{r.layer}: {r.note}" for r in refits if r.note]
        parts += few[:1] + ([f"and {len(few) - 1} layers more with few rows"] if few[1:] else [])
    for row in scorer.accuracies(cut.stages):
        steps = [row[k] for k in ("before", *STAGES)]
        parts.append(f"{row['data']} " + " → ".join(f"{100 * s:.1f}" for s in steps if s is not None) + " %")
    for row in scorer.deviations(cut.stages):
        steps = [row[k] for k in STAGES]
        parts.append(f"{row['data']} off by " + " → ".join(f"{100 * s:.3g}" for s in steps if s is not None) + " %")
    return " · ".join(parts)


def describe_files(emitted: Sequence[dict[str, Any]]) -> str:
    """The line of the export stage."""
    return " · ".join(f"{e['path']} {e['bytes'] / 2**20:.2f} MiB · max |Δ| {e['max_abs']:.1e}" for e in emitted)


def describe_drift(drift: dict[str, Any]) -> str:
    """The line of the drift stage."""
    if drift["why_not"]:
        return f"explanations were not compared: {drift['why_not']}"
    told = {k: "–" if drift[k] is None else f"{drift[k]:.2f}" for k in ("rank_correlation", "iou", "other_samples")}
    same = drift["same_answer"]
    parts = [f"heatmaps of {drift['n']} samples", f"rank correlation {told['rank_correlation']}", f"IoU {told['iou']}"]
    parts += [f"same answer {100 * same:.1f} %"] if same is not None else []
    return " · ".join(parts)


def describe_rows(rows: Sequence[Measurement]) -> str:
    """The line of the bench stage."""
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return (
        " · ".join(
            f"{b.runtime} {b.ns.p50 / 1e6:.3g} → {a.ns.p50 / 1e6:.3g} {a.millions}"
            + ("" if a.target == "local" else f" on {a.target}")
            for b, a in pairs
        )
        or "not asked for"
    )
