"""The command that cuts: a plan from one of four sources, and the surgery that carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.app import cli
from toolchain.cli.configured import unless_given
from toolchain.cli.options import ALIGN, APPROXIMATE, FLOOR, FORCE, KEEP, MODEL, SEED, SHAPE, parse_shapes
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.compress.budget import Floor
    from toolchain.compress.groups import Channels
    from toolchain.compress.plan import Plan
    from toolchain.model import Model

FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Wish:
    """What the command line says of the plan."""

    ranks_file: Path | None
    criterion: str
    budget: str | None
    align: str
    keep: tuple[str, ...]
    floors: tuple[Floor, ...]
    approximate: bool
    order: str
    plan_file: Path | None
    findings_file: Path | None
    weightless: bool
    plan_out: Path | None
    seed: int


@cli.command()
@MODEL
@click.option("--ranks", "ranks_file", type=FILE, help="Scores from jettison rank.")
@click.option("--criterion", default="magnitude", show_default=True, help="Without --ranks: magnitude or random.")
@click.option("--budget", help="Like params<=30%.")
@ALIGN
@KEEP
@FLOOR
@APPROXIMATE
@click.option(
    "--order",
    type=click.Choice(["lowest", "highest", "random"]),
    default="lowest",
    show_default=True,
    help="Which units of a group go first.",
)
@click.option("--plan", "plan_file", type=FILE, help="Use this plan.json instead of a budget.")
@click.option(
    "--from-findings",
    "findings_file",
    type=FILE,
    help="Cut what the findings.json of jettison explain names, no more and no less: dead, unselective and redundant "
    "kernels.",
)
@click.option(
    "--weightless", is_flag=True, help="No budget: what nothing reads with a weight that is not 0, and constants."
)
@click.option("--plan-out", type=FILE, help="Write the plan.")
@click.option(
    "--mask-only", is_flag=True, help="Multiply by zero instead of removing: what the pruned model must equal."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("-o", "--out", type=FILE, default=Path("pruned.onnx"), show_default=True)
@SHAPE
@SEED
@FORCE
def prune(
    model: Path, mask_only: bool, dry_run: bool, out: Path, shapes: tuple[str, ...], force: bool, **wish: Any
) -> None:
    """Plan and cut: what remains keeps its values bit for bit and its names."""
    from toolchain.compress import surgery
    from toolchain.compress.plan import save_plan
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.provenance import asked, signed

    instead = (wish["plan_file"], wish["findings_file"], wish["weightless"])
    wanted = Wish(**wish | {"budget": unless_given("budget", wish["budget"], *instead)})
    source = source_of(wanted)
    for path in () if dry_run else (out, wanted.plan_out):
        if path is not None:
            check_new(path, force)
            if path.resolve() == model.resolve():
                raise UsageError(f"{path} would replace the model itself", way_out="Give another name with -o")
    settings = DECIDING[source](wanted)
    original = asked(load(model, parse_shapes(shapes)), settings | ({"mask": True} if mask_only else {}))
    loaded, channels, plan = source(original, wanted)
    show_plan(plan)
    if dry_run:
        return
    act = surgery.mask if mask_only else surgery.prune
    save(signed(act(loaded, channels, plan.labels(channels)), surgery.digest(plan.removed)), out, force)
    click.echo(f"wrote {out}")
    if wanted.plan_out is not None:
        made_of: dict[str, Any] = {"settings": settings}
        if wanted.ranks_file is not None and source is by_budget:  # another source reads no ranks
            made_of["ranks_sha256"] = sha256(wanted.ranks_file.read_bytes()).hexdigest()
        save_plan(plan, wanted.plan_out, force, made_of)
        click.echo(f"wrote {wanted.plan_out}")


def show_plan(plan: Plan) -> None:
    """Widths and costs, before and after."""
    from toolchain.tables import show

    show([{"group": n, "before": b, "after": a} for n, (b, a) in plan.widths.items()], "table")
    costs = [(q, b, a, round(100 * a / b, 2) if b else None) for q, (b, a) in plan.costs.items()]
    show([dict(zip(("", "before", "after", "kept %"), row, strict=True)) for row in costs], "table")


# ---- where a plan comes from: the network it cuts, its channels and the plan ----------------------------------------
Source = Callable[["Model", Wish], "tuple[Model, Channels, Plan]"]


def source_of(wish: Wish) -> Source:
    """The one source that is asked for; raises UsageError for none and for several."""
    asked = {
        by_budget: wish.budget is not None,
        from_plan: wish.plan_file is not None,
        from_findings: wish.findings_file is not None,
        without_weights: wish.weightless,
    }
    found = [source for source, is_asked in asked.items() if is_asked]
    if len(found) != 1:
        raise UsageError(
            "a budget, a plan, findings or --weightless is needed, and one of them alone",
            way_out="Give --budget params<=30%, --plan plan.json, --from-findings findings.json or --weightless",
        )
    return found[0]


def by_budget(model: Model, wish: Wish) -> tuple[Model, Channels, Plan]:
    """The units of least score that meet a budget."""
    import numpy as np

    from toolchain.compress import criteria
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import make_plan
    from toolchain.compress.ranks import load_ranks

    assert wish.budget is not None
    channels = analyse(model, wish.approximate)
    if wish.ranks_file is not None:
        found = load_ranks(wish.ranks_file, model, channels)
    else:
        evidence = criteria.Evidence(model, channels, {}, np.zeros(0, np.int64), seed=wish.seed)
        found = criteria.rank("random" if wish.order == "random" else wish.criterion, evidence)
    scores = {n: -s for n, s in found.scores.items()} if wish.order == "highest" else found.scores
    if wish.order == "random":
        generator = np.random.default_rng(wish.seed)
        scores = {n: generator.permutation(len(s)).astype(float) for n, s in scores.items()}
    dead = found.dead if wish.order == "lowest" else {}
    return model, channels, make_plan(model, channels, scores, dead, wish.budget, wish.align, wish.keep, wish.floors)


def from_plan(model: Model, wish: Wish) -> tuple[Model, Channels, Plan]:
    """A plan that was made before."""
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import load_plan

    assert wish.plan_file is not None
    plan = load_plan(wish.plan_file, model)
    return model, analyse(model, plan.approximate), plan


def from_findings(model: Model, wish: Wish) -> tuple[Model, Channels, Plan]:
    """The plan that findings make; what they name and cannot go is told."""
    import numpy as np

    from toolchain.compress.budget import check_patterns
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import plan_without
    from toolchain.explain.findings import load_findings, removal

    assert wish.findings_file is not None
    channels = analyse(model, wish.approximate)
    check_patterns(wish.keep, [g.name for g in channels.groups], "--keep")
    gone = removal(load_findings(wish.findings_file, model), model, channels)
    for layer, kernels in gone.stuck.items():
        click.echo(f"stays     {layer}: {len(kernels)} kernels; jettison groups says why", err=True)
    kept = [g.units for g in channels.groups if any(fnmatch(g.name, k) for k in wish.keep)]
    labels = np.setdiff1d(gone.labels, np.concatenate([np.zeros(0, np.int64), *kept]))
    return model, channels, plan_without(model, channels, labels, "findings")


def without_weights(model: Model, wish: Wish) -> tuple[Model, Channels, Plan]:
    """The network with its constants in biases, and the plan without weightless units; what has to stay is told."""
    from toolchain.compress.groups import analyse
    from toolchain.compress.weightless import weightless

    clean, plan, stays = weightless(model, wish.align, wish.keep)
    if clean is not model and wish.plan_out is not None:
        told = "what constant units give went into biases, which no plan can say"
        raise UsageError(told, way_out="Leave --plan-out out")
    for stay in stays:
        click.echo(f"{stay.units} of the units of {stay.where} stay: {stay.reason}", err=True)
    return clean, analyse(clean), plan


# ---- what decides a plan besides the network and the files that it names ---------------------------------------------
def of_budget(wish: Wish) -> dict[str, Any]:
    """Of the units of least score."""
    names = ("budget", "align", "order", "keep", *(("criterion",) if wish.ranks_file is None else ()))
    floors = {"floors": [asdict(f) for f in wish.floors]} if wish.floors else {}
    return chosen(wish, *names) | floors


def of_findings(wish: Wish) -> dict[str, Any]:
    """Of what findings name."""
    assert wish.findings_file is not None
    from toolchain.validate import read_bytes

    findings = read_bytes(wish.findings_file, "a findings.json file")
    return chosen(wish, "keep") | {"findings_sha256": sha256(findings).hexdigest()}


def chosen(wish: Wish, *names: str) -> dict[str, Any]:
    """The command, its seed and these options."""
    approximate = {"approximate": True} if wish.approximate else {}
    return {"command": "prune", "seed": wish.seed} | {n: getattr(wish, n) for n in names} | approximate


DECIDING: dict[Source, Callable[[Wish], dict[str, Any]]] = {
    by_budget: of_budget,
    from_plan: chosen,
    from_findings: of_findings,
    without_weights: lambda wish: chosen(wish, "weightless", "align", "keep"),
}
