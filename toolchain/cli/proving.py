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

    from toolchain.model import Model
    from toolchain.pipeline.chain import Chain, Link

FILE = click.Path(path_type=Path)


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
    PRUNED is a folder that compress wrote, that is proven of all its files, and what was emitted equals its network.
    """
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.verify import probes

    if record_file is not None:
        check_new(record_file, force)
    reference = load(model, parse_shapes(shapes))
    inputs = probes(reference, seed=seed) if data is None else read_samples(data, reference, pixels).first(64).inputs
    chain = linked(model, reference, pruned, plan_file, ranks_file)
    found = {model.name: reference}
    if pruned.is_dir():
        found["model.onnx"] = load(pruned / "model.onnx", parse_shapes(shapes))
        tell_folder(chain, found["model.onnx"], dict(inputs), form)
    else:
        check_links([x for x in chain.links if x.said and chain.plan is not None])  # files may be from anywhere
        against, wanted = masked(reference, plan_file)
        tell(compared(wanted, pruned, dict(inputs), against, shapes, threads), pruned, against, form)
    if record_file is not None:
        write_record(record_file, chain, found)
        click.echo(f"wrote {record_file}", err=form != "table")


def linked(path: Path, model: Model, pruned: Path, plan_file: Path | None, ranks_file: Path | None) -> Chain:
    """The chain of a folder, or of the files that are given."""
    from toolchain.pipeline import chain

    first = chain.original(path, model)
    if pruned.is_dir():
        return chain.of_folder(first, pruned)
    ranks = None if ranks_file is None else chain.ranks(ranks_file)
    plan = None if plan_file is None else chain.plan(plan_file)
    file = chain.network(pruned)
    if pruned.suffix == ".tflite":
        return chain.Chain(first, ranks, plan, emitted=(file,))
    return chain.Chain(first, ranks, plan, file)


def tell_folder(chain: Chain, final: Model, inputs: dict[str, Any], form: str) -> None:
    """Print every link, and how far the emitted float file is off; raises GateFailed for what does not hold."""
    from toolchain import emit
    from toolchain.tables import show

    rows = [
        {"file": x.file, "of": x.source, "sha256": x.found[:12], "off by": None, "holds": x.passed} for x in chain.links
    ]
    checks = [emit.check(final, f.path, inputs) for f in chain.emitted if f.path.name == "model.tflite"]
    name = "model.onnx"
    rows += [{"file": "model.tflite", "of": name, "sha256": "", "off by": c.max_rel, "holds": c.passed} for c in checks]
    show(rows, form)
    check_links(chain.links)
    for check in (c for c in checks if not c.passed):
        raise GateFailed(f"{check.path} differs from {name} by {check.max_rel:.1e} of its largest output")


def check_links(links: Sequence[Link]) -> None:
    """Raise GateFailed for the first link that is broken."""
    for broken in (x for x in links if not x.passed):
        said = f"{broken.said[:12]}…" if broken.said else "nothing"
        found = f"{broken.found[:12]}…" if broken.found else "a plan that removes nothing"
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


def write_record(path: Path, chain: Chain, models: dict[str, Model]) -> None:
    """The bill of materials of a chain that holds."""

    from toolchain.files import write_json
    from toolchain.pipeline.record import record

    write_json(path, record(chain, models))
