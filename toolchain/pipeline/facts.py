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
from toolchain.compress.groups import Channels
from toolchain.compress.plan import Plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import Refit
from toolchain.model import Model
from toolchain.profile import Profile
from toolchain.verify import Proof


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
