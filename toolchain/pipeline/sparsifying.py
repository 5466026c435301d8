"""Unstructured to structured: rounds of magnitude pruning, and of each what is left when weightless units have gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import __version__
from toolchain.compress.groups import analyse
from toolchain.compress.plan import Plan, save_plan
from toolchain.compress.surgery import digest, prune
from toolchain.compress.weightless import Stay, weightless
from toolchain.data import Samples
from toolchain.errors import GateFailed
from toolchain.evaluate import evaluate
from toolchain.files import check_new, write_json
from toolchain.model import Model, save
from toolchain.profile import macs, params
from toolchain.provenance import signed
from toolchain.verify import Proof, compare, probes

if TYPE_CHECKING:
    from toolchain.retrain.magnitude import Round  # torch

SCHEMA = "jettison.sparsify/1"
FILES = ("sparse.onnx", "model.onnx", "plan.json", "rounds.json")


@dataclass(frozen=True)
class Structured:
    """A sparse network without its weightless units.

    clean   with its constants in biases: what `plan` belongs to
    proof   that the pruned network equals the sparse one
    """

    clean: Model
    plan: Plan
    stays: tuple[Stay, ...]
    pruned: Model
    proof: Proof


@dataclass(frozen=True)
class Result:
    """One round, what is left of it, and its share of right answers."""

    round: Round
    structured: Structured
    right: float | None

    @property
    def row(self) -> dict[str, Any]:
        """As a table tells it."""
        pruned, widths = self.structured.pruned, self.structured.plan.widths.values()
        return {
            "round": self.round.number,
            "weights": self.round.weights[0],
            "density %": round(100 * self.round.density, 2),
            "units": sum(after for _, after in widths),
            "params": params(pruned),
            "macs": macs(pruned),
            "bytes": len(pruned.to_bytes()),
            "right %": None if self.right is None else round(100 * self.right, 2),
        }


def structured(model: Model, align: str = "off", threads: int = 1) -> Structured:
    """Take out the units that are left without weights, and compare the answers on seeded probes.

    Raises GateFailed where they differ.
    """
    clean, plan, stays = weightless(model, align, threads=threads)
    clean = signed(clean)
    name = sha256(clean.to_bytes()).hexdigest()  # of the file that it is delivered as
    clean, plan = replace(clean, sha256=name), replace(plan, sha256=name)
    channels = analyse(clean)
    pruned = signed(prune(clean, channels, plan.labels(channels)), digest(plan.removed))
    proof = compare(model, pruned, probes(model), "sparse network", threads=threads)
    if not proof.passed:
        raise GateFailed(
            f"without its weightless units the network differs by {proof.max_rel:.1g}", way_out="Report it"
        )
    return Structured(clean, plan, tuple(stays), pruned, proof)


def sparsified(
    series: Iterable[Round],
    validation: Samples | None,
    max_drop: float | None = None,
    align: str = "off",
    threads: int = 1,
    say: Callable[[str, str, float], None] = lambda stage, text, seconds: None,
) -> tuple[Result, list[dict[str, Any]]]:
    """The round to deliver, and a row for each.

    max_drop  points of accuracy that the delivered one may lose at most: the sparsest such; None: the last round
    """
    chosen, first, rows = None, None, []
    for r in series:
        right = (
            None if validation is None or validation.labels is None else evaluate(r.model, validation, threads).share
        )
        result = Result(r, structured(r.model, align, threads), right)
        first = result if first is None else first
        loss = 0.0 if right is None or first.right is None else 100 * (first.right - right)
        chosen = result if max_drop is None or loss <= max_drop else chosen
        rows.append(result.row)
        say("round", " · ".join(f"{k} {v}" for k, v in rows[-1].items() if v is not None), 0.0)
    assert chosen is not None
    return chosen, rows


def check_files(out: Path, force: bool) -> None:
    """Raise UsageError where a file of the result exists and may not be replaced."""
    for name in FILES:
        check_new(out / name, force)


def deliver(chosen: Result, rows: list[dict[str, Any]], source: Model, about: dict[str, Any], out: Path) -> list[Path]:
    """Write the chosen round, sparse and dense, the plan that leads from one to the other, and all rows as JSON."""
    sparse, dense, plan, told = (out / name for name in FILES)
    save(chosen.structured.clean, sparse, force=True)
    save(chosen.structured.pruned, dense, force=True)
    save_plan(chosen.structured.plan, plan, force=True)
    body = {
        "schema": SCHEMA,
        "tool": f"jettison {__version__}",
        "source_sha256": source.sha256,
        **about,
        "delivered": chosen.round.number,
        "rounds": rows,
        "stays": [asdict(s) for s in chosen.structured.stays],
        "proof": asdict(chosen.structured.proof),
    }
    write_json(told, body, allow_nan=False)
    return [sparse, dense, plan, told]
