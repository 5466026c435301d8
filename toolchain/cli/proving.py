"""The command that proves: values, and the chain of hashes that a network came by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import FORCE, FORMAT, MODEL, PIXELS, SEED, SHAPE, THREADS, parse_shapes, read_samples
from toolchain.errors import GateFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolchain.data import Samples
    from toolchain.model import Model
    from toolchain.pipeline.chain import Chain, Link

FILE = click.Path(path_type=Path)
TOLD = {"": "a plan that removes nothing", "not there": "not there"}


@cli.command()
@MODEL
@click.argument("pruned", type=FILE)
@click.option("--plan", "plan_file", type=FILE, help="Compare PRUNED with MODEL masked by this plan.json.")
@click.option("--ranks", "ranks_file", type=FILE, help="The ranks.npz that the plan was made from.")
@click.option("--data", type=FILE, help="Samples to compare on; seeded noise without.")
@click.option("--record", "record_file", type=FILE, help="Write a CycloneDX 1.6 bill of materials of the chain.")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORMAT
@FORCE
def verify(
    model: Path,
    pruned: Path,
    plan_file: Path | None,
    ranks_file: Path | None,
    data: Path | None,
    record_file: Path | None,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    form: str,
    force: bool,
) -> None:
    """Prove that PRUNED equals MODEL: masked by a plan, or as it is; a .tflite is run in LiteRT.

    With a plan, each file has to name the one that it was made from: ranks MODEL, the plan both, PRUNED the plan. Where
    PRUNED is a folder that a command wrote, that is proven of all its files, and what was emitted answers as its
    network does; what is not there is said.
    """
    from toolchain.data import Samples
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.verify import probes

    if record_file is not None:
        check_new(record_file, force)
    reference = load(model, parse_shapes(shapes))
    samples = Samples("seeded noise", probes(reference, seed=seed), None)
    if data is not None:
        samples = read_samples(data, reference, pixels).first(64)
    chain = linked(model, reference, pruned, plan_file, ranks_file)
    found = {chain.dense.path: reference}
    if pruned.is_dir():
        tell_folder(chain, found, samples, form, threads)
    else:
        check_links([x for x in chain.links if x.said and chain.plan is not None])  # files may be from anywhere
        against, wanted = masked(reference, plan_file)
        tell(compared(wanted, pruned, dict(samples.inputs), against, shapes, threads), pruned, against, form)
    if record_file is not None:
        write_record(record_file, chain, reference)
        click.echo(f"wrote {record_file}", err=form != "table")


def linked(path: Path, model: Model, pruned: Path, plan_file: Path | None, ranks_file: Path | None) -> Chain:
    """The chain of a folder, or of the files that are given."""
    from toolchain.pipeline import chain

    first = chain.original(path, model)
    if pruned.is_dir():
        return chain.of_folder(first, pruned)
    ranks = None if ranks_file is None else chain.ranks(ranks_file)
    plan = None if plan_file is None else chain.plan(plan_file)
    return chain.Chain(first, ranks, plan, (chain.network(pruned),))


def tell_folder(chain: Chain, models: dict[Path, Model], samples: Samples, form: str, threads: int) -> None:
    """Print every link, and how far the answers of each network are off; raises GateFailed for what does not hold."""
    from toolchain.pipeline.answering import answered
    from toolchain.tables import show

    rows = [line(x.file, x.source, holds=x.passed, sha256=x.found[:12]) for x in chain.links]
    rows += [line(file, of, note="not there" if not of else f"no {of}") for file, of in chain.lacking()]
    ran = [] if any(not x.passed for x in chain.links) else list(answered(chain, models, samples, threads))
    rows += [line(a.file, a.of, a.off_by, a.same, a.passed, note=a.note) for a in ran]
    show(rows, form)
    check_links(chain.links)
    for a in (a for a in ran if a.passed is False):
        of_answers = None if a.same is None else f"in {100 * (1 - a.same):.0f} % of its answers"
        by = of_answers or f"by {a.off_by:.1e} of its largest output"
        way_out = "Make it again, or give real samples with --data"
        raise GateFailed(f"{a.file} differs from {a.of} {by}", way_out=way_out)


def line(
    file: str,
    of: str,
    off_by: float | None = None,
    same: float | None = None,
    holds: bool | None = None,
    sha256: str = "",
    note: str = "",
) -> dict[str, Any]:
    """One row of the table."""
    share = None if same is None else round(100 * same, 3)
    names = ("file", "of", "sha256", "off by", "same answer %", "holds", "note")
    return dict(zip(names, (file, of, sha256, off_by, share, holds, note), strict=True))


def check_links(links: Sequence[Link]) -> None:
    """Raise GateFailed for the first link that is broken."""
    for broken in (x for x in links if not x.passed):
        said = f"{broken.said[:12]}…" if broken.said else "nothing"
        found = TOLD.get(broken.found, f"{broken.found[:12]}…")
        raise GateFailed(
            f"the chain breaks at {broken.source} -> {broken.file}: {broken.file} names {said}, it is {found}",
            way_out="One of the two was changed or is of another run: make it again",
        )


def masked(model: Model, plan_file: Path | None) -> tuple[str, Model]:
    """What is compared with: MODEL, or MODEL without the units of a plan."""
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import load_plan
    from toolchain.compress.surgery import mask
    from toolchain.verify import NARROWED

    if plan_file is None:
        return "MODEL", model
    plan = load_plan(plan_file, model)
    channels = analyse(model, plan.approximate)
    told = f"MODEL masked by the plan{NARROWED if plan.approximate else ''}"
    return told, mask(model, channels, plan.labels(channels))


def compared(
    reference: Model, path: Path, inputs: dict[str, Any], against: str, shapes: tuple[str, ...], threads: int
) -> dict[str, Any]:
    """How far the answers of a file are from a network's."""
    from dataclasses import asdict

    from toolchain.model import load
    from toolchain.verify import compare

    if path.suffix == ".tflite":
        from toolchain import emit
        from toolchain.validate import read_bytes

        read_bytes(path, "a model")
        return asdict(emit.check(reference, path, inputs))
    proof = compare(reference, load(path, parse_shapes(shapes)), inputs, against, threads=threads)
    return asdict(proof) | {"passed": proof.passed}


def tell(checked: dict[str, Any], path: Path, against: str, form: str) -> None:
    """Print a comparison; raises GateFailed where it failed."""
    from toolchain.tables import show

    show([{"": k, "value": v} for k, v in checked.items()] if form == "table" else [checked], form)
    if not checked["passed"]:
        raise GateFailed(f"{path} differs from {against} by {checked['max_rel']:.1e} of its largest output")


def write_record(path: Path, chain: Chain, reference: Model) -> None:
    """The bill of materials of a chain that holds, with the inputs and outputs of its ONNX files."""
    from toolchain.files import write_json
    from toolchain.model import load
    from toolchain.pipeline.record import record

    networks = {n.path.name: load(n.path) for n in chain.networks if n.path.suffix == ".onnx"}
    write_json(path, record(chain, networks | {chain.dense.path.name: reference}))
